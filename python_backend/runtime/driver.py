"""Drives the scheduler core with real time, real requests and real hops: the inside of a model's dispatcher.

Rules
- The core is used by one thread at a time (runtime.turns): whoever brings what happened, arrivals, notices,
  ends of hops, workers lost and back, has the core decide, also on what others brought meanwhile.
- Answers are sent by other threads; a frame is answered exactly once, whoever comes first (Frame.claim).
- The core's clock runs `lead_us` ahead: what it sends now can begin on a worker only that much later, so
  frames arrive, and workers come free, that much earlier for it. A batch is so under way while its worker
  still runs the last one.
- A core holds a frame back for a fuller batch as long as its deadline allows. So a frame with a later
  deadline than its SLO is offered with that of its SLO first, and again, with more time, when the core
  gives it up. With the late policy "serve" this goes on past the deadline.
- The core is given deadlines less what answers were lately late by (runtime.lateness), so that it plans
  with the way back too. The ticket on the wire carries the true ones.
- close() answers every frame that is still here and joins all threads.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from planner.manifest import DeploymentManifest, ModelEntry
from python_backend.runtime.answers import Answers
from python_backend.runtime.budget import Budget
from python_backend.runtime.clock import now_us
from python_backend.runtime.counts import Counts
from python_backend.runtime.drift import Drift
from python_backend.runtime.feedback import Notice
from python_backend.runtime.frame import ErrorCode, Frame
from python_backend.runtime.hop_failure import FailureKind, HopFailure
from python_backend.runtime.kserve import NUMPY_OF
from python_backend.runtime.lateness import Lateness
from python_backend.runtime.overdue import Overdue
from python_backend.runtime.stage_identity import rest_of
from python_backend.runtime.threads import Crew
from python_backend.runtime.ticket_codec import WireTicket
from python_backend.runtime.transport import Awaited, Outputs, Pieces, Transport
from python_backend.runtime.turns import NEVER, Turns
from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason, Ticket, WakeAt
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import (
    BatchFailed,
    Event,
    RequestArrived,
    RequestCancelled,
    StageCompleted,
    TimerFired,
    WorkerBack,
    WorkerLost,
)

_TIMELY_GRACE_US = 300_000
"""How long after its deadline a hop is still waited for; a client is never left longer than a second."""
_LATE_GRACE_US = 60_000_000
_MOST_HOPS = 512
_MOST_TOGETHER = 256
"""Arrivals that are offered to the core at once."""
_REMEMBERED_TICKETS = 4096
"""To name the worker of a notice, which may come after the batch's answer."""
_MOST_DOUBLINGS = 10
_ANSWERING_US = 1_000
"""From a batch's answer here to a frame's answer at its client, on a host with something to do."""
_OFFER_PAUSE_US = 500
_TIME_REASONS = (DropReason.EXPIRED, DropReason.OVERLOAD, DropReason.FAILED)


@dataclass(frozen=True)
class DriverSettings:
    """`lead_us`: from sending a batch to its start on an idle worker."""

    lead_us: int = 1_000
    serve_late: bool = False


@dataclass(frozen=True, slots=True)
class _Arrived:
    frames: Sequence[Frame]


@dataclass(frozen=True, slots=True)
class _Probed:
    frame: Frame


@dataclass(frozen=True, slots=True)
class _Finished:
    ticket: Ticket
    ended_us: int
    served: bool


@dataclass(frozen=True, slots=True)
class _Failed:
    ticket: Ticket
    frames: Sequence[Frame]
    failure: HopFailure


_Taken = TypeVar("_Taken")
_Item = _Arrived | _Probed | _Finished | _Failed | Notice | Event


class Driver:
    """See the module. Thread-safe."""

    def __init__(
        self,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        core: SchedulerCore,
        transport: Transport,
        log: Callable[[str], None],
        settings: DriverSettings | None = None,
        on_failure: Callable[[HopFailure], None] = lambda failure: None,
        on_seen: Callable[[str], None] = lambda worker: None,
    ) -> None:
        self.counts = Counts(entry.served)
        self.drift = Drift(entry.served, log)
        self.budget = Budget()
        self._manifest = manifest
        self._entry = entry
        self._core = core
        self._transport = transport
        self._log = log
        self._settings = settings or DriverSettings(serve_late=entry.late == "serve")
        self._on_failure = on_failure
        self._on_seen = on_seen
        self._tickets: dict[int, tuple[Ticket, int]] = {}
        """Ticket and number of frames by batch."""
        self._under_way: set[int] = set()
        self._computed: set[int] = set()
        """Batches under way whose last stage has ended: the answer may still get lost."""
        self._overdue = Overdue(entry.served)
        self._given_up: set[int] = set()
        """Batches whose frames were given back to the core while their hop goes on."""
        self._lateness = Lateness(entry.served.slo_us)
        self._slo_us = entry.served.slo_us
        self._zeros = {spec.name: np.zeros((1, *spec.shape), NUMPY_OF[spec.dtype]) for spec in entry.outputs}
        self._fastest_us = min(rest_of(entry, index, 0)[0] for index in range(len(entry.served.pipelines)))
        self._turns: Turns[_Item] = Turns("alarms", self._take_turn)
        self._frames: dict[int, Frame] = {}
        self._wake_us = NEVER
        self._offers: list[tuple[int, int]] = []
        """(time, request id) of frames to offer to the core again."""
        self._accepting = True
        self._gate = threading.Lock()
        self._answers = Answers(log)
        self._hops = Crew("hop", _MOST_HOPS, lambda error: log(f"hop failed: {error!r}"))
        self._turns.start()

    # Called by other threads

    def arrive(self, frames: Sequence[Frame]) -> None:
        """Take frames; each will be answered."""
        if self._leave(_Arrived(frames)):
            self._turns.take_turn()
            return
        for frame in frames:
            self._refuse(frame, "the dispatcher is shutting down")

    def probe(self, frame: Frame) -> None:
        """Answer with zeros, when its turn comes: a thread that is stuck in the core lets nobody answer."""
        if self._leave(_Probed(frame)):
            self._turns.take_turn()
            return
        self._refuse(frame, "the dispatcher is shutting down")

    def notice(self, notice: Notice) -> None:
        """A stage has told that its compute ended."""
        if notice.epoch == self._manifest.epoch:
            self._turns.bring(notice)

    def worker_lost(self, worker: str) -> None:
        """Send nothing to this worker until it is back."""
        if self._turns.mine:
            self._lose(worker)
        else:
            self._turns.bring(WorkerLost(worker))

    def worker_back(self, worker: str) -> None:
        """The worker answers again."""
        self._turns.bring(WorkerBack(worker))

    def cancel(self, frame: Frame) -> None:
        """Its caller has gone."""
        self._turns.bring(RequestCancelled(frame.request_id))

    def waiting_frames(self) -> list[Frame]:
        """Frames that have no answer yet, oldest first."""
        return list(self._frames.values())

    @property
    def queue_length(self) -> int:
        """Frames that wait for a batch."""
        return self._core.queue_length

    @property
    def in_flight(self) -> int:
        """Batches on their way."""
        return len(self._under_way)

    @property
    def transport(self) -> Transport:
        """What hops go through."""
        return self._transport

    @property
    def allowance_us(self) -> int:
        """Time that is taken off deadlines."""
        return self._lateness.allowance_us

    @property
    def guard_us(self) -> int:
        """Time by which the core takes its own predictions to be wrong, and keeps free before deadlines."""
        return self._core.guard_us

    def close(self) -> None:
        """Answer what is left and end all threads."""
        with self._gate:
            self._accepting = False
        self._turns.close()
        for frame in self.waiting_frames():
            self._refuse(frame, "the dispatcher is shutting down")
        self._transport.close()
        self._hops.close()
        self._frames.clear()
        self._answers.close()

    def _leave(self, item: _Item) -> bool:
        """Whether it was taken: after close() nobody looks any more."""
        with self._gate:
            if self._accepting:
                self._turns.leave(item)
            return self._accepting

    # One thread at a time

    def _take_turn(self, items: Sequence[_Item]) -> int:
        """Take what has come; returns when to look again."""
        arrived: list[Frame] = []
        for item in items:
            if isinstance(item, _Arrived):
                arrived += item.frames
            else:
                self._guarded(self._take, item)
            if len(arrived) >= _MOST_TOGETHER:
                self._guarded(self._take_arrivals, arrived)
                arrived = []
        self._guarded(self._take_arrivals, arrived)
        return self._look_again_us()

    def _guarded(self, take: Callable[[_Taken], None], what: _Taken) -> None:
        try:
            self._fire_if_due()
            take(what)
        except Exception as error:
            # One bad event must not take the others along.
            self._log(f"scheduling failed on {type(what).__name__}: {error!r}")

    def _fire_if_due(self) -> None:
        """A timer is told with the time it was set for: what the core held back until the last moment would
        otherwise, by the lateness of any timer, be too late.
        """
        if self._wake_us <= self._core_time_us():
            due_us, self._wake_us = self._wake_us, NEVER
            self._handle(TimerFired(), due_us)
        if self._overdue.look_us <= now_us():
            self._look_for_silent()
        while self._offers and self._offers[0][0] <= now_us():
            frame = self._frames.get(heapq.heappop(self._offers)[1])
            if frame is not None:
                self._handle(self._offer(frame))

    def _look_again_us(self) -> int:
        wake_us = NEVER if self._wake_us == NEVER else self._wake_us - self._settings.lead_us
        return min(wake_us, self._overdue.look_us, self._offers[0][0] if self._offers else NEVER)

    def _core_time_us(self) -> int:
        return now_us() + self._settings.lead_us

    def _take(self, item: _Item) -> None:
        if isinstance(item, Notice):
            self._take_notice(item)
        elif isinstance(item, _Finished):
            self._take_end(item)
        elif isinstance(item, _Failed):
            self._take_failure(item)
        elif isinstance(item, _Probed):
            self._answer_probe(item.frame)
        elif isinstance(item, WorkerLost):
            self._lose(item.worker)
        elif isinstance(item, WorkerBack):
            self._overdue.back(item.worker, now_us())
            self._handle(item)
        elif not isinstance(item, _Arrived):
            self._handle(item)

    def _take_arrivals(self, frames: Sequence[Frame]) -> None:
        """Frames that came together are offered together: they can share a batch."""
        if not frames:
            return
        self._frames.update((frame.request_id, frame) for frame in frames)
        self.counts.arrived += len(frames)
        offers = [self._offer(frame) for frame in frames]
        began_us = now_us()
        self._act(self._core.handle_arrivals(offers, began_us + self._settings.lead_us), began_us)

    def _answer_probe(self, frame: Frame) -> None:
        if frame.claim():
            self._answers.later([(frame, self._zeros)])

    def _take_notice(self, notice: Notice) -> None:
        if not notice.ok or notice.batch not in self._tickets:
            return
        ticket, frames = self._tickets[notice.batch]
        if notice.stage < len(ticket.hops):
            worker = ticket.hops[notice.stage].worker
            self._on_seen(worker)
            self.drift.saw(ticket.pipeline, notice.stage, frames, notice.busy_us, now_us())
            self.counts.stage_ended(worker, notice.busy_us)
            last = notice.stage == len(ticket.hops) - 1
            if last and notice.batch in self._under_way:
                self._computed.add(notice.batch)
            ended_us = now_us() if notice.ended_us is None else notice.ended_us
            self._overdue.heard(worker, notice.batch, notice.stage, ended_us, now_us())
            place = (ticket.pipeline, notice.stage)
            self.budget.ended(notice.batch, notice.attempt, place, ended_us, last)
            self._handle(StageCompleted(notice.batch, notice.attempt, notice.stage, ended_us))

    def _take_end(self, end: _Finished) -> None:
        ticket = end.ticket
        given_up = ticket.batch_id in self._given_up
        self._end(ticket)
        if end.served and not given_up:
            self._lateness.saw(end.ended_us + _ANSWERING_US - ticket.hops[-1].end_us - self._core.guard_us)
        self._handle(StageCompleted(ticket.batch_id, ticket.attempt, len(ticket.hops) - 1, end.ended_us))

    def _take_failure(self, failed: _Failed) -> None:
        self._on_failure(failed.failure)  # first, so that what failed is not chosen for the next attempt
        ticket = failed.ticket
        if ticket.batch_id in self._given_up:
            self._end(ticket)
        elif self._end(ticket):
            # For the core the batch was done when its last stage was, so its frames are new to it.
            for frame in failed.frames:
                if not frame.answered:
                    self._handle(self._offer(frame))
        else:
            self._handle(BatchFailed(ticket.batch_id, ticket.attempt, failed.failure.hop))

    def _end(self, ticket: Ticket) -> bool:
        """A batch is no longer under way; whether its last stage had told that it ended."""
        self._under_way.discard(ticket.batch_id)
        self._overdue.over(ticket.batch_id)
        self._given_up.discard(ticket.batch_id)
        computed = ticket.batch_id in self._computed
        self._computed.discard(ticket.batch_id)
        return computed

    # Workers that fall silent

    def _look_for_silent(self) -> None:
        for silent in self._overdue.silent(now_us(), self._lateness.allowance_us):
            text = f"silent for {now_us() - silent.since_us} us with a batch to end"
            failure = HopFailure(FailureKind.OVERDUE, silent.stage, silent.worker, text)
            self.counts.failed(failure.kind)
            self._on_failure(failure)
            self._lose(silent.worker)

    def _lose(self, worker: str) -> None:
        """Give it nothing more, and what it still owes to others: only a retry can be in time."""
        self._handle(WorkerLost(worker))
        for ticket in self._overdue.lost(worker):
            self._overdue.over(ticket.batch_id)
            self._given_up.add(ticket.batch_id)
            self._handle(BatchFailed(ticket.batch_id, ticket.attempt, 0))

    def _handle(self, event: Event, core_time_us: int | None = None) -> None:
        began_us = now_us()
        self._act(self._core.handle(event, core_time_us or began_us + self._settings.lead_us), began_us)

    def _act(self, actions: Sequence[Action], began_us: int) -> None:
        for action in actions:
            if isinstance(action, Dispatch):
                self._dispatch(action)
            elif isinstance(action, Drop):
                self._drop(action)
            else:
                self._wake_at(action)
        self.counts.decided(now_us() - began_us)

    def _wake_at(self, action: WakeAt) -> None:
        self._wake_us = action.time_us

    def _dispatch(self, action: Dispatch) -> None:
        # A frame may have been answered meanwhile by an attempt that was given up too early.
        frames = [frame for id_ in action.request_ids if (frame := self._frames.get(id_)) is not None]
        if not frames:
            self._turns.bring(_Finished(action.ticket, now_us(), served=False))
            return
        self.counts.dispatched(len(frames))
        for frame in frames:
            frame.dispatched = True
        ticket, arrived_us = action.ticket, [frame.arrived_us for frame in frames]
        self.budget.sent(ticket.batch_id, ticket.attempt, now_us(), arrived_us)
        self._under_way.add(ticket.batch_id)
        self._overdue.sent(ticket, now_us())
        self._tickets[action.ticket.batch_id] = (action.ticket, len(frames))
        if len(self._tickets) > _REMEMBERED_TICKETS:
            del self._tickets[next(iter(self._tickets))]
        self._send(ticket, frames)

    def _send(self, ticket: Ticket, frames: list[Frame]) -> None:
        """At once if that is quick: the thread that awaits the answer then wakes up meanwhile."""
        wire = self._wire(ticket, frames)
        pieces = [[frame.data for frame in frames]]
        limit_s = self._time_limit_s(ticket, frames)
        begun = self._begin(wire, pieces, len(frames), limit_s)
        awaited = begun or (lambda: self._transport.infer(wire, pieces, len(frames), limit_s))
        self._hops.submit(lambda: self._await(ticket, frames, awaited))

    def _drop(self, action: Drop) -> None:
        frame = self._frames.get(action.request_id)
        if frame is None:
            return
        # A frame that is offered again is new to the core, and its time may be too short from the start.
        reason = action.reason
        if reason is DropReason.EXPIRED and frame.given_up is not None:
            reason = frame.given_up
        if reason in _TIME_REASONS and self._offer_again(frame):
            frame.given_up = reason
            return
        del self._frames[action.request_id]
        self.counts.dropped(reason)
        if frame.claim():
            text = drop_text(self._entry.model, reason, now_us() - frame.deadline_us)
            self._answers.error(frame, ErrorCode.UNAVAILABLE, text)

    def _offer(self, frame: Frame) -> RequestArrived:
        """The frame as the core sees it: with a deadline no later than its SLO allows, twice that on each new
        offer.
        """
        deadline_us = frame.deadline_us
        if frame.offers or deadline_us > frame.arrived_us + self._slo_us:
            allowed_us = now_us() + (self._slo_us << min(frame.offers, _MOST_DOUBLINGS))
            deadline_us = allowed_us if self._settings.serve_late else min(deadline_us, allowed_us)
        frame.offers += 1
        return RequestArrived(frame.request_id, deadline_us - self._lateness.allowance_us, frame.priority)

    def _offer_again(self, frame: Frame) -> bool:
        """Whether a frame that the core gave up has more time than it was offered with."""
        if not self._settings.serve_late and now_us() + self._fastest_us > frame.deadline_us:
            return False
        if not self._settings.serve_late and frame.offers > _MOST_DOUBLINGS:
            return False
        heapq.heappush(self._offers, (now_us() + (_OFFER_PAUSE_US << min(frame.offers, 5)), frame.request_id))
        return True

    # Hop threads

    def _await(self, ticket: Ticket, frames: list[Frame], awaited: Awaited) -> None:
        try:
            outputs = awaited()
        except HopFailure as failure:
            self._end_failed(ticket, frames, failure)
            return
        except Exception as error:
            self._log(f"sending batch {ticket.batch_id} failed: {error!r}")
            text = f"{type(error).__name__}: {error}"
            self._end_failed(ticket, frames, HopFailure(FailureKind.REFUSED, 0, ticket.hops[0].worker, text))
            return
        self._end_served(ticket, frames, outputs)

    def _begin(self, wire: WireTicket, pieces: Pieces, batch: int, limit_s: float) -> Awaited | None:
        try:
            return self._transport.begin(wire, pieces, batch, limit_s)
        except Exception:
            return None  # what is wrong is told by sending it the other way

    def _wire(self, ticket: Ticket, frames: Sequence[Frame]) -> WireTicket:
        """The ticket with the true deadline."""
        return WireTicket(
            deployment=self._manifest.deployment,
            epoch=self._manifest.epoch,
            hop=0,
            ticket=ticket.with_deadline(max(frame.deadline_us for frame in frames)),
        )

    def _time_limit_s(self, ticket: Ticket, frames: Sequence[Frame]) -> float:
        latest_us = max(ticket.hops[-1].end_us, *(frame.deadline_us for frame in frames), ticket.deadline_us)
        grace_us = _LATE_GRACE_US if self._settings.serve_late else _TIMELY_GRACE_US
        return max(1, latest_us - now_us() + grace_us) / 1e6

    def _end_served(self, ticket: Ticket, frames: Sequence[Frame], outputs: Outputs) -> None:
        self._turns.leave(_Finished(ticket, now_us(), served=True))
        wanted = [(spec.name, outputs[spec.name]) for spec in self._entry.outputs]
        answers = [
            (frame, {name: array[index : index + 1] for name, array in wanted})
            for index, frame in enumerate(frames)
            if frame.claim()
        ]
        for frame in frames:
            self._frames.pop(frame.request_id, None)
        for frame, _ in answers:
            self.counts.answered(now_us() - frame.arrived_us, frame.deadline_us)
        self._answers.outputs(answers)
        self._turns.take_turn()

    def _end_failed(self, ticket: Ticket, frames: Sequence[Frame], failure: HopFailure) -> None:
        self.counts.failed(failure.kind)
        self._log(f"batch {ticket.batch_id} attempt {ticket.attempt} failed: {failure}")
        if failure.kind in (FailureKind.REFUSED, FailureKind.COMPUTE):
            # Another worker would do the same: the request or the program is at fault.
            self._turns.bring(_Finished(ticket, now_us(), served=False))
            for frame in frames:
                if frame.claim():
                    self._answers.error(frame, ErrorCode.INTERNAL, str(failure))
                self._frames.pop(frame.request_id, None)
            return
        self._turns.bring(_Failed(ticket, frames, failure))

    def _refuse(self, frame: Frame, text: str) -> None:
        """Answer from this thread: at the end there are no others."""
        if not frame.claim():
            return
        try:
            frame.send_error(ErrorCode.UNAVAILABLE, text)
        except Exception as error:
            self._log(f"answering request {frame.request_id} failed: {error!r}")


def drop_text(model: str, reason: DropReason, late_us: int) -> str:
    """What a client reads whose frame was dropped. late_us: now minus deadline."""
    when = f"passed {late_us / 1000:.1f} ms ago" if late_us > 0 else f"is in {-late_us / 1000:.1f} ms"
    return f"{model}: the frame cannot meet its deadline, which {when}: reason={reason.value}"
