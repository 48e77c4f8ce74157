"""One frame of a cascade and all that comes of it: which model is to be asked what next, and the answer.

    begin -> Ask -> answered -> Make of each member it feeds -> made -> Asks -> ... until nothing is open
                 -> refused                                  (what is missing is kept as text)

Rules
- Pure: no clock, no threads, no I/O. One caller at a time.
- Whatever ends, be it answered or not, ends once. The frame is whole when nothing is open and nothing is
  missing.
- At any time `answer` is what is there; frames without an answer of their own are zeros in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ensembles.cascade_answer import ANSWERED, MISSING, OF, PARTIAL, ROW, joined
from planner.cascades.served import CascadeEntry, ServedMember
from planner.manifest import ModelEntry
from planner.profile import TensorSpec
from python_backend.cascade.frames import SentFrame
from python_backend.cascade.making import MadeFrames
from python_backend.wire.kserve import Array, zeros_of

Outputs = Mapping[str, Array]
MOST_SAID = 32
"""Lines of what is missing in an answer."""


@dataclass(frozen=True)
class Ask:
    """Frame `number` of a member is to be answered."""

    member: ServedMember
    number: int
    frame: SentFrame


@dataclass(frozen=True)
class Make:
    """Frames of `member` are to be made of the answer to frame `of` of the one that feeds it."""

    member: ServedMember
    of: int
    frame: SentFrame
    outputs: Outputs


@dataclass
class _Slot:
    """A frame of a later member."""

    of: int
    row: int
    outputs: Outputs | None = None


@dataclass
class Parent:
    """See the module. entries: of the members, by their models."""

    cascade: CascadeEntry
    entries: Mapping[str, ModelEntry]
    frame: SentFrame
    open: int = 0
    missing: list[str] = field(default_factory=list)
    _first: Outputs | None = None
    _slots: dict[str, list[_Slot]] = field(default_factory=dict)

    def begin(self) -> Ask:
        """The frame goes to the first member."""
        self.open = 1
        return Ask(self.cascade.first, 0, self.frame)

    @property
    def has_begun(self) -> bool:
        """Whether the first member has answered."""
        return self._first is not None

    @property
    def is_partial(self) -> bool:
        """Whether the answer, were it sent now, lacks something."""
        return bool(self.open or self.missing)

    def answered(self, ask: Ask, outputs: Outputs) -> list[Make]:
        """The answer to a frame, with its batch dimension of 1."""
        if ask.member is self.cascade.first:
            self._first = outputs
        else:
            self._slots[ask.member.model][ask.number].outputs = outputs
        row = {name: array[0] for name, array in outputs.items()}
        makes = [Make(to, ask.number, ask.frame, row) for to in self.cascade.fed_by(ask.member.model)]
        self.open += len(makes) - 1
        return makes

    def refused(self, ask: Ask, why: str) -> None:
        """A frame of a later member has no answer, and so no frames come of it."""
        self.open -= 1
        self.missing.append(f"{ask.member.model} {ask.number}: {why}")

    def made(self, make: Make, made: MadeFrames) -> list[Ask]:
        """The frames that came of an answer."""
        slots = self._slots.setdefault(make.member.model, [])
        asks = []
        for row, given in made.frames:
            frame = SentFrame(self.entries[make.member.model], given)
            asks.append(Ask(make.member, len(slots), frame))
            slots.append(_Slot(make.of, row))
        where = f"{make.member.model} of {make.member.of} {make.of}"
        self.missing += [f"{where}: {fault}" for fault in made.faults]
        self.open += len(asks) - 1
        return asks

    def answer(self) -> dict[str, Array]:
        """What is there, with a batch dimension of 1. The first member must have answered."""
        assert self._first is not None
        found: dict[str, Array] = dict(self._first)
        for member in self.cascade.members[1:]:
            found |= self._joined(member.model)
        found[PARTIAL] = np.array([[self.is_partial]])
        found[MISSING] = self._said()
        return found

    def _joined(self, model: str) -> dict[str, Array]:
        slots = self._slots.get(model, [])
        found: dict[str, Array] = {}
        for spec in self.entries[model].outputs:
            # A member's own outputs may be of any size; what has no answer is as large as the others.
            rows = [None if slot.outputs is None else slot.outputs[spec.name] for slot in slots]
            shape = next((row.shape[1:] for row in rows if row is not None), spec.shape)
            empty = zeros_of(_without_free_sizes(spec, shape))
            stacked = np.concatenate([empty[:0], *(empty if row is None else row for row in rows)])
            found[joined(model, spec.name)] = stacked[np.newaxis]
        found[joined(model, OF)] = np.array([[slot.of for slot in slots]], np.int32)
        found[joined(model, ROW)] = np.array([[slot.row for slot in slots]], np.int32)
        found[joined(model, ANSWERED)] = np.array([[slot.outputs is not None for slot in slots]], np.bool_)
        return found

    def _said(self) -> Array:
        lines = self.missing[:MOST_SAID]
        if len(self.missing) > MOST_SAID:
            lines = [*lines, f"and {len(self.missing) - MOST_SAID} more"]
        if self.open:
            lines = [*lines, f"{self.open} had not ended by the deadline"]
        found = np.empty((1, len(lines)), np.object_)
        found[0, :] = [line.encode() for line in lines]
        return found


def empty_answer(cascade: CascadeEntry) -> dict[str, Array]:
    """Zeros, and no frames of later members: what a probe gets."""
    return {spec.name: zeros_of(_without_free_sizes(spec, spec.shape)) for spec in cascade.outputs}


def _without_free_sizes(spec: TensorSpec, shape: Sequence[int]) -> TensorSpec:
    return replace(spec, shape=tuple(max(0, size) for size in shape))
