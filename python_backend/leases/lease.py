"""A lease, and the one thing that a store of leases must be able to do.

Rules
- A lease changes by `swap` alone: its record becomes another one if it still is what was seen. So of two who
  want it at once one gets it, and no clock of the store takes part.
- Every change of hands gives it a higher term: the token by which others tell an old holder from a new one.
- A holder makes its record a new one again and again (`beat`). Those who look decide by their own clocks that
  it has run out (leases.ownership), as Kubernetes' leader election does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol


class StoreUnreachable(Exception):
    """The store did not answer in time, or not as a store does; the message says what it did."""


@dataclass(frozen=True)
class Lease:
    """What the store says of one name. holder: '' where it was given up; run: of the holder's process, so
    that it knows itself from what it was before a restart. heir: to whom the holder would give it now; ''.
    """

    name: str
    holder: str
    run: str
    term: int
    beat: int = 0
    heir: str = ""

    def renewed(self) -> Lease:
        """With a sign of life."""
        return replace(self, beat=self.beat + 1)

    def offered(self, heir: str) -> Lease:
        """Still held, and `heir` may take it."""
        return replace(self, beat=self.beat + 1, heir=heir)

    def given_up(self) -> Lease:
        """Nobody's; its term stays, so that the next one is higher."""
        return replace(self, holder="", run="", beat=self.beat + 1, heir="")


@dataclass(frozen=True)
class Swap:
    """Make a record `new` if it still is `seen`; None: if there is none of the name."""

    seen: Lease | None
    new: Lease


class LeaseStore(Protocol):
    """Where leases are. Calls end within about a second: late answers are no answers."""

    def look(self, prefix: str) -> Mapping[str, Lease]:
        """All leases whose names begin so, by name. Raises StoreUnreachable."""
        ...

    def swap(self, swap: Swap) -> bool:
        """Whether it was made. Raises StoreUnreachable, and then it may have been made or not."""
        ...

    def swap_all(self, swaps: Sequence[Swap]) -> list[bool]:
        """Several, in order; whether each was made. Raises StoreUnreachable, as swap."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...
