"""One frame of a cascade: what is asked next, and what its answer is, whatever ends in whichever order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_repo_generator.emulated import (
    EmulatedCascade,
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
)
from model_repo_generator.emulated import _cascade as served_cascade
from planner.cascades.data import Cascade, Fanout, Member
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from python_backend.cascade.frames import SentFrame
from python_backend.cascade.making import MadeFrames
from python_backend.cascade.parent import MOST_SAID, Ask, Make, Parent, empty_answer
from python_backend.wire.kserve import Array

INPUT = TensorSpec("frame", "FP32", (4,))
OUTPUT = (TensorSpec("scores", "FP32", (2,)),)
FANOUT = Fanout(2.0, 1.0, 6)
TREE = (
    Member("detector"),
    Member("kinds", "detector", FANOUT, "crops"),
    Member("plates", "detector", FANOUT, "crops"),
    Member("letters", "plates", FANOUT, "crops"),
)


def made_manifest() -> DeploymentManifest:
    pipeline = EmulatedPipeline(1, (EmulatedStage((1000,), ("s",), OUTPUT),))
    models = [EmulatedModel(member.model, 100_000, 10.0, INPUT, (pipeline,)) for member in TREE]
    return build_manifest(models, 20_000, "made")


MANIFEST = made_manifest()
ENTRIES = {entry.model: entry for entry in MANIFEST.models}
CASCADE = served_cascade(EmulatedCascade(Cascade("street", 300_000, TREE), 5.0), list(ENTRIES.values()), 1)


def frame(value: float) -> Mapping[str, Array]:
    return {"frame": np.full((1, 4), value, np.float32)}


def scores(value: float) -> Mapping[str, Array]:
    return {"scores": np.full((1, 2), value, np.float32)}


def parent() -> Parent:
    return Parent(CASCADE, ENTRIES, SentFrame(ENTRIES["detector"], frame(0)))


def test_parts_add_up_along_the_way() -> None:
    assert [(member.model, member.by_us) for member in CASCADE.members] == [
        ("detector", 100_000),
        ("kinds", 200_000),
        ("plates", 200_000),
        ("letters", 300_000),
    ]


def test_a_frame_of_which_nothing_comes_is_whole_with_its_first_answer() -> None:
    made = parent()
    makes = made.answered(made.begin(), scores(1))
    assert [make.member.model for make in makes] == ["kinds", "plates"]
    assert made.open == 2
    for make in makes:
        assert made.made(make, MadeFrames()) == []
    assert made.open == 0
    assert not made.is_partial
    answer = made.answer()
    assert answer["kinds.scores"].shape == (1, 0, 2)
    assert answer["partial"].tolist() == [[False]]
    assert {name: array.shape[0] for name, array in answer.items()} == dict.fromkeys(answer, 1)
    assert answer.keys() == {spec.name for spec in CASCADE.outputs}


def test_rows_say_what_they_came_of() -> None:
    made = parent()
    kinds, plates = made.answered(made.begin(), scores(1))
    made.made(kinds, MadeFrames())
    first, second = made.made(plates, MadeFrames(((4, frame(1)), (7, frame(2)))))
    (letters,) = made.answered(second, scores(20))
    (letter,) = made.made(letters, MadeFrames(((0, frame(3)),)))
    made.answered(letter, scores(30))
    made.refused(first, "reason=overload")
    answer = made.answer()
    assert answer["plates.of"].tolist() == [[0, 0]]
    assert answer["plates.row"].tolist() == [[4, 7]]
    assert answer["plates.answered"].tolist() == [[False, True]]
    assert answer["plates.scores"].tolist() == [[[0, 0], [20, 20]]]
    assert answer["letters.of"].tolist() == [[1]]
    assert answer["missing"].tolist() == [[b"plates 0: reason=overload"]]
    assert answer["partial"].all()


def test_what_was_not_made_is_said_up_to_a_limit() -> None:
    made = parent()
    kinds, _ = made.answered(made.begin(), scores(1))
    made.made(kinds, MadeFrames(faults=tuple(f"row {row}: none" for row in range(100))))
    said = made.answer()["missing"][0]
    assert said[0] == b"kinds of detector 0: row 0: none"
    assert said[MOST_SAID] == f"and {100 - MOST_SAID} more".encode()
    assert said[-1] == b"1 had not ended by the deadline"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_ends_in_whichever_order_ends_once(data: st.DataObject) -> None:
    made = parent()
    waiting: list[Ask | Make] = [made.begin()]
    lost = 0
    while waiting:
        assert made.open == len(waiting)
        if made.has_begun:
            assert made.answer()["partial"].all()
        step = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        if isinstance(step, Make):
            count = data.draw(st.integers(0, 3))
            waiting += made.made(step, MadeFrames(tuple((row, frame(row)) for row in range(count))))
        elif made.has_begun and data.draw(st.booleans()):
            made.refused(step, "gone")
            lost += 1
        else:
            waiting += made.answered(step, scores(1))
    assert made.open == 0
    answer = made.answer()
    assert bool(answer["partial"][0, 0]) == (lost > 0)
    rows = [answer[f"{member.model}.answered"][0] for member in TREE[1:]]
    assert sum(int((~row).sum()) for row in rows) == lost


@pytest.mark.parametrize("name", [spec.name for spec in CASCADE.outputs])
def test_a_probe_gets_every_output(name: str) -> None:
    assert empty_answer(CASCADE)[name].shape[0] == 1
