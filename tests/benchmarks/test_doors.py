"""What the benchmark of doors says became of a good client's frames."""

from __future__ import annotations

import pytest

from benchmarks.doors import address_counts, named_so, run
from benchmarks.helpers.doors.floods import Borne, ending_of
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
    assert list(named_so(dict.fromkeys(names), "")) == names
    assert list(named_so(dict.fromkeys(names), "callers")) == ["callers"]
    assert list(named_so(dict.fromkeys(names), "callers*")) == names[1:]


def test_numbers_of_addresses_are_asked_for() -> None:
    assert address_counts((2.0, 4.0, 16.0)) == (2, 4, 16)


@pytest.mark.parametrize("number", [0.0, 2.5, 255.0, float("nan"), float("inf")])
def test_what_is_no_number_of_addresses_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match=r"--addresses .*: expected whole numbers from 1 to 254"):
        address_counts((8.0, number))


def test_one_attack_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="--times 1: expected 2 or more"):
        run(times=1)


@pytest.mark.parametrize(
    ("peaks", "growth"),
    [((100, 116), 0.16), ((100, 116, 116), 0.16), ((100, 100, 110), 0.1), ((100, 90), -0.1)],
)
def test_memory_grows_by_what_an_attack_adds_to_the_one_before(peaks: tuple[int, ...], growth: float) -> None:
    assert Borne(1, 1, 1, 1.0, (), peaks, {}).growth == pytest.approx(growth)
