"""One fault under load, and how it is scored.

`others` are the frames sent earlier than one SLO before the strike or later than one SLO after it: those
between may have been on the failed component, or have waited for what was. Their attainment is divided by
min(1, remaining capacity / load) over the outage, which for a dispatcher is nothing: there only frames after
its return count.

A component is back when its server answers probes again; how long that took is the outage. Recovery runs
from then to the first whole second above 99 %; what came later than 3 s after it is a figure of its own.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from ppipe.benchmarks.emulated_deployment import EmulatedModel, EmulatedPipeline, EmulatedStage
from ppipe.benchmarks.fault_kinds import Fault
from ppipe.benchmarks.tagged_load import TaggedFrame, TaggedLoad
from ppipe.launcher import ServedDeployment
from python_backend.simulator.arrivals import Poisson

LOAD = 0.7
SLO_US = 400_000
_BEFORE_S = 1.5
_AFTER_S = 4.0
_LONGEST_S = 60.0
_RECOVERED = 0.99
_ALLOWED_S = 3.0
_WINDOW_S = 1.0
_STEP_S = 0.05
_LATENCY_US = (20_000, 32_000, 44_000, 56_000)
_WORKERS = ("a", "a", "b", "b")
_SLO_S = SLO_US / 1e6


@dataclass(frozen=True)
class Score:
    """What came of one strike. Times in seconds, the rest counts of frames."""

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


@dataclass(frozen=True)
class Strike:
    """A fault and the frames around it. Times in seconds from the load's start."""

    fault: Fault
    struck_s: float
    back_s: float
    frames: Sequence[TaggedFrame]

    def score(self, seed: int) -> Score:
        """See the module."""
        return Score(
            fault=self.fault.name,
            seed=seed,
            frames=len(self.frames),
            in_time=sum(frame.in_time(_SLO_S) for frame in self.frames),
            unanswered=sum(frame.answers == 0 for frame in self.frames),
            answered_late=sum(_too_late(frame) for frame in self.frames),
            wrong=sum(frame.wrong for frame in self.frames),
            duplicate=sum(frame.answers > 1 for frame in self.frames),
            attainment_others=round(self.attainment_of_others(), 4),
            outage_s=round(self.back_s - self.struck_s, 3),
            recovery_s=self.recovery_s(),
            attainment_after=round(self.attainment_after(), 4),
        )

    def others(self) -> list[TaggedFrame]:
        """See the module."""
        after_s = self.back_s if self.fault.lost_share == 1.0 else self.struck_s
        return [
            frame
            for frame in self.frames
            if frame.sent_s < self.struck_s - _SLO_S or frame.sent_s > after_s + _SLO_S
        ]

    def attainment_of_others(self) -> float:
        """Relative to what the remaining capacity allows, outage by outage."""
        others = self.others()
        outage = [frame for frame in others if self.struck_s < frame.sent_s < self.back_s]
        possible = min(1.0, (1 - self.fault.lost_share) / LOAD)
        expected = len(others) - len(outage) * (1 - possible)
        return sum(frame.in_time(_SLO_S) for frame in others) / expected

    def recovery_s(self) -> float | None:
        """See the module; None when that never came."""
        steps = round((_AFTER_S - _WINDOW_S) / _STEP_S)
        for step in range(steps + 1):
            if self._attainment(self.back_s + step * _STEP_S, _WINDOW_S) >= _RECOVERED:
                return step * _STEP_S
        return None

    def attainment_after(self) -> float:
        """Of the frames sent later than the time allowed for recovery."""
        return self._attainment(self.back_s + _ALLOWED_S, _LONGEST_S)

    def _attainment(self, from_s: float, length_s: float) -> float:
        chosen = [frame for frame in self.frames if from_s <= frame.sent_s < from_s + length_s]
        return statistics.mean(frame.in_time(_SLO_S) for frame in chosen) if chosen else 1.0


def emulated_model() -> EmulatedModel:
    """Two stages of four workers, every pool over two servers."""
    cut = (TensorSpec("cut", "FP32", (40_000,)),)
    stages = (
        EmulatedStage(_LATENCY_US, tuple(f"{server}0" for server in _WORKERS), cut),
        EmulatedStage(
            _LATENCY_US,
            tuple(f"{server}1" for server in _WORKERS),
            (TensorSpec("scores", "FP32", (16,)),),
        ),
    )
    return EmulatedModel(
        name="net",
        slo_us=SLO_US,
        planned_rps=capacity_rps(),
        input=TensorSpec("frame", "FP32", (10_000,)),
        pipelines=(EmulatedPipeline(batch_size=2, stages=stages, transfer_us=((1_500,) * 4,)),),
    )


def capacity_rps() -> float:
    """At the planned batch size of 2."""
    return len(_WORKERS) * 2 / (_LATENCY_US[1] / 1e6)


def load_on(manifest: DeploymentManifest) -> TaggedLoad:
    """A client of the deployment's one model."""
    entry = manifest.models[0]
    address = f"{manifest.entry.host}:{manifest.entry.grpc_port}"
    return TaggedLoad([(address, entry.dispatcher)], entry.input, entry.outputs[0].name, SLO_US)


def strike(
    deployment: ServedDeployment,
    fault: Fault,
    seed: int,
    load_factor: float = LOAD,
    before_s: float = _BEFORE_S,
    after_s: float = _AFTER_S,
) -> Strike:
    """Load, break, wait until it is back, load a little longer."""
    load = load_on(deployment.manifest)
    arrivals = list(Poisson(load_factor * capacity_rps()).times_us(_LONGEST_S, seed, "net"))
    thread = threading.Thread(target=load.run, args=(arrivals,))
    began_s = time.monotonic() + 0.05
    thread.start()
    try:
        time.sleep(before_s)
        struck_s = time.monotonic() - began_s
        fault.strike(deployment)
        fault.wait_until_back(deployment)
        back_s = time.monotonic() - began_s
        time.sleep(after_s)
    finally:
        load.stop()
        thread.join()
        load.close()
    return Strike(fault=fault, struck_s=struck_s, back_s=back_s, frames=load.frames)


def attainment(scores: Sequence[Score]) -> float:
    """Share of all frames that were answered within the SLO, whatever they were on."""
    return statistics.mean(score.in_time / score.frames for score in scores)


def _too_late(frame: TaggedFrame) -> bool:
    """Whether its answer, of whatever kind, came later than a second after its deadline."""
    return frame.ended_s is not None and frame.ended_s - frame.sent_s > _SLO_S + 1.0
