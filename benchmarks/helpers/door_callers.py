"""Many callers at once, in a process of its own: `python -m benchmarks.helpers.door_callers ADDRESS COUNT`
with a serialised request on its standard input. It ends when all are answered, or when it is ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import Any, Final

import grpc

from python_backend.wire import kserve

_LIMIT_S: Final = 20.0
_NICE: Final = 10
"""A flood comes from machines of its own; here it has two cores in common with what it floods."""


def flood(address: str, request: bytes, count: int, stop: threading.Event) -> None:
    """Make so many calls and wait until they are answered, or until `stop` is set."""
    command = [sys.executable, "-m", "benchmarks.helpers.door_callers", address, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as callers:
        assert callers.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            callers.stdin.write(request)
            callers.stdin.close()
        while not stop.wait(0.1) and callers.poll() is None:
            pass
        callers.terminate()


def main() -> None:
    """Of the process."""
    os.nice(_NICE)
    address, count = sys.argv[1], int(sys.argv[2])
    request = sys.stdin.buffer.read()
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(kserve.INFER_METHOD)
        calls = [call.future(request, timeout=_LIMIT_S) for _ in range(count)]
        for each in calls:
            each.exception()


if __name__ == "__main__":
    main()
