"""Drives the scheduler core with real time, real requests and real hops: the inside of a model's dispatcher.

Rules
- The core is used by one thread at a time (dispatcher.turns): whoever brings what happened, arrivals,
  notices, ends of hops, workers lost and back, has the core decide, also on what others brought meanwhile.
- Frames are answered by dispatcher.frames.open_frames, batches sent and awaited by dispatcher.hops; their
  ends come back as what happened.
- Where a frame is, and which way it may go, is one table: dispatcher.frames.frame_state.
- The core's clock runs `lead_us` ahead: what it sends now can begin on a worker only that much later, so
  frames arrive, and workers come free, that much earlier for it. A batch is so under way while its worker
  still runs the last one.
- Another table is taken in place (hand_over): frames that wait are offered to its core, batches under way
  end by the table that sent them (dispatcher.tables), and the core knows until when these hold its workers.
- Before each event the core hears what other models' dispatchers send over the entry's uplink.
- close() answers every frame that is still here and joins all threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import Fence
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.frames.open_frames import OpenFrames
from python_backend.dispatcher.frames.room import Room, bounds_of
from python_backend.dispatcher.lateness import Lateness
from python_backend.dispatcher.metrics.budget import Budget
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.metrics.drift import Drift
from python_backend.dispatcher.metrics.frame_drift import FrameDrift
from python_backend.dispatcher.offers import Offers
from python_backend.dispatcher.recording import Recording, WantedRecording
from python_backend.dispatcher.tables.served_table import ServedTable, ServedTables
from python_backend.dispatcher.tables.taking_over import Handled, TableFailed, take_over
from python_backend.dispatcher.turns import Turns
from python_backend.dispatcher.uplink import Uplink
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
from python_backend.wire.clock import NEVER, now_us
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.transport import Outputs, Transport

_MOST_TOGETHER: Final = 256
"""Arrivals that are offered to the core at once."""
_ANSWERING_US: Final = 1_000
"""From a batch's answer here to a frame's answer at its client, on a host with something to do."""
_CLOSING: Final = "the dispatcher is shutting down"
_NO_FENCES: Final[Mapping[str, Fence]] = {}
_TIME_REASONS = (DropReason.EXPIRED, DropReason.OVERLOAD, DropReason.FAILED)


@dataclass(frozen=True)
class DriverSettings:
    """`lead_us`: from sending a batch to its start on an idle worker. `record_mb`: of events, from the start
    on. `policy`: of the core, for the log's header.
    """

    lead_us: int = 1_000
    policy: str = "adaptive"
    record_mb: float = 0.0


class _Arrived:
    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames: Final = frames


class _Refused:
    def __init__(self, frames: int) -> None:
        self.frames: Final = frames


class _Probed:
    def __init__(self, frame: Frame) -> None:
        self.frame: Final = frame


class _CameBack:
    def __init__(self, frame: Frame) -> None:
        self.frame: Final = frame


class _RefusedElsewhere:
    def __init__(self, frame: Frame, code: ErrorCode, text: str) -> None:
        self.frame: Final = frame
        self.code: Final = code
        self.text: Final = text


class _Finished:
    def __init__(self, ticket: Ticket, ended_us: int, served: bool) -> None:
        self.ticket: Final = ticket
        self.ended_us: Final = ended_us
        self.served: Final = served


class _LookAgain:
    """Something is due that was not when the last turn ended."""


class _Change:
    """What was said of a worker. number: 0, or higher than those of all that was said before."""

    def __init__(self, worker: str, number: int, is_lost: bool) -> None:
        self.worker: Final = worker
        self.number: Final = number
        self.is_lost: Final = is_lost


class _Failed:
    def __init__(self, ticket: Ticket, frames: Sequence[Frame], failure: HopFailure) -> None:
        self.ticket: Final = ticket
        self.frames: Final = frames
        self.failure: Final = failure


_Taken = TypeVar("_Taken")
_Elsewhere = _CameBack | _RefusedElsewhere
_Own = _Arrived | _Refused | _Probed | _Finished | _Failed | _LookAgain | _Change | _Elsewhere
_Item = _Own | ServedTable | Notice | Event | WantedRecording


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
        room: Room | None = None,
        number: int = 0,
        uplink: Uplink | None = None,
        passing: PassingOn | None = None,
        fences: Mapping[str, Fence] = _NO_FENCES,
    ) -> None:
        """room: for open frames; as this host's memory allows without. number: of the hand-over that brought
        the table, 0 for deployment.json. uplink: the entry's, if other models send over it too. passing,
        fences: where there are several entries.
        """
        self._passing = passing
        self.room = room or Room(bounds_of(entry.served, entry.longest_us, len(manifest.models)))
        self.counts = Counts(entry.served)
        self.frame_drift = FrameDrift(entry.model, entry.served.entry, log)
        self.budget = Budget()
        self._settings = settings or DriverSettings()
        self._log = log
        self._on_failure = on_failure
        self._on_seen = on_seen
        self._lateness = Lateness(entry.served.slo_us)
        self._offers = Offers(entry, self._lateness)
        self._tables = ServedTables(self._table_of(number, manifest, entry, core, transport, fences))
        self._turns: Turns[_Item] = Turns("alarms", self._take_turn)
        self.failed_table: TableFailed | None = None
        """The last that could not be served, though it was handed over."""
        self._changes: dict[str, int] = {}
        """By worker, the number of what was last said of it."""
        self._wake_us = NEVER
        self._accepting = True
        self._gate = threading.Lock()
        self._frames = OpenFrames(entry, self.counts, log, self.room)
        self._dispatchers = len(manifest.models)
        self._uplink = uplink or Uplink()
        self._recording: Recording | None = None
        if self._settings.record_mb:
            self._record(WantedRecording(entry.model, 0.0, self._settings.record_mb), from_start=True)
        self._turns.start()

    # Called by other threads

    def arrive(self, frames: Sequence[Frame]) -> None:
        """Take frames; each will be answered. Those that there is no room for are answered here."""
        admitted, refused = self.room.admit(frames)
        if refused:
            self._leave(_Refused(len(refused)))
            self._frames.refuse(refused, self.room.text(self._tables.now.entry.model))
        if not self._leave(_Arrived(admitted)):
            self._frames.refuse(admitted, _CLOSING)
            self.room.leave(admitted)
        else:
            self._turns.take_turn()

    def probe(self, frame: Frame) -> None:
        """Answer with zeros, when its turn comes: a thread that is stuck in the core lets nobody answer."""
        if self._leave(_Probed(frame)):
            self._turns.take_turn()
            return
        self._frames.refuse([frame], _CLOSING)

    def notice(self, notice: Notice) -> None:
        """A stage has told that its compute ended."""
        if self._tables.serves_revision(notice.revision):
            self._turns.bring(notice)

    def worker_lost(self, worker: str, number: int = 0) -> None:
        """Send nothing to this worker until it is back. number: rises with all that is said of workers, so
        that what is overtaken on its way here counts for nothing; 0: it counts in any case.
        """
        change = _Change(worker, number, is_lost=True)
        if self._turns.mine:
            self._take_change(change)
        else:
            self._turns.bring(change)

    def worker_back(self, worker: str, number: int = 0) -> None:
        """The worker answers again. number: as above."""
        self._turns.bring(_Change(worker, number, is_lost=False))

    def hand_over(
        self,
        number: int,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        core: SchedulerCore,
        transport: Transport,
        fences: Mapping[str, Fence] = _NO_FENCES,
    ) -> None:
        """Serve by another table from now on. number: of this hand-over. entry: what clients see of it must
        be what they see now. core, transport: new ones. fences: of its workers, where there are several
        entries.
        """
        self._turns.bring(self._table_of(number, manifest, entry, core, transport, fences))

    def take_left(self) -> list[ServedTable]:
        """Tables of which nothing is under way any more. Their hops are to be closed, though not by a hop's
        thread, which may be one of theirs.
        """
        return self._tables.take_left()

    @property
    def table(self) -> ServedTable:
        """What new frames are served by."""
        return self._tables.now

    @property
    def older_tables(self) -> list[ServedTable]:
        """Those before that have batches under way."""
        return self._tables.older

    @property
    def drift(self) -> Drift:
        """Of the stages of the table that is served."""
        return self._tables.now.drift

    def record(self, wanted: WantedRecording) -> None:
        """Write what the core is told and answers to a file from now on."""
        self._turns.bring(wanted)

    def cancel(self, frame: Frame) -> None:
        """Its caller has gone."""
        self._turns.bring(RequestCancelled(frame.request_id))

    def waiting_frames(self) -> list[Frame]:
        """Frames that have no answer yet, oldest first."""
        return self._frames.all()

    @property
    def queue_length(self) -> int:
        """Frames that wait for a batch."""
        return self._tables.now.core.queue_length

    @property
    def known_streams(self) -> int:
        """Streams that are remembered."""
        return self._tables.now.core.known_streams

    @property
    def held_answers(self) -> int:
        """Answers that wait for those to earlier frames of their streams."""
        return self._frames.held

    @property
    def in_flight(self) -> int:
        """Batches on their way."""
        return sum([len(table.under_way) for table in self._tables.all()])

    @property
    def transport(self) -> Transport:
        """What hops go through."""
        return self._tables.now.hops.transport

    @property
    def allowance_us(self) -> int:
        """Time that is taken off deadlines."""
        return self._lateness.allowance_us

    @property
    def guard_us(self) -> int:
        """Time by which the core takes its own predictions to be wrong, and keeps free before deadlines."""
        return self._tables.now.core.guard_us

    def close(self) -> None:
        """Answer what is left and end all threads."""
        with self._gate:
            self._accepting = False
        self._turns.close()
        if self._recording is not None:
            self._recording.close()
        self._frames.refuse(self._frames.all(), _CLOSING)
        self._tables.close()
        self._frames.close()
        self._uplink.close()

    def _leave(self, item: _Item) -> bool:
        """Whether it was taken: after close() nobody looks any more."""
        with self._gate:
            if self._accepting:
                self._turns.leave(item)
            return self._accepting

    def _table_of(
        self,
        number: int,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        core: SchedulerCore,
        transport: Transport,
        fences: Mapping[str, Fence],
    ) -> ServedTable:
        return ServedTable(
            number, manifest, entry, core, transport, self._end_served, self._end_failed, self._log, fences
        )

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
        # One bad event must not take the others along.
        try:
            self._fire_if_due()
        except Exception as error:
            self._log(f"timers failed: {error!r}")
        try:
            take(what)
        except Exception as error:
            self._log(f"scheduling failed on {type(what).__name__}: {error!r}")

    def _fire_if_due(self) -> None:
        """A timer is told with the time it was set for: what the core held back until the last moment would
        otherwise, by the lateness of any timer, be too late.
        """
        if self._wake_us <= self._core_time_us():
            due_us, self._wake_us = self._wake_us, NEVER
            self._handle(TimerFired(), due_us)
        host_us = now_us()
        for table in self._tables.all():
            if table.under_way.look_us <= host_us:
                self._look_for_silent(table, host_us)
        if self._frames.due_us <= host_us:
            for lost in self._frames.overtaken(host_us):
                if lost.state is FrameState.QUEUED:
                    self._handle(RequestCancelled(lost.request_id))
                elif lost.state is FrameState.PASSED and self._passing is not None:
                    self._passing.give_up(lost)
        for request_id in self._offers.due(host_us):
            frame = self._frames.find(request_id)
            if frame is not None and frame.state is FrameState.PAUSED:
                self._handle(self._offers.offer(frame, host_us))

    def _look_again_us(self) -> int:
        wake_us = NEVER if self._wake_us == NEVER else self._wake_us - self._settings.lead_us
        look_us = min([table.under_way.look_us for table in self._tables.all()])
        return min(wake_us, look_us, self._offers.next_us, self._frames.due_us)

    def _core_time_us(self) -> int:
        return now_us() + self._settings.lead_us

    def _take(self, item: _Item) -> None:
        if isinstance(item, Notice):
            self._take_notice(item)
        elif isinstance(item, _Finished):
            self._take_end(item)
        elif isinstance(item, _Failed):
            self._take_failure(item)
        elif isinstance(item, _Refused):
            self.counts.arrived += item.frames
            for _ in range(item.frames):
                self.counts.dropped(DropReason.OVERLOAD)
        elif isinstance(item, _Probed):
            self._frames.answer_probe(item.frame)
        elif isinstance(item, _Change):
            self._take_change(item)
        elif isinstance(item, RequestCancelled):
            self._take_cancelled(item)
        elif isinstance(item, _CameBack):
            self._offer_again([item.frame])
        elif isinstance(item, _RefusedElsewhere):
            self._frames.relay(item.frame, item.code, item.text)
        elif isinstance(item, ServedTable):
            self._take_table(item)
        elif isinstance(item, WantedRecording):
            self._record(item, from_start=False)
        elif not isinstance(item, _Arrived | _LookAgain):
            self._handle(item)

    def _take_arrivals(self, frames: Sequence[Frame]) -> None:
        """Frames that came together are offered together: they can share a batch."""
        if not frames:
            return
        self._frames.add(frames)
        self.counts.arrived += len(frames)
        self.counts.frame_bytes += sum([len(frame.data) for frame in frames])
        self.frame_drift.saw(frames, now_us())
        began_us = now_us()
        if self._passing is not None:
            frames = self._passing.keep(frames, self._tables.now.core, began_us)
        self._handle_together([self._offers.offer(frame, began_us) for frame in frames], began_us)

    def _handle_together(self, offers: Sequence[RequestArrived], began_us: int) -> None:
        core_time_us = began_us + self._settings.lead_us
        core = self._tables.now.core
        actions = self._beside_others(
            core, lambda: core.handle_arrivals(offers, core_time_us), core_time_us, self._note
        )
        self._note(offers, core_time_us, actions)
        self._act(actions, began_us)

    def _take_cancelled(self, cancelled: RequestCancelled) -> None:
        frame = self._frames.find(cancelled.request_id)
        if frame is not None and frame.state in (FrameState.PAUSED, FrameState.PASSED):
            self._frames.drop(frame, DropReason.CANCELLED)
            if self._passing is not None:
                self._passing.give_up(frame)
        else:
            self._handle(cancelled)

    def _take_notice(self, notice: Notice) -> None:
        table = self._tables.with_batch(notice.batch)
        known = table.under_way.find(notice.batch)
        if not notice.ok or known is None:
            return
        ticket, frames = known
        if notice.stage < len(ticket.hops):
            worker = ticket.hops[notice.stage].worker
            self._on_seen(worker)
            table.drift.saw(ticket.pipeline, notice.stage, frames, notice.busy_us, now_us())
            self.counts.stage_ended(worker, notice.busy_us)
            ended_us = now_us() if notice.ended_us is None else notice.ended_us
            table.under_way.heard(ticket, notice.stage, ended_us, now_us())
            place, last = (ticket.pipeline, notice.stage), notice.stage == len(ticket.hops) - 1
            self.budget.ended(notice.batch, notice.attempt, place, ended_us, last)
            self._tell(table, StageCompleted(notice.batch, notice.attempt, notice.stage, ended_us))

    def _take_end(self, end: _Finished) -> None:
        ticket = end.ticket
        table = self._tables.with_batch(ticket.batch_id)
        known = table.under_way.over(ticket)
        if end.served and not known.abandoned:
            self._lateness.saw(end.ended_us + _ANSWERING_US - ticket.answer_us - table.core.guard_us)
        last = len(ticket.hops) - 1
        self._tell(table, StageCompleted(ticket.batch_id, ticket.attempt, last, end.ended_us))

    def _take_failure(self, failed: _Failed) -> None:
        self._on_failure(failed.failure)  # first, so that what failed is not chosen for the next attempt
        ticket = failed.ticket
        table = self._tables.with_batch(ticket.batch_id)
        known = table.under_way.over(ticket)
        if known.abandoned:
            self._tables.leave_if_over(table)
            return
        if not known.computed:
            for frame in failed.frames:
                frame.came_too_late = failed.failure.kind is FailureKind.EXPIRED
            self._give_back(table, ticket, failed.frames, failed.failure.hop)
            return
        # For the core the batch was done when its last stage was, so its frames are new to it.
        self._tables.leave_if_over(table)
        self._offer_again(failed.frames)

    def _give_back(self, table: ServedTable, ticket: Ticket, frames: Sequence[Frame], hop: int) -> None:
        """A batch has failed: the core has its frames again that have no answer yet."""
        failed = BatchFailed(ticket.batch_id, ticket.attempt, hop)
        if table is self._tables.now:
            _back_to_core(frames)
            self._handle(failed)
            return
        self._tell(table, failed)
        for frame in frames:
            frame.last_reason = frame.last_reason or DropReason.FAILED
        self._offer_again([frame for frame in frames if frame.state is FrameState.SENT])

    def _offer_again(self, frames: Sequence[Frame]) -> None:
        """Frames that the core does not know, or no more."""
        for frame in frames:
            if not frame.answered:
                self._handle(self._offers.offer(frame, now_us()))

    # Workers that fall silent

    def _look_for_silent(self, table: ServedTable, host_us: int) -> None:
        for silent in table.under_way.silent(host_us, self._lateness.allowance_us):
            text = f"silent for {host_us - silent.since_us} us with a batch to end"
            failure = HopFailure(FailureKind.OVERDUE, silent.stage, silent.worker, text)
            self.counts.failed(failure.kind)
            self._on_failure(failure)
            self._lose(silent.worker)

    def _lose(self, worker: str) -> None:
        """Give it nothing more, and what it still owes to others: only a retry can be in time."""
        for table in self._tables.all():
            if table.core.knows(worker):
                self._tell(table, WorkerLost(worker))
        for table in self._tables.all():
            for ticket in table.under_way.abandon(worker):
                self._give_back(table, ticket, table.under_way.frames_of(ticket), 0)

    def _take_change(self, change: _Change) -> None:
        if change.number and change.number < self._changes.get(change.worker, 0):
            return
        self._changes[change.worker] = change.number
        if change.is_lost:
            self._lose(change.worker)
        else:
            self._take_back(change.worker)

    def _take_back(self, worker: str) -> None:
        for table in self._tables.all():
            if table.core.knows(worker):
                table.under_way.back(worker, now_us())
                self._tell(table, WorkerBack(worker))

    # Another table

    def _take_table(self, table: ServedTable) -> None:
        """Frames that wait are offered to its core; batches under way end by the table that sent them. Where
        its core cannot take over, the table before goes on being served.
        """
        queued = [
            frame for frame in self._frames.all() if frame.state is FrameState.QUEUED and not frame.answered
        ]
        time_us = self._core_time_us()
        try:
            handled = self._told_to(table, [self._offers.repeat(frame) for frame in queued], time_us)
            drift = FrameDrift(table.entry.model, table.entry.served.entry, self._log)
            bounds = bounds_of(table.entry.served, table.entry.longest_us, self._dispatchers)
            self._serve_by(table.entry)
        except Exception as error:
            self._serve_by(self._tables.now.entry)
            self._log(f"table {table.number} is not taken: {error!r}")
            self.failed_table = TableFailed(table.number, f"its core cannot take over: {error!r}")
            self._tables.refuse(table)
            return
        before = self._tables.replace(table)
        self._wake_us = NEVER
        self.frame_drift, self.room.bounds = drift, bounds
        for frame in queued:
            # The core takes it for new, and might say that its time was too short from the start.
            frame.last_reason = frame.last_reason or DropReason.OVERLOAD
        if self._recording is not None:
            self._record(self._recording.rest(), from_start=True)
        for each in handled:
            self._note(each.told, time_us, each.actions)
        for each in handled:
            self._act(each.actions, now_us())
        self._tables.leave_if_over(before)

    def _told_to(self, table: ServedTable, frames: Sequence[RequestArrived], time_us: int) -> list[Handled]:
        """What its core was told before it serves, the frames that wait last, and what it answered."""
        handled = take_over(self._tables, table, time_us)
        actions = self._beside_others(
            table.core,
            lambda: table.core.handle_arrivals(frames, time_us),
            time_us,
            lambda taken, _, answer: handled.append(Handled(taken, answer)),
        )
        return [*handled, Handled(frames, actions)]

    def _serve_by(self, entry: ModelEntry) -> None:
        self._offers.serve(entry)
        self._frames.serve_by(entry)

    def _tell(self, table: ServedTable, event: Event) -> None:
        """Tell the core of the table that is served, or of one before it, which has nothing to do."""
        if table is self._tables.now:
            self._handle(event)
            return
        table.core.handle(event, self._core_time_us())
        self._tell_holds()
        self._tables.leave_if_over(table)

    def _tell_holds(self) -> None:
        for taken in self._tables.holds():
            self._handle(taken)

    def _handle(self, event: Event, core_time_us: int | None = None) -> None:
        began_us = now_us()
        time_us = core_time_us or began_us + self._settings.lead_us
        core = self._tables.now.core
        actions = self._beside_others(core, lambda: core.handle(event, time_us), time_us, self._note)
        self._note(event, time_us, actions)
        self._act(actions, began_us)

    def _note(self, told: Event | Sequence[RequestArrived], time_us: int, actions: Sequence[Action]) -> None:
        """Record it. told: one event, or frames that came together."""
        recording = self._recording
        if recording is None:
            return
        if isinstance(told, Sequence):
            goes_on = recording.handled_together(told, time_us, actions)
        else:
            goes_on = recording.handled(told, time_us, actions)
        if not goes_on:
            self._recording = None

    def _beside_others(
        self,
        core: SchedulerCore,
        decide: Callable[[], list[Action]],
        time_us: int,
        note: Callable[[Event, int, Sequence[Action]], None],
    ) -> list[Action]:
        """Decide knowing what other models' dispatchers take of the entry's uplink, and let them know. note:
        of what was heard.
        """
        if not self._uplink.shared:
            return decide()
        actions: list[Action] = []
        try:
            for taken in self._uplink.hear():
                note(taken, time_us, core.handle(taken, time_us))
            actions = decide()
        finally:
            uses = [core.link_use(action.ticket) for action in actions if isinstance(action, Dispatch)]
            self._uplink.tell([use for use in uses if use is not None])
        return actions

    def _record(self, wanted: WantedRecording, from_start: bool) -> None:
        if self._recording is not None:
            self._recording.close()
        entry, core = self._tables.now.entry, self._tables.now.core
        self._recording = Recording.begin(
            entry.dispatcher,
            entry.served,
            self._settings.policy,
            self._tables.now.first_batch if from_start else core.next_batch_id,
            from_start,
            wanted,
            self._log,
            core.told,
        )

    def _act(self, actions: Sequence[Action], began_us: int) -> None:
        self.counts.decided(now_us() - began_us)
        for action in actions:
            if isinstance(action, Dispatch):
                self._dispatch(action)
            elif isinstance(action, Drop):
                self._drop(action)
            else:
                self._wake_at(action)

    def _wake_at(self, action: WakeAt) -> None:
        self._wake_us = action.time_us

    def _dispatch(self, action: Dispatch) -> None:
        # A frame may have been answered meanwhile by an attempt that was given up too early.
        ticket, frames = action.ticket, self._frames.of(action.request_ids)
        if not frames:
            self._turns.bring(_Finished(ticket, now_us(), served=False))
            return
        self.counts.dispatched(len(frames))
        for frame in frames:
            frame.move(FrameState.SENT)
        sent_us, arrived_us = now_us(), [frame.arrived_us for frame in frames]
        self._tables.now.hops.send(ticket, frames)
        # Its end, however soon it comes, has to wait for this turn to be over.
        self.budget.sent(ticket.batch_id, ticket.attempt, sent_us, arrived_us)
        self._tables.now.under_way.sent(ticket, frames, sent_us)

    def _drop(self, action: Drop) -> None:
        frame = self._frames.find(action.request_id)
        if frame is None:
            return
        # A frame that is offered again is new to the core, and its time may be too short from the start.
        reason = action.reason
        if reason is DropReason.EXPIRED and frame.last_reason is not None:
            reason = frame.last_reason
        if reason is DropReason.FAILED and frame.came_too_late:
            reason = DropReason.OVERLOAD  # nothing has failed: links or workers had more to do than was known
        if reason in _TIME_REASONS and self._offers.again(frame, now_us()):
            frame.last_reason = reason
            return
        if self._passing is None or not self._passing.rescue(frame, reason, now_us()):
            self._frames.drop(frame, reason)

    # Threads of hops, and of calls to other entries

    def served_elsewhere(self, frame: Frame, outputs: Outputs) -> None:
        """See dispatcher.entries.passing.Returns."""
        self._frames.serve([frame], outputs)
        self._look_again()
        self._turns.take_turn()

    def refused_elsewhere(self, frame: Frame, code: ErrorCode, text: str) -> None:
        """See dispatcher.entries.passing.Returns."""
        self._turns.bring(_RefusedElsewhere(frame, code, text))

    def came_back(self, frame: Frame) -> None:
        """See dispatcher.entries.passing.Returns."""
        self._turns.bring(_CameBack(frame))

    def _end_served(self, ticket: Ticket, frames: Sequence[Frame], outputs: Outputs) -> None:
        self._turns.leave(_Finished(ticket, now_us(), served=True))
        self._frames.serve(frames, outputs, ticket.batch_id)
        self._look_again()
        self._turns.take_turn()

    def _end_failed(self, ticket: Ticket, frames: Sequence[Frame], failure: HopFailure) -> None:
        self.counts.failed(failure.kind)
        self._log(f"batch {ticket.batch_id} attempt {ticket.attempt} failed: {failure}")
        if failure.kind in (FailureKind.REFUSED, FailureKind.COMPUTE):
            # Another worker would do the same: the request or the program is at fault.
            self._turns.bring(_Finished(ticket, now_us(), served=False))
            self._frames.fail(frames, str(failure))
            self._look_again()
            self._turns.take_turn()
            return
        self._turns.bring(_Failed(ticket, frames, failure))

    def _look_again(self) -> None:
        """Answers that wait for others of their streams have a time at which they wait no longer: another
        thread may have had its turn before they began to wait.
        """
        if self._frames.due_us != NEVER:
            self._turns.leave(_LookAgain())


def _back_to_core(frames: Sequence[Frame]) -> None:
    """Their batch has failed: the core, when it is told, has those again that have no answer yet."""
    for frame in frames:
        if not frame.answered and frame.state is FrameState.SENT:
            frame.move(FrameState.QUEUED)
