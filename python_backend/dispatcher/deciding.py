"""Has the scheduler core decide on what happens, and the decision enacted.

Rules
- By whose turn it is at the core alone.
- The core's clock runs `lead_us` ahead: what it sends now can begin on a worker only that much later, so
  frames arrive, and workers come free, that much earlier for it. A batch is so under way while its worker
  still runs the last one.
- Before each event the core hears what other models' dispatchers send over the entry's uplink.
- Before each event it hears, too, where links are behind what is reserved on them (links.transfers).
- What the core is told and answers is noted in the recording, if one runs (dispatcher.recording).
- Cores of older tables have no frames: they are told how their batches end, and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from python_backend.dispatcher.enacting import Enacting
from python_backend.dispatcher.links.transfers import Transfers
from python_backend.dispatcher.recording import Recording, WantedRecording
from python_backend.dispatcher.tables.served_table import ServedTable, ServedTables
from python_backend.dispatcher.uplink import Uplink
from python_backend.scheduler.actions import Action, Dispatch
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event, RequestArrived, TimerFired
from python_backend.wire.clock import NEVER, now_us

Told = Event | list[RequestArrived]
"""One event, or frames that came together."""
Note = Callable[[Event, int, Sequence[Action]], None]


class Deciding:
    """See the module. It asks the clock for each event: what was decided before has taken time."""

    def __init__(
        self,
        tables: ServedTables,
        enacting: Enacting,
        uplink: Uplink,
        transfers: Transfers,
        lead_us: int,
        policy: str,
        log: Callable[[str], None],
    ) -> None:
        """policy: of the core, for the header of recordings."""
        self._tables = tables
        self._enacting = enacting
        self._uplink = uplink
        self._transfers = transfers
        self._lead_us = lead_us
        self._policy = policy
        self._log = log
        self._recording: Recording | None = None

    @property
    def core_time_us(self) -> int:
        """Now, on the core's clock."""
        return now_us() + self._lead_us

    @property
    def wake_us(self) -> int:
        """When the core's timer is due, on this host's clock; NEVER where none is set."""
        wake_us = self._enacting.wake_us
        return NEVER if wake_us == NEVER else wake_us - self._lead_us

    def handle(self, event: Event) -> None:
        """Tell the core of the table that is served, now."""
        began_us = now_us()
        self._handle(event, began_us + self._lead_us, began_us)

    def handle_arrivals(self, offers: list[RequestArrived], began_us: int) -> None:
        """The same for frames that came together. began_us: now, when they were offered."""
        self._handle(offers, began_us + self._lead_us, began_us)

    def fire_if_due(self) -> None:
        """A timer is told with the time it was set for: what the core held back until the last moment would
        otherwise, by the lateness of any timer, be too late.
        """
        due_us = self._enacting.wake_us
        if due_us <= self.core_time_us:
            self._enacting.wake_us = NEVER
            self._handle(TimerFired(), due_us, now_us())

    def tell(self, table: ServedTable, event: Event) -> None:
        """Tell the core of the table that is served, or of one before it, which has nothing to do."""
        if table is self._tables.now:
            self.handle(event)
            return
        table.core.handle(event, self.core_time_us)
        for taken in self._tables.holds():
            self.handle(taken)
        self._tables.leave_if_over(table)

    def answer(self, core: SchedulerCore, told: Told, time_us: int, note: Note) -> list[Action]:
        """What a core answers, knowing what other models' dispatchers take of the entry's uplink, who hear of
        what it takes. note: called with what was heard of them. Nothing is enacted.
        """
        if self._transfers.look_us <= time_us:
            for behind in self._transfers.look(core.served_model, now_us()):
                note(behind, time_us, core.handle(behind, time_us))
        if not self._uplink.shared:
            return _answer(core, told, time_us)
        actions: list[Action] = []
        try:
            for taken in self._uplink.hear():
                note(taken, time_us, core.handle(taken, time_us))
            actions = _answer(core, told, time_us)
        finally:
            uses = [core.link_use(action.ticket) for action in actions if isinstance(action, Dispatch)]
            self._uplink.tell([use for use in uses if use is not None])
        return actions

    def note(self, told: Told, time_us: int, actions: Sequence[Action]) -> None:
        """Record what a core was told and has answered."""
        recording = self._recording
        if recording is None:
            return
        if isinstance(told, list):
            goes_on = recording.handled_together(told, time_us, actions)
        else:
            goes_on = recording.handled(told, time_us, actions)
        if not goes_on:
            self._recording = None

    def record(self, wanted: WantedRecording, from_start: bool = False) -> None:
        """Record from now on. from_start: whether the core has been told nothing yet."""
        self.close()
        table = self._tables.now
        self._recording = Recording.begin(
            table.entry.dispatcher,
            table.entry.served,
            self._policy,
            table.first_batch if from_start else table.core.next_batch_id,
            from_start,
            wanted,
            self._log,
            table.core.told,
        )

    def begin_anew(self) -> None:
        """Another table is served: its core has set no timer yet, and a recording is of one table."""
        self._enacting.wake_us = NEVER
        if self._recording is not None:
            self.record(self._recording.rest(), from_start=True)

    def close(self) -> None:
        """End the recording, if one runs."""
        if self._recording is not None:
            self._recording.close()

    def _handle(self, told: Told, time_us: int, began_us: int) -> None:
        actions = self.answer(self._tables.now.core, told, time_us, self.note)
        self.note(told, time_us, actions)
        self._enacting.act(actions, began_us)


def _answer(core: SchedulerCore, told: Told, time_us: int) -> list[Action]:
    return core.handle_arrivals(told, time_us) if isinstance(told, list) else core.handle(told, time_us)
