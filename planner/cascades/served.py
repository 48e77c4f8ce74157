"""A cascade as the entry server serves it: part of deployment.json. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from planner.profile import TensorSpec
from planner.serial import LATER


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
    server's host. outputs: of the answer to one frame; -1 is the number of a member's frames. in_order:
    whether answers of one stream are sent in the order of its frames.
    """

    name: str
    slo_us: int
    planned_rps: float
    members: tuple[ServedMember, ...]
    outputs: tuple[TensorSpec, ...]
    metrics_port: int
    in_order: bool = field(default=False, metadata=LATER)

    @property
    def first(self) -> ServedMember:
        """The one that takes the cascade's frames."""
        return self.members[0]

    def member(self, model: str) -> ServedMember:
        """Raises KeyError."""
        for member in self.members:
            if member.model == model:
                return member
        raise KeyError(f"no member {model!r} in cascade {self.name!r}")

    def fed_by(self, model: str) -> tuple[ServedMember, ...]:
        """Members whose frames come of this one's answers."""
        return tuple(member for member in self.members if member.of == model)

    def with_parts(self, parts_us: Mapping[str, int]) -> CascadeEntry:
        """The same with these parts of the SLO, by member. No member has more than the whole of it."""
        by_us: dict[str, int] = {"": 0}
        for member in self.members:
            by_us[member.model] = min(self.slo_us, by_us[member.of] + parts_us[member.model])
        return self._by(by_us)

    def with_longest(self, other: CascadeEntry) -> CascadeEntry:
        """The same with the later of both times by which a member must have answered."""
        return self._by(
            {each.model: max(each.by_us, other.member(each.model).by_us) for each in self.members}
        )

    def _by(self, by_us: Mapping[str, int]) -> CascadeEntry:
        members = tuple(replace(member, by_us=by_us[member.model]) for member in self.members)
        return replace(self, members=members)
