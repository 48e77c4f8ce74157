"""Drives the scheduler core with real time, real requests and real hops: the inside of a model's dispatcher.

    turns         one thread at a time takes what threads have brought (brought.py), in the order it came
    taking        each item of a turn to who knows what to do, and what is due by then
    deciding      tells the core what happened, at its time, and records it
    enacting      does what the core has decided: sends batches (hops.py), gives frames up
    endings       how threads of hops, and of calls to other entries, end what they waited for
    attempts      what stages tell, how batches end, workers lost and back
    offers        with which deadline a frame is offered to the core, and when again
    frames/       where a frame is and which way it may go (frame_state.py: the one table of that), its one
                  answer (open_frames.py)
    tables/       the table that is served, those before it, and the change to another one

Rules
- Whoever brings what happened, arrivals, notices, ends of hops, workers lost and back, takes a turn, also for
  what others have brought meanwhile. All but this module's methods for other threads is used in turns alone.
- Whoever is asked in a turn is told the time; only Deciding and Enacting, which take long, ask the clock.
- close() answers every frame that is still here and joins all threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import NO_FENCES, Fence
from python_backend.dispatcher.attempts import Attempts
from python_backend.dispatcher.brought import (
    FramesCame,
    FramesRefused,
    Item,
    ProbeCame,
    WorkerChange,
)
from python_backend.dispatcher.deciding import Deciding
from python_backend.dispatcher.enacting import Enacting
from python_backend.dispatcher.endings import Ends
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.frames.open_frames import OpenFrames
from python_backend.dispatcher.frames.room import Room, bounds_of
from python_backend.dispatcher.lateness import Lateness
from python_backend.dispatcher.links.transfers import Transfers
from python_backend.dispatcher.metrics.budget import Budget
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.metrics.drift import Drift
from python_backend.dispatcher.metrics.frame_drift import FrameDrift
from python_backend.dispatcher.offers import Offers
from python_backend.dispatcher.recording import WantedRecording
from python_backend.dispatcher.tables.served_table import ServedTable, ServedTables
from python_backend.dispatcher.tables.taking_over import TableChange, TableFailed
from python_backend.dispatcher.taking import Taking
from python_backend.dispatcher.turns import Turns
from python_backend.dispatcher.uplink import Uplink
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import RequestCancelled
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.http.sendings import Sendings
from python_backend.wire.transport import Transport

_CLOSING: Final = "the dispatcher is shutting down"


@dataclass(frozen=True)
class DriverSettings:
    """`lead_us`: from sending a batch to its start on an idle worker. `record_mb`: of events, from the start
    on. `policy`: of the core, for the log's header.
    """

    lead_us: int = 1_000
    policy: str = "adaptive"
    record_mb: float = 0.0


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
        sendings: Sendings | None = None,
        passing: PassingOn | None = None,
        fences: Mapping[str, Fence] = NO_FENCES,
    ) -> None:
        """room: for open frames; as this host's memory allows without. number: of the hand-over that brought
        the table, 0 for deployment.json. uplink: the entry's, if other models send over it too. sendings:
        what all its transports have on its way. passing, fences: where there are several entries.
        """
        self._passing = passing
        whole = manifest.model(entry.model).served  # frames that are passed on stay open here
        time_us = manifest.time_us(entry.model)
        self.room = room or Room(bounds_of(whole, entry.longest_us, time_us, len(manifest.models)))
        self.counts = Counts(entry.served)
        self.budget = Budget(self.counts)
        self._log = log
        self._gate = threading.Lock()
        self._accepting = True
        self._uplink = uplink or Uplink()
        self._sendings = sendings or Sendings()
        self._lateness = Lateness(entry.served.slo_us)
        self._offers = Offers(entry, time_us, self._lateness)
        self._frames = OpenFrames(entry, self.counts, log, self.room)
        self._turns: Turns[Item] = Turns("alarms", self._take_turn)
        self.endings = Ends(self._turns, self._frames, self.counts, log)
        """For threads of hops, and of calls to other entries."""
        self._tables = ServedTables(self._table_of(number, manifest, entry, core, transport, fences))
        self._assemble(settings or DriverSettings(), len(manifest.models), on_failure, on_seen)
        self._turns.start()

    def _assemble(
        self,
        settings: DriverSettings,
        dispatchers: int,
        on_failure: Callable[[HopFailure], None],
        on_seen: Callable[[str], None],
    ) -> None:
        """What takes turns, each knowing those before it."""
        tables, frames, offers, log = self._tables, self._frames, self._offers, self._log
        transfers = Transfers(self._sendings)
        enacting = Enacting(
            tables, frames, offers, self.counts, self.budget, transfers, self._passing, self._turns.bring
        )
        self._deciding = Deciding(
            tables, enacting, self._uplink, transfers, settings.lead_us, settings.policy, log
        )
        self._attempts = Attempts(
            tables,
            offers,
            self._deciding,
            self._lateness,
            self.counts,
            self.budget,
            transfers,
            on_failure,
            on_seen,
        )
        self._change = TableChange(
            tables, frames, offers, self._deciding, enacting, self.room, dispatchers, log
        )
        self._taking = Taking(
            tables,
            frames,
            offers,
            self._deciding,
            self._attempts,
            self._change,
            self.counts,
            self._passing,
            log,
        )
        if settings.record_mb:
            wanted = WantedRecording(tables.now.entry.model, 0.0, settings.record_mb)
            self._deciding.record(wanted, from_start=True)

    # Called by other threads

    def arrive(self, frames: Sequence[Frame]) -> None:
        """Take frames; each will be answered. Those that there is no room for are answered here."""
        admitted, refused = self.room.admit(frames)
        if refused:
            self._leave(FramesRefused(len(refused)))
            self._frames.refuse(refused, self.room.text(self._tables.now.entry.model))
        if not self._leave(FramesCame(admitted)):
            self._frames.refuse(admitted, _CLOSING)
            self.room.leave(admitted)
        else:
            self._turns.take_turn()

    def refused(self, frames: int) -> None:
        """Count frames that found no room and were refused by whoever took them."""
        self._turns.bring(FramesRefused(frames))

    def probe(self, frame: Frame) -> None:
        """Answer with zeros, when its turn comes: a thread that is stuck in the core lets nobody answer."""
        if self._leave(ProbeCame(frame)):
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
        change = WorkerChange(worker, number, is_lost=True)
        if self._turns.mine:
            self._attempts.changed(change, now_us())
        else:
            self._turns.bring(change)

    def worker_back(self, worker: str, number: int = 0) -> None:
        """The worker answers again. number: as above."""
        self._turns.bring(WorkerChange(worker, number, is_lost=False))

    def hand_over(
        self,
        number: int,
        manifest: DeploymentManifest,
        entry: ModelEntry,
        core: SchedulerCore,
        transport: Transport,
        fences: Mapping[str, Fence] = NO_FENCES,
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
    def slo_us(self) -> int:
        """Of the table that new frames are served by."""
        return self._tables.now.entry.served.slo_us

    @property
    def older_tables(self) -> list[ServedTable]:
        """Those before that have batches under way."""
        return self._tables.older

    @property
    def failed_table(self) -> TableFailed | None:
        """The last that could not be served, though it was handed over."""
        return self._change.failed

    @property
    def drift(self) -> Drift:
        """Of the stages of the table that is served."""
        return self._tables.now.drift

    @property
    def frame_drift(self) -> FrameDrift:
        """Of clients' frames, by the table that is served."""
        return self._tables.now.frame_drift

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
        return self._lateness.allowance_us(now_us())

    @property
    def guard_us(self) -> int:
        """Time by which the core takes its own predictions to be wrong, and keeps free before deadlines."""
        return self._tables.now.core.guard_us

    def close(self) -> None:
        """Answer what is left and end all threads."""
        with self._gate:
            self._accepting = False
        self._turns.close()
        self._deciding.close()
        self._frames.refuse(self._frames.all(), _CLOSING)
        self._tables.close()
        self._frames.close()
        self._uplink.close()

    def _leave(self, item: Item) -> bool:
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
            number,
            manifest,
            entry,
            core,
            transport,
            self.endings.served,
            self.endings.failed,
            self._log,
            fences,
            self._sendings,
        )

    def _take_turn(self, items: Sequence[Item]) -> int:
        return self._taking.take(items)
