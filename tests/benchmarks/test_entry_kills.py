"""What is counted of kills of entries."""

from __future__ import annotations

import pytest

from benchmarks.helpers.entries.kills import Kill, figures
from benchmarks.helpers.loads.tagged import TaggedFrame


def frame(sent_s: float, took_s: float = 0.1, **fields: object) -> TaggedFrame:
    made = {"due_s": sent_s, "sent_s": sent_s, "ended_s": sent_s + took_s, "answers": 1}
    return TaggedFrame(**(made | fields))  # type: ignore[arg-type]


def test_frames_of_the_other_entrys_callers_count_from_kill_to_return() -> None:
    frames = [frame(number / 10) for number in range(100)]
    kill = Kill(victim=1, killed_s=5.0, adopted_s=5.4, back_s=6.5, returned_s=7.0)
    assert figures([kill], frames)["failed_at_others"] == 0
    frames[52] = frame(5.2, error="UNAVAILABLE: reason=overload")  # even: of entry 0's callers
    frames[54] = frame(5.4, took_s=2.0)
    frames[53] = frame(5.3, error="UNAVAILABLE: gone")
    frames[90] = frame(9.0, error="UNAVAILABLE: after the return")
    frames[10] = frame(1.0, wrong=True, answers=2)
    found = figures([kill], frames)
    assert found["failed_at_others"] == 0.2
    assert (found["wrong"], found["double"], found["unanswered"]) == (1, 1, 0)
    assert found["adoption_s_max"] == 0.4
    assert found["given_back_s_max"] == 0.5
    # Windows from 5.5 on are the first without a failed frame.
    assert found["recovery_s_max"] == pytest.approx(0.5, abs=0.11)
