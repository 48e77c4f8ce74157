"""`cascades:` in a deployment file: answers of one model become frames of the next, with one SLO for all.

Rules
- A cascade is a tree: one member takes the cascade's frames, every other is fed by one member; a model is
  in one cascade at most.
- The cascade's SLO, rate, weight and streams count; its members state none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, model_validator

from planner.cascades.data import Cascade, Fanout, Member
from planner.deployment.model import ModelSpec
from planner.deployment.spec import Name, Spec
from planner.deployment.streams import StreamsSpec
from planner.streams import StreamPolicy

CROPS = "crops"
_WITH_BOXES = ("detection", "text")
_SPREAD = 4
"""Standard deviations above the mean that `most` is, where it is not stated."""
_ROUNDING = 1e-3
"""A deviation is stated in a few digits."""
_FROM_CASCADE = ("slo_ms", "rate_rps", "weight", "streams")


class MemberSpec(Spec):
    """A model of a cascade. of: the member whose answers become its frames. make: 'crops', one of each box,
    or a Python function 'package.module:callable'. count, deviation, most: of frames from one answer.
    """

    model: Name
    of: Name | None = None
    make: Annotated[str, Field(pattern=r"^(crops|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")] = CROPS
    count: float | None = Field(default=None, gt=0, le=10_000)
    deviation: float | None = Field(default=None, ge=0, le=10_000)
    most: int | None = Field(default=None, ge=1, le=10_000)

    @model_validator(mode="after")
    def _counted(self) -> MemberSpec:
        stated = [name for name in ("count", "deviation", "most") if getattr(self, name) is not None]
        if self.of is None and stated:
            raise ValueError(
                f"{self.model}: '{stated[0]}' is of frames from another member; give 'of', or leave it out"
            )
        if self.of is not None and self.count is None:
            raise ValueError(
                f"{self.model}: 'count' is missing: how many frames one answer of {self.of} makes"
            )
        if self.count is not None and self.most is not None and self.most < self.count:
            raise ValueError(
                f"{self.model}: most {self.most} is below count {self.count:g}, which is the mean"
            )
        self._spread()
        return self

    def _spread(self) -> None:
        """Numbers from 0 to the most, with this mean, spread so far at most. Raises ValueError."""
        if self.count is None or self.most is None or self.deviation is None:
            return
        widest = _widest(self.count, self.most)
        if self.deviation > widest * (1 + _ROUNDING):
            raise ValueError(
                f"{self.model}: deviation {self.deviation:g} is too large: numbers of at most {self.most} "
                f"with a mean of {self.count:g} have one of at most {widest:.3g}"
            )

    def to_member(self) -> Member:
        """As the planner's type."""
        if self.of is None or self.count is None:
            return Member(self.model)
        deviation = math.sqrt(self.count) if self.deviation is None else self.deviation
        # The second: where the spread is so wide that few frames in many bring nearly all.
        most = self.most or math.ceil(self.count + max(_SPREAD * deviation, 2 * deviation**2 / self.count))
        if self.deviation is None:
            deviation = min(deviation, _widest(self.count, most))
        return Member(self.model, self.of, Fanout(self.count, deviation, most), self.make)


class CascadeSpec(Spec):
    """A cascade. slo_ms: from a frame to the answer with all that came of it."""

    name: Name
    slo_ms: float = Field(gt=0)
    weight: float | None = Field(default=None, gt=0)
    rate_rps: float | None = Field(default=None, gt=0)
    streams: StreamsSpec | None = None
    models: tuple[MemberSpec, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _a_tree(self) -> CascadeSpec:
        names = [member.model for member in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is in it more than once")
        for member in self.models:
            if member.of is not None and member.of not in names:
                raise ValueError(
                    f"{member.model}: of {member.of!r}, which is no member; {', '.join(names)} are"
                )
        ordered = [member.model for member in self._ordered()]
        if circle := [name for name in names if name not in ordered]:
            raise ValueError(
                f"{' -> '.join(self._circle(circle[0]))}: a circle; a member must not feed itself"
            )
        firsts = [member.model for member in self.models if member.of is None]
        if len(firsts) != 1:
            raise ValueError(f"{' and '.join(firsts)} have no 'of'; one member takes the cascade's frames")
        return self

    @property
    def first(self) -> str:
        """The member that takes the cascade's frames."""
        return next(member.model for member in self.models if member.of is None)

    @property
    def in_order(self) -> bool:
        """Whether whole answers of a stream are sent in the order of its frames."""
        return self.streams is not None and self.streams.order == "stream"

    def first_streams(self) -> StreamPolicy | None:
        """What the first member does with its streams' frames; the order of answers is the cascade's."""
        if self.streams is None or not self.streams.decides:
            return None
        return replace(self.streams.to_policy(), order="arrival")

    def _ordered(self) -> list[MemberSpec]:
        """Each after the one that feeds it; those on or behind a circle are left out."""
        found: list[MemberSpec] = []
        for _ in self.models:
            known = {member.model for member in found}
            found += [
                member
                for member in self.models
                if member.model not in known and (member.of is None or member.of in known)
            ]
        return found

    def _circle(self, name: str) -> list[str]:
        """From a member on or behind a circle, in the direction of the frames."""
        feeding = {member.model: member.of or "" for member in self.models}
        seen: list[str] = []
        while name not in seen:
            seen.append(name)
            name = feeding[name]
        return [name, *reversed(seen[seen.index(name) :])]

    def to_cascade(self) -> Cascade:
        """As the planner's type; without weight and rate its weight is 1."""
        return Cascade(
            name=self.name,
            slo_us=round(self.slo_ms * 1000),
            members=tuple(member.to_member() for member in self._ordered()),
            weight=1.0 if self.weight is None and self.rate_rps is None else self.weight,
            rate_rps=self.rate_rps,
        )


def _widest(mean: float, most: int) -> float:
    """Standard deviation of numbers that are 0 or the most, with this mean."""
    return math.sqrt(mean * max(0.0, most - mean))


def with_slos(plain: Any) -> Any:
    """A file's plain data, members of cascades with the whole SLO as theirs. Raises ValueError where one
    states what is the cascade's to state.
    """
    if not isinstance(plain, Mapping) or not isinstance(plain.get("cascades"), Sequence):
        return plain
    slos = {name: (cascade, slo) for cascade, name, slo in _plain_members(plain["cascades"])}
    models = plain.get("models")
    if not isinstance(models, Sequence):
        return plain
    return {**plain, "models": [_with_slo(model, slos) for model in models]}


def _plain_members(cascades: Sequence[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """(cascade, model, SLO) as far as the data has the shape for it."""
    for cascade in cascades:
        members = cascade.get("models") if isinstance(cascade, Mapping) else None
        for member in members if isinstance(members, Sequence) else ():
            if isinstance(member, Mapping) and isinstance(member.get("model"), str):
                yield cascade.get("name"), member["model"], cascade.get("slo_ms")


def _with_slo(model: Any, slos: Mapping[str, tuple[Any, Any]]) -> Any:
    name = model.get("name") if isinstance(model, Mapping) else None
    if not isinstance(name, str) or name not in slos:
        return model
    cascade, slo_ms = slos[name]
    for field in _FROM_CASCADE:
        if field in model:
            raise ValueError(
                f"models.{name}.{field}: {name} is in cascade {cascade!r}, which states it; leave it out"
            )
    return {**model, "slo_ms": slo_ms}


def cascade_faults(cascades: Sequence[CascadeSpec], models: Sequence[ModelSpec]) -> Iterator[str]:
    """What of the cascades does not fit the models."""
    known = {model.name: model for model in models}
    taken: dict[str, str] = dict.fromkeys(known, "models")
    owner: dict[str, str] = {}
    for cascade in cascades:
        where = f"cascades.{cascade.name}"
        if cascade.name in taken:
            yield f"{where}: the name is one of {taken[cascade.name]} already"
        taken[cascade.name] = "cascades"
        for member in cascade.models:
            if member.model not in known:
                yield f"{where}: unknown model {member.model!r}; models has {', '.join(known)}"
                continue
            if owner.setdefault(member.model, cascade.name) != cascade.name:
                yield f"{where}: {member.model} is in cascade {owner[member.model]} already"
            if member.of is not None and member.of in known and member.make == CROPS:
                yield from _crop_faults(where, known[member.of], known[member.model])


def _crop_faults(where: str, giver: ModelSpec, taker: ModelSpec) -> Iterator[str]:
    task = None if giver.postprocess is None else giver.postprocess.task
    if task not in _WITH_BOXES:
        yield (
            f"{where}: crops are of boxes, and {giver.name} answers none: its postprocess.task is "
            f"{task or 'not stated'}; expected {' or '.join(_WITH_BOXES)}, or give 'make' a function"
        )
    if len(taker.inputs) > 1:
        yield (
            f"{where}: {taker.name} takes {', '.join(each.name for each in taker.inputs)}, and a crop is one "
            "input; give 'make' a function that makes all of them"
        )
    for model in (giver, taker):
        if model.preprocess is None:
            yield f"{where}: crops are cut out of pictures, and {model.name} has no preprocess"
