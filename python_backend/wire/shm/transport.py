"""Hops within a host: tensors through the server's shared-memory file, a small message as control.
Everything else goes the next best way.

Rules: the message names the place (in the signed ticket) and the number of frames; the receiver maps the file
itself, so Triton copies nothing. A batch that is small, finds no free place, or whose receiver cannot map the
file (it says so) travels inside its message.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from planner.manifest import RAGGED_INPUT, SHARED_INPUT
from planner.profile import TensorSpec
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.http.transport import HttpTransport
from python_backend.wire.ragged import EMPTY_ELEMENT
from python_backend.wire.shm.arena import Arena, Span, padded_size
from python_backend.wire.shm.file import ArenaError, SharedFile
from python_backend.wire.shm.layout import SMALLEST_BYTES, MemoryLayout
from python_backend.wire.ticket_codec import SharedFrames, WireTicket
from python_backend.wire.transport import (
    Awaited,
    Outputs,
    Pieces,
    Target,
    Transport,
    size_of,
    worker_of,
)

_CONTROL = (SHARED_INPUT,)
_BLIND_US: Final = 5_000_000
"""How long a receiver that could not map the file is sent bodies before it is tried again."""
_QUICK_BYTES: Final = 1 << 20
"""What begin() copies at most: some 0.1 ms."""


_Message = tuple[WireTicket, Sequence[TensorSpec], Pieces, int, float]
"""As HttpTransport.send takes it."""


class _Written:
    """A batch that lies in the arena since it is here."""

    def __init__(
        self, place: Span, wire: WireTicket, file: SharedFile, tensors: Pieces, batch: int, timeout_s: float
    ) -> None:
        self.place = place
        self.wire = wire
        self.tensors = tensors
        self.batch = batch
        self.timeout_s = timeout_s
        self.since_us = now_us()
        frames = SharedFrames(file.name, file.inode, place.offset, place.generation)
        ragged = wire.carries_frames
        control: Pieces = [[EMPTY_ELEMENT * batch]] if ragged else [[bytes(batch)]]
        specs = RAGGED_INPUT if ragged else _CONTROL
        self.message: _Message = wire.in_memory(frames), specs, control, batch, timeout_s
        """What tells its receiver where it lies."""


class Near(Transport, Protocol):
    """What messages within a host travel with (HttpTransport)."""

    def send(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Outputs:
        """Have a batch served whose tensors, of these specs, come along. Raises HopFailure."""

    def begin_send(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Awaited | None:
        """The same, as begin() does it."""


class ShmTransport:
    """See the module. Thread-safe."""

    def __init__(
        self,
        near: Near,
        targets: Mapping[str, Target],
        arena: Arena,
        smallest_bytes: int = SMALLEST_BYTES,
    ) -> None:
        self._near = near
        self._smallest_bytes = smallest_bytes
        self._targets = targets
        self._arena = arena
        self._blind_until_us: dict[str, int] = {}

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        written = self._write(wire, tensors, batch, timeout_s)
        if written is None:
            return self._near.infer(wire, tensors, batch, timeout_s)
        return self._outputs(written, functools.partial(self._near.send, *written.message))

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        size = size_of(tensors)
        if size < self._smallest_bytes:
            return self._near.begin(wire, tensors, batch, timeout_s)
        written = self._write(wire, tensors, batch, timeout_s) if size <= _QUICK_BYTES else None
        if written is None:
            return None
        try:
            begun = self._near.begin_send(*written.message)
        except BaseException:
            self._arena.give_back(written.place)
            raise
        awaited = begun or functools.partial(self._near.send, *written.message)
        return functools.partial(self._outputs, written, awaited)

    def arena_bytes(self) -> tuple[int, int, int]:
        """Free, taken, in quarantine."""
        self._arena.end_old_quarantines(now_us())
        return self._arena.free, self._arena.taken, self._arena.quarantined

    def close(self) -> None:
        """See Transport."""
        self._near.close()
        self._arena.close()

    def _write(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> _Written | None:
        """The batch in the arena; None if it cannot go this way."""
        worker = worker_of(wire)
        if size_of(tensors) < self._smallest_bytes or not self._targets[worker].same_host:
            return None
        if wire.chained and not wire.carries_frames:
            return None  # an ensemble's inputs are tensors
        if self._blind_until_us.get(worker, 0) > now_us():
            return None
        place = self._arena.take(padded_size([sum(map(len, pieces)) for pieces in tensors]))
        if place is None:
            return None
        try:
            self._arena.write(place, tensors)
        except BaseException:
            self._arena.give_back(place)
            raise
        return _Written(place, wire, self._arena.file, tensors, batch, timeout_s)

    def _outputs(self, written: _Written, awaited: Awaited) -> Outputs:
        """Of a batch in the arena, whose place is free afterwards, or in quarantine."""
        worker = worker_of(written.wire)
        try:
            outputs = awaited()
        except HopFailure as failure:
            self._after_failure(written.place, worker, failure)
            if failure.kind is not FailureKind.NO_MEMORY or failure.worker != worker:
                raise
        except BaseException:
            self._arena.quarantine(written.place, worker)  # it may have been sent
            raise
        else:
            self._arena.give_back(written.place)
            self._arena.answered(worker, written.since_us)
            return outputs
        self._blind_until_us[worker] = now_us() + _BLIND_US
        return self._near.infer(written.wire, written.tensors, written.batch, written.timeout_s)

    def _after_failure(self, place: Span, worker: str, failure: HopFailure) -> None:
        """Free the place if its reader has surely read it or never will."""
        if failure.worker == worker and failure.kind is FailureKind.TIMED_OUT:
            self._arena.quarantine(place, worker)
            return
        self._arena.give_back(place)
        if failure.kind in (FailureKind.UNREACHABLE, FailureKind.DEAD_STUB):
            self._arena.dead(failure.worker)


def with_memory(
    near: HttpTransport,
    targets: Mapping[str, Target],
    layout: MemoryLayout,
    sender: str,
    log: Callable[[str], None],
) -> Transport:
    """`near`, with shared memory where it pays and fits. `sender`: the Triton model."""
    share = layout.shares.get(sender)
    if share is None:
        return near
    try:
        return ShmTransport(near, targets, Arena(SharedFile(layout.name, layout.size, share), share))
    except (ArenaError, OSError) as error:
        log(f"{sender}: hops go without shared memory, which is slower: {error}")
        return near
