"""A cascade: a tree of models, how many frames each makes for the next, one SLO from end to end. Data only.

Rules: each member stands after the one that feeds it; the first is fed by clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.serial import LATER


@dataclass(frozen=True)
class Fanout:
    """How many frames come of one answer: mean, standard deviation, and the most."""

    mean: float
    deviation: float
    most: int

    @property
    def least_variance(self) -> float:
        """Of whole numbers: a mean that is none needs some."""
        over = self.mean % 1.0
        return over * (1.0 - over)

    @property
    def variance(self) -> float:
        """Of the number of frames."""
        return max(self.deviation**2, self.least_variance)

    @property
    def bunch(self) -> float:
        """E[N^2] / E[N]: of how many frames the bunch is that a frame finds itself in, on average. As they
        come at once, it is also the index of dispersion of their arrivals where answers are Poisson.
        """
        return self.mean + self.variance / self.mean


@dataclass(frozen=True)
class Member:
    """One model of a cascade. of: whose answers become its frames; '': it takes the cascade's own. make: how,
    'crops' (one of each box) or a Python function 'package.module:callable'. headroom: it is planned for so
    many times its frames, since bunches of them need workers that rest in between.
    """

    model: str
    of: str = ""
    fanout: Fanout = Fanout(1.0, 0.0, 1)
    make: str = ""
    headroom: float = field(default=1.0, metadata=LATER)


@dataclass(frozen=True)
class Cascade:
    """weight, rate_rps: of its own frames, as of a model's demand."""

    name: str
    slo_us: int
    members: tuple[Member, ...]
    weight: float | None = None
    rate_rps: float | None = None

    def member(self, model: str) -> Member:
        """Raises KeyError."""
        for member in self.members:
            if member.model == model:
                return member
        raise KeyError(f"no member {model!r} in cascade {self.name!r}")

    def way_to(self, model: str) -> tuple[Member, ...]:
        """From the first member to this one."""
        member = self.member(model)
        return (*self.way_to(member.of), member) if member.of else (member,)

    @property
    def leaves(self) -> tuple[Member, ...]:
        """Members that feed no other."""
        feeding = {member.of for member in self.members}
        return tuple(member for member in self.members if member.model not in feeding)

    def frames_of(self, model: str) -> float:
        """Frames of this member for each of the cascade's own, on average."""
        product = 1.0
        for member in self.way_to(model):
            product *= member.fanout.mean
        return product


@dataclass(frozen=True)
class CascadePart:
    """What a member got. slo_us: of the cascade's; frames: of it for each of the cascade's own."""

    model: str
    of: str
    slo_us: int
    frames: float
    bunch: float


@dataclass(frozen=True)
class PlannedCascade:
    """A cascade as planned, in frames/s of its own."""

    name: str
    slo_us: int
    throughput_rps: float
    parts: tuple[CascadePart, ...]


Parts = Mapping[str, int]
"""Of the SLO, in microseconds, by member."""
