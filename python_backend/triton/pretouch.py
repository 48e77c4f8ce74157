"""Memory that a flood would have a server take is taken at its start, as Java does with AlwaysPreTouch.

A server gives back nothing of its heap (model_repo_generator/heap.py). So what it takes here is there for all
requests that come later: a limit that is too low shows at the start, and the first flood meets no new pages.

How: bodies of HTTP requests that stay a byte short of what they said. Triton keeps what has come of them, on
the heap that all its threads share, and lets go of it when the connection ends; no model sees them, nothing
counts them.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from python_backend.dispatcher.frames.room import memory_free

BODY_BYTES: Final = 64 << 20
"""The largest that newer releases take by themselves (`--http-max-input-size`)."""
BODIES: Final = 2
"""With frames of 48 KB, 5,000 callers at once had a server take up to 116 MiB."""
_SHARE_OF_FREE: Final = 16
_PIECE: Final = bytes(1 << 20)
_PATIENCE_S: Final = 60.0
_AGAIN_S: Final = 0.25
_SEND_S: Final = 10.0
_READ_S: Final = 0.05
"""Until the server has read what was sent last, so that another body begins where this one ends."""


def start_pretouch(server_pid: int, host: str, port: int, warn: Callable[[str], None]) -> threading.Thread:
    """Have this server take its memory as soon as it listens there for HTTP; nothing where it had as much
    before, or where that is more than a sixteenth of what is free. warn: told why it could not be done.
    """
    thread = threading.Thread(target=_pretouch, args=(server_pid, host, port, warn), daemon=True)
    thread.start()
    return thread


def _pretouch(server_pid: int, host: str, port: int, warn: Callable[[str], None]) -> None:
    size = BODIES * BODY_BYTES
    if size > memory_free() // _SHARE_OF_FREE or most_resident_bytes(server_pid) >= size:
        return
    try:
        with ExitStack() as connections:
            for _ in range(BODIES):
                send_body(connections.enter_context(_connected(host, port)), BODY_BYTES)
    except OSError as error:
        warn(f"memory for floods is taken as they come, not at the start: {host}:{port}: {error}")


def _connected(host: str, port: int) -> socket.socket:
    """Raises OSError when nobody has listened for a minute."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return socket.create_connection((host, port), timeout=_SEND_S)
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(_AGAIN_S)


def send_body(connection: socket.socket, size: int) -> None:
    """All of a request with such a body but its last byte. Raises OSError."""
    head = f"POST /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode())
    for sent in range(0, size - 1, len(_PIECE)):
        connection.sendall(_PIECE[: size - 1 - sent])
    time.sleep(_READ_S)


def most_resident_bytes(pid: int) -> int:
    """That the process has had at a time."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
