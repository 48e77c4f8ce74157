"""A cascade as the entry server serves it: part of deployment.json. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from planner.profile import TensorSpec


@dataclass(frozen=True)
class ServedMember:
    """One model of a served cascade. of: whose answers become its frames; '': it takes the cascade's own.

    make: how ('crops', or 'package.module:callable'); most: frames from one answer. by_us: how long after
    the cascade's frame came each of this model's must be answered, so that those after it have their time.
    """

    model: str
    by_us: int
    of: str = ""
    make: str = ""
    most: int = 1


@dataclass(frozen=True)
class CascadeEntry:
    """A public cascade. members: each after the one that feeds it. metrics_port: of its page, on the entry
    server's host. outputs: of the answer to one frame; -1 is the number of a member's frames.
    """

    name: str
    slo_us: int
    planned_rps: float
    members: tuple[ServedMember, ...]
    outputs: tuple[TensorSpec, ...]
    metrics_port: int

    @property
    def first(self) -> ServedMember:
        """The one that takes the cascade's frames."""
        return self.members[0]

    def fed_by(self, model: str) -> tuple[ServedMember, ...]:
        """Members whose frames come of this one's answers."""
        return tuple(member for member in self.members if member.of == model)
