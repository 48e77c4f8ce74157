"""Batches on their way: sends them, waits for their answers on threads of their own, and says how each ended.

Rules
- A batch that can be sent without waiting is sent by the thread that decided it; the one that awaits its
  answer wakes up meanwhile.
- A batch for which the entry's uplink is reserved later is sent then: two that are under way at once share
  the link, and the first would come as late as the second.
- Every batch ends once: in `served`, with all outputs for all of its frames, or in `failed`, called by the
  thread that awaited it.
- A batch that was given up before its time to be sent has come is not sent: its uplink is for others.
- What was sent and finds no thread to wait for it is waited for as soon as one is to be had: until then it
  holds its shared memory and its connection.
- The ticket on the wire carries the true deadline, which is later than the core's, and all that stages must
  know of the rest of the way.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import NO_FENCES, Fence
from python_backend.dispatcher.frames.frame import Frame
from python_backend.scheduler.actions import Ticket
from python_backend.wire import graces
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.threads import Crew
from python_backend.wire.ticket_codec import Way, WireTicket
from python_backend.wire.transport import Awaited, Outputs, Pieces, Transport

_MOST_HOPS: Final = 512
_SOON_US: Final = 500
"""What is to be sent so soon is sent at once: waking a thread takes about as long."""

Served = Callable[[Ticket, Sequence[Frame], Outputs], None]
Failed = Callable[[Ticket, Sequence[Frame], HopFailure], None]


class Hops:
    """See the module. Thread-safe."""

    def __init__(
        self,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        transport: Transport,
        served: Served,
        failed: Failed,
        log: Callable[[str], None],
        is_given_up: Callable[[int], bool] = lambda batch: False,
        fences: Mapping[str, Fence] = NO_FENCES,
    ) -> None:
        """is_given_up: whether nobody waits for a batch any more, though its hop goes on. fences: by worker;
        empty where there is one entry.
        """
        self.transport = transport
        self._fences = fences
        self._manifest = manifest
        self._outputs = [spec.name for spec in entry.outputs]
        self._servers = {worker.name: worker.server for _, worker in entry.served.workers()}
        self._pipelines = entry.served.pipelines
        self._sizes = [spec.bytes_per_frame for spec in entry.network_inputs]
        self._counts_links = entry.served.entry is not None
        self._grace_us = graces.entry_us(entry.serves_late)
        self._served = served
        self._failed = failed
        self._log = log
        self._is_given_up = is_given_up
        self._unawaited: deque[Awaited] = deque()
        """Of batches that were sent, and that no thread was to be had for."""
        self._crew = Crew("hop", _MOST_HOPS, lambda error: log(f"hop failed: {error!r}"))

    def send(self, ticket: Ticket, frames: Sequence[Frame]) -> None:
        """Have a batch of these frames served; waits for nothing."""
        wire = self._wire(ticket, frames)
        pieces: Pieces = [[frame.data] for frame in frames] if wire.carries_frames else self._tensors(frames)
        begun = self._begin(wire, pieces, ticket, frames)
        awaited = begun or functools.partial(self._infer, wire, pieces, ticket, frames)
        try:
            self._crew.submit(functools.partial(self._await, ticket, frames, awaited))
        except RuntimeError as error:  # no thread is to be had
            if begun is not None:
                self._unawaited.append(begun)
            self._failed(
                ticket, frames, HopFailure(FailureKind.REFUSED, 0, ticket.hops[0].worker, str(error))
            )
            return
        while self._unawaited:
            self._crew.submit(functools.partial(_dismiss, self._unawaited.popleft()))

    def _tensors(self, frames: Sequence[Frame]) -> list[list[memoryview]]:
        """The network's inputs, each of all frames."""
        if len(self._sizes) == 1:
            return [[frame.data for frame in frames]]
        ends = list(itertools.accumulate(self._sizes))
        return [
            [frame.data[end - size : end] for frame in frames]
            for size, end in zip(self._sizes, ends, strict=True)
        ]

    def close(self) -> None:
        """Give up the transport and end all threads."""
        self.transport.close()
        self._crew.close()

    def _begin(
        self, wire: WireTicket, pieces: Pieces, ticket: Ticket, frames: Sequence[Frame]
    ) -> Awaited | None:
        if self._wait_us(ticket) > 0:
            return None
        try:
            return self.transport.begin(wire, pieces, len(frames), self._time_limit_s(ticket, frames))
        except Exception:
            return None  # fall back to infer(), which reports the error

    def _infer(self, wire: WireTicket, pieces: Pieces, ticket: Ticket, frames: Sequence[Frame]) -> Outputs:
        if (wait_us := self._wait_us(ticket)) > 0:
            time.sleep(wait_us / 1e6)
            if self._is_given_up(ticket.batch_id):
                text = "given up before it was sent"
                raise HopFailure(FailureKind.EXPIRED, 0, ticket.hops[0].worker, text)
        return self.transport.infer(wire, pieces, len(frames), self._time_limit_s(ticket, frames))

    def _wait_us(self, ticket: Ticket) -> int:
        """Until the batch is to be sent; 0: now."""
        if not self._counts_links:
            return 0
        wait_us = ticket.hops[0].transfer_start_us - now_us()
        return wait_us if wait_us > _SOON_US else 0

    def _await(self, ticket: Ticket, frames: Sequence[Frame], awaited: Awaited) -> None:
        try:
            outputs = awaited()
            self._check(outputs, ticket, len(frames))
        except HopFailure as failure:
            self._failed(ticket, frames, failure)
            return
        except Exception as error:
            self._log(f"sending batch {ticket.batch_id} failed: {error!r}")
            text = f"{type(error).__name__}: {error}"
            self._failed(ticket, frames, HopFailure(FailureKind.REFUSED, 0, ticket.hops[0].worker, text))
            return
        self._served(ticket, frames, outputs)

    def _check(self, outputs: Outputs, ticket: Ticket, batch: int) -> None:
        """Raises HopFailure unless each frame has all outputs."""
        for name in self._outputs:
            if name not in outputs or len(outputs[name]) != batch:
                found = ", ".join(f"{each} {list(array.shape)}" for each, array in outputs.items())
                last = len(ticket.hops) - 1
                text = (
                    f"output {name}: not {batch} frames of it in the answer, which has {found or 'nothing'}"
                )
                raise HopFailure(FailureKind.COMPUTE, last, ticket.hops[last].worker, text)

    def _wire(self, ticket: Ticket, frames: Sequence[Frame]) -> WireTicket:
        return WireTicket(
            deployment=self._manifest.deployment,
            revision=self._manifest.epoch,
            hop=0,
            ticket=ticket.with_deadline(max([frame.deadline_us for frame in frames])),
            ingress=tuple([frame.info for frame in frames if frame.info is not None]),
            way=Way(
                servers=tuple([self._servers[hop.worker] for hop in ticket.hops]),
                entry=self._manifest.entry.name,
                back_us=self._pipelines[ticket.pipeline].back_us(len(frames)),
                fences=tuple([self._fences[hop.worker] for hop in ticket.hops]) if self._fences else (),
            ),
        )

    def _time_limit_s(self, ticket: Ticket, frames: Sequence[Frame]) -> float:
        latest_us = max(ticket.answer_us, ticket.deadline_us, *[frame.deadline_us for frame in frames])
        return max(1, latest_us - now_us() + self._grace_us) / 1e6


def _dismiss(begun: Awaited) -> None:
    """Wait for an answer that nobody wants, so that its memory and its connection are free again."""
    with contextlib.suppress(Exception):
        begun()
