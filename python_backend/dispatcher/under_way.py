"""The book of the batches that were sent: which are under way, which of them have been computed, which were
given up while their hops go on, and which workers owe something for too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.overdue import Overdue, Silent
from python_backend.scheduler.actions import Ticket

_REMEMBERED_TICKETS: Final = 4096
"""To name the worker of a notice, which may come after the batch's answer."""


class Ended:
    """What was known of a batch when its hop ended. `computed`: its last stage had told that it was done."""

    def __init__(self, computed: bool, abandoned: bool) -> None:
        self.computed: Final = computed
        self.abandoned: Final = abandoned


class UnderWay:
    """See the module. Used by one thread at a time."""

    def __init__(self, overdue: Overdue) -> None:
        self._overdue = overdue
        self._tickets: dict[int, tuple[Ticket, int]] = {}
        """Ticket and number of frames by batch."""
        self._batches: dict[int, Sequence[Frame]] = {}
        """The frames of each batch whose hop has not ended."""
        self._computed: set[int] = set()
        """Batches under way whose last stage has ended: the answer may still get lost."""
        self._abandoned: set[int] = set()
        """Batches whose frames were given back to the core while their hop goes on."""

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def look_us(self) -> int:
        """When to look for silent workers."""
        return self._overdue.look_us

    def sent(self, ticket: Ticket, frames: Sequence[Frame], now_us: int) -> None:
        """A batch goes out."""
        self._batches[ticket.batch_id] = frames
        self._overdue.sent(ticket, now_us)
        self._tickets[ticket.batch_id] = (ticket, len(frames))
        if len(self._tickets) > _REMEMBERED_TICKETS:
            del self._tickets[next(iter(self._tickets))]

    def find(self, batch: int) -> tuple[Ticket, int] | None:
        """Ticket and number of frames of a batch that was sent not too long ago."""
        return self._tickets.get(batch)

    def frames_of(self, ticket: Ticket) -> Sequence[Frame]:
        """The frames of a batch under way; none when its hop has ended."""
        return self._batches.get(ticket.batch_id, ())

    def heard(self, ticket: Ticket, stage: int, ended_us: int, now_us: int) -> None:
        """A stage of a batch has told that it ended."""
        if stage == len(ticket.hops) - 1 and ticket.batch_id in self._batches:
            self._computed.add(ticket.batch_id)
        self._overdue.heard(ticket.hops[stage].worker, ticket.batch_id, stage, ended_us, now_us)

    def over(self, ticket: Ticket) -> Ended:
        """The hop of a batch has ended."""
        batch = ticket.batch_id
        ended = Ended(computed=batch in self._computed, abandoned=batch in self._abandoned)
        self._batches.pop(batch, None)
        self._computed.discard(batch)
        self._abandoned.discard(batch)
        self._overdue.over(batch)
        return ended

    def abandon(self, worker: str) -> list[Ticket]:
        """`worker` is out: the batches that it still owes something, which nobody waits for any more."""
        owed = self._overdue.lost(worker)
        for ticket in owed:
            self._overdue.over(ticket.batch_id)
            self._abandoned.add(ticket.batch_id)
        return owed

    def is_given_up(self, batch: int) -> bool:
        """Whether its frames were given back while its hop goes on. May be asked by any thread."""
        return batch in self._abandoned

    def owing(self) -> set[str]:
        """Workers that its batches may still need: all of those that were given up too, whose hops go on."""
        owing = self._overdue.owing()
        for batch in list(self._abandoned):
            if (known := self._tickets.get(batch)) is not None:
                owing.update([hop.worker for hop in known[0].hops])
        return owing

    def back(self, worker: str, now_us: int) -> None:
        """`worker` is in use again."""
        self._overdue.back(worker, now_us)

    def silent(self, now_us: int, allowance_us: int) -> list[Silent]:
        """Workers to be taken for dead. `allowance_us`: by which answers are late anyway."""
        return self._overdue.silent(now_us, allowance_us)
