"""What a process of ours says of itself now and then: shared memory, threads, open files.

Stages have no page of metrics of their own; their dispatcher shows what they last told it. A report travels
as a notice does: one signed datagram, and one that gets lost is no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from python_backend.wire.chain_transport import ChainTransport
from python_backend.wire.routes import RoutedTransport
from python_backend.wire.shm.transport import ShmTransport
from python_backend.wire.signing.keys import Keys
from python_backend.wire.signing.signatures import text_datagram, text_in
from python_backend.wire.transport import Transport

_MAGIC = b"PPR1"
PERIOD_S = 2.0


@dataclass(frozen=True, slots=True)
class SelfReport:
    """`sender`: the Triton model. arena_*: bytes of the shared memory that it sends
    batches from. refused: tickets that were not for it, or not genuine."""

    sender: str
    arena_free: int
    arena_taken: int
    arena_quarantined: int
    threads: int
    open_files: int
    refused: int = 0


def report_of(sender: str, transport: Transport, refused: int = 0) -> SelfReport:
    """Of this process."""
    hops = transport.inner if isinstance(transport, ChainTransport | RoutedTransport) else transport
    free, taken, quarantined = hops.arena_bytes() if isinstance(hops, ShmTransport) else (0, 0, 0)
    return SelfReport(
        sender=sender,
        arena_free=free,
        arena_taken=taken,
        arena_quarantined=quarantined,
        threads=len(os.listdir("/proc/self/task")),
        open_files=len(os.listdir("/proc/self/fd")),
        refused=refused,
    )


class Reporter:
    """A thread that sends a report every PERIOD_S, until closed."""

    def __init__(self, make: Callable[[], SelfReport], send: Callable[[bytes], None], keys: Keys) -> None:
        self._make = make
        self._send = send
        self._keys = keys
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            with contextlib.suppress(OSError):
                self._send(encode(self._make(), self._keys))


class Reports:
    """The last report of each sender. Written by one thread, read by others."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._last: dict[str, SelfReport] = {}

    def take(self, datagram: bytes) -> None:
        """Anything that is not a genuine report is left alone."""
        report = decode(datagram, self._keys)
        if report is not None:
            self._last[report.sender] = report

    def last(self) -> Mapping[str, SelfReport]:
        """By sender."""
        return dict(self._last)


def encode(report: SelfReport, keys: Keys) -> bytes:
    """The datagram of a report."""
    return text_datagram(_MAGIC, json.dumps(asdict(report), separators=(",", ":")), keys)


def decode(datagram: bytes, keys: Keys) -> SelfReport | None:
    """The report in a datagram; None for anything that is not a genuine one."""
    body = text_in(datagram, _MAGIC, keys)
    if body is None:
        return None
    try:
        return SelfReport(**json.loads(body))
    except (ValueError, TypeError, RecursionError):
        return None
