"""What the benchmark of doors says became of a good client's frames."""

from __future__ import annotations

import pytest

from benchmarks.doors import is_asked
from benchmarks.helpers.doors.floods import ending_of
from benchmarks.helpers.loads.tagged import TaggedFrame


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (TaggedFrame(0.0, ended_s=1.0), "late"),
        (TaggedFrame(0.0), "late"),
        (TaggedFrame(0.0, ended_s=0.1, wrong=True), "wrong"),
        (
            TaggedFrame(0.0, ended_s=0.1, error="UNAVAILABLE: tiny: 9 frames are open: reason=overload"),
            "reason=overload",
        ),
        (TaggedFrame(0.0, ended_s=0.1, error="UNAVAILABLE: HTTP 503"), "UNAVAILABLE: HTTP 503"),
    ],
)
def test_frames_that_were_lost_are_told_apart(frame: TaggedFrame, said: str) -> None:
    assert ending_of(frame) == said


def test_attacks_are_chosen_by_name() -> None:
    names = ["bombs", "callers", "callers through the front, 1 address"]
    assert [name for name in names if is_asked(name, "")] == names
    assert [name for name in names if is_asked(name, "callers")] == ["callers"]
    assert [name for name in names if is_asked(name, "callers*")] == names[1:]
