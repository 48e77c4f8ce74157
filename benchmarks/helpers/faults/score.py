"""What came of one fault under load.

`others` are the frames sent earlier than one SLO before the strike or later than one SLO after it: those
between may have been on the failed component, or have waited for what was. Their attainment is divided by
min(1, remaining capacity / load) over the outage, which for a dispatcher is nothing: there only frames after
its return count.

A component is back when its server answers probes again; how long that took is the outage. Recovery runs
from then to the first whole second above 99 %; what came later than 3 s after it is a figure of its own.

Of the others that were not in time it is kept what they were told and when, and how much the client and the
whole host had to do. Where the client itself could not send a tenth of its frames on time, the host was
starved by other programs: such strikes count in all figures, and are left out in one that says so.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.helpers.loads.tagged import TaggedFrame

_RECOVERED = 0.99
_ALLOWED_S = 3.0
_WINDOW_S = 1.0
_STEP_S = 0.05
_LONGEST_S = 1e6
_LATE_SEND_S = 0.005
_STARVED_SHARE = 0.1


@dataclass(frozen=True)
class Score:
    """Times in seconds, the rest counts of frames. began: by the clock on the wall, to find its logs.
    late_sends: by the client, more than 5 ms after they were due. lost: of the others, see `losses`.
    """

    fault: str
    seed: int
    frames: int
    in_time: int
    unanswered: int
    answered_late: int
    wrong: int
    duplicate: int
    attainment_others: float
    outage_s: float
    recovery_s: float | None
    attainment_after: float
    late_sends: int
    host_busy_share: float
    began: str
    lost: Sequence[str]

    @property
    def starved(self) -> bool:
        """Whether the client was kept from sending in time: the host was busy with other programs."""
        return self.late_sends > _STARVED_SHARE * self.frames


@dataclass(frozen=True)
class Strike:
    """A fault and the frames around it. lost_share: of one stage's workers. possible: remaining capacity over
    load, at most 1. Times in seconds from the load's start.
    """

    fault: str
    lost_share: float
    load: float
    slo_s: float
    struck_s: float
    back_s: float
    frames: Sequence[TaggedFrame]
    host_busy_share: float = 0.0
    began: str = ""

    def score(self, seed: int) -> Score:
        """See the module."""
        return Score(
            fault=self.fault,
            seed=seed,
            frames=len(self.frames),
            in_time=sum(frame.in_time(self.slo_s) for frame in self.frames),
            unanswered=sum(frame.answers == 0 for frame in self.frames),
            answered_late=sum(self._is_too_late(frame) for frame in self.frames),
            wrong=sum(frame.wrong for frame in self.frames),
            duplicate=sum(frame.answers > 1 for frame in self.frames),
            attainment_others=round(self.attainment_of_others(), 4),
            outage_s=round(self.back_s - self.struck_s, 3),
            recovery_s=self.recovery_s(),
            attainment_after=round(self.attainment_after(), 4),
            late_sends=sum(frame.sent_s - frame.due_s > _LATE_SEND_S for frame in self.frames),
            host_busy_share=round(self.host_busy_share, 3),
            began=self.began,
            lost=self.losses(),
        )

    def others(self) -> list[TaggedFrame]:
        """See the module."""
        after_s = self.back_s if self.lost_share == 1.0 else self.struck_s
        return [
            frame
            for frame in self.frames
            if frame.sent_s < self.struck_s - self.slo_s or frame.sent_s > after_s + self.slo_s
        ]

    def attainment_of_others(self) -> float:
        """Relative to what the remaining capacity allows, outage by outage."""
        others = self.others()
        outage = [frame for frame in others if self.struck_s < frame.sent_s < self.back_s]
        possible = min(1.0, (1 - self.lost_share) / self.load)
        expected = len(others) - len(outage) * (1 - possible)
        return sum(frame.in_time(self.slo_s) for frame in others) / expected

    def losses(self) -> list[str]:
        """Of the others not in time, by what they were told: how many, and when they were sent, in seconds
        after the strike.
        """
        told: dict[str, list[float]] = {}
        for frame in self.others():
            if not frame.in_time(self.slo_s):
                told.setdefault(_told(frame), []).append(frame.sent_s - self.struck_s)
        return [
            f"{len(sent)} {what}: {min(sent):.2f} to {max(sent):.2f} s, median {statistics.median(sent):.2f}"
            for what, sent in told.items()
        ]

    def recovery_s(self) -> float | None:
        """See the module; None when that never came."""
        last_s = max((frame.sent_s for frame in self.frames), default=0.0)
        steps = round((last_s - _WINDOW_S - self.back_s) / _STEP_S)
        for step in range(max(0, steps) + 1):
            if self._attainment(self.back_s + step * _STEP_S, _WINDOW_S) >= _RECOVERED:
                return round(step * _STEP_S, 2)
        return None

    def attainment_after(self) -> float:
        """Of the frames sent later than the time allowed for recovery."""
        return self._attainment(self.back_s + _ALLOWED_S, _LONGEST_S)

    def _attainment(self, from_s: float, length_s: float) -> float:
        chosen = [frame for frame in self.frames if from_s <= frame.sent_s < from_s + length_s]
        return statistics.mean(frame.in_time(self.slo_s) for frame in chosen) if chosen else 1.0

    def _is_too_late(self, frame: TaggedFrame) -> bool:
        """Whether its answer, of whatever kind, came later than a second after its deadline."""
        return frame.ended_s is not None and frame.ended_s - frame.sent_s > self.slo_s + 1.0


def totals(scores: Sequence[Score]) -> dict[str, Any]:
    """Of all strikes together."""
    return {
        "frames": sum(score.frames for score in scores),
        "unanswered": sum(score.unanswered for score in scores),
        "answered_late": sum(score.answered_late for score in scores),
        "wrong": sum(score.wrong for score in scores),
        "duplicate": sum(score.duplicate for score in scores),
        "attainment_others_min": min((score.attainment_others for score in scores), default=None),
        "starved": sum(score.starved for score in scores),
        "attainment_others_min_not_starved": min(
            (score.attainment_others for score in scores if not score.starved), default=None
        ),
        "recovery_s_max": max(_seen(scores), default=0.0),
        "never_recovered": sum(score.recovery_s is None for score in scores),
        "attainment_after_min": min((score.attainment_after for score in scores), default=None),
        "outage_s_max": max((score.outage_s for score in scores), default=None),
    }


def summary(scores: Sequence[Score]) -> Mapping[str, Any]:
    """Of the strikes of one fault."""
    others = sorted(score.attainment_others for score in scores)
    outages = sorted(score.outage_s for score in scores)
    return {
        "runs": len(scores),
        **totals(scores),
        "attainment_others_worst": others[:2],
        "attainment_others_median": others[len(others) // 2],
        "outage_s_median": outages[len(outages) // 2],
    }


def _seen(scores: Iterable[Score]) -> list[float]:
    return [score.recovery_s for score in scores if score.recovery_s is not None]


def _told(frame: TaggedFrame) -> str:
    if frame.ended_s is None:
        return "unanswered"
    reason = re.search(r"reason=\w+", frame.error)
    if reason is not None:
        return reason[0]
    return re.sub(r"\d+", "#", frame.error[:80]) or "answered late"
