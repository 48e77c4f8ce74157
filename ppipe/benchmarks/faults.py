"""What faults do to a loaded deployment: every fault struck several times at 70 % of capacity.

Every pool is spread over two servers; workers are emulated. Per strike: frames without an answer, wrong and
double answers, attainment of the frames that were not on the failed component, and how long frames went on
failing after it was back. `others` are the frames sent earlier than one SLO before the strike or later than
one SLO after it: those between may have been on the component, or have waited for what was. Their
attainment is divided by min(1, remaining capacity / load) over the outage, which for a dispatcher is
nothing: there only frames after its return count.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from ppipe.benchmarks.emulated_deployment import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    write_deployment,
)
from ppipe.benchmarks.fault_kinds import Fault, all_faults, pid_of
from ppipe.benchmarks.report import main
from ppipe.benchmarks.tagged_load import TaggedFrame, TaggedLoad
from ppipe.launcher import ServedDeployment
from ppipe.ports import free_base
from ppipe.processes import stubs_of
from python_backend.simulator.arrivals import Poisson

_LOAD = 0.7
_SLO_US = 400_000
_BEFORE_S = 1.5
_AFTER_S = 4.0
_LATENCY_US = (20_000, 32_000, 44_000, 56_000)
_WORKERS = ("a", "a", "b", "b")


@dataclass(frozen=True)
class Strike:
    """One fault and what came of it. Times in seconds from the load's start."""

    fault: Fault
    struck_s: float
    back_s: float
    frames: Sequence[TaggedFrame]

    def others(self) -> list[TaggedFrame]:
        """See the module."""
        slo_s = _SLO_US / 1e6
        after_s = self.back_s if self.fault.lost_share == 1.0 else self.struck_s
        return [
            frame
            for frame in self.frames
            if frame.sent_s < self.struck_s - slo_s or frame.sent_s > after_s + slo_s
        ]

    def attainment_of_others(self) -> float:
        """Relative to what the remaining capacity allows, outage by outage."""
        others = self.others()
        outage = [frame for frame in others if self.struck_s < frame.sent_s < self.back_s]
        possible = min(1.0, (1 - self.fault.lost_share) / _LOAD)
        expected = len(others) - len(outage) * (1 - possible)
        return sum(frame.in_time(_SLO_US / 1e6) for frame in others) / expected

    def recovery_s(self) -> float:
        """From its return to the last frame that then still missed, among windows below 99 %."""
        missed = [
            frame.sent_s
            for frame in self.frames
            if frame.sent_s > self.back_s and not frame.in_time(_SLO_US / 1e6)
        ]
        late = [at_s for at_s in missed if self._attainment_from(at_s) < 0.99]
        return max(late) - self.back_s if late else 0.0

    def _attainment_from(self, at_s: float) -> float:
        rest = [frame for frame in self.frames if frame.sent_s >= at_s]
        return statistics.mean(frame.in_time(_SLO_US / 1e6) for frame in rest)


def run(repeats: int = 20, seed: int = 1) -> Mapping[str, Any]:
    """The figures of this benchmark."""
    with tempfile.TemporaryDirectory(prefix="ppipe-faults-") as folder:
        root = Path(folder)
        manifest = write_deployment(root / "repository", [_model()], free_base(38_000, 30), name="faults")
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            time.sleep(1.0)
            threads = _threads(deployment)
            strikes = [
                _strike(deployment, manifest, fault, seed + 100 * turn + index)
                for turn in range(repeats)
                for index, fault in enumerate(all_faults("a1"))
            ]
            time.sleep(2.0)
            grown = {name: count - threads[name] for name, count in _threads(deployment).items()}
    left = [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(f"ppipe_{os.getpid()}_")]
    frames = [frame for strike in strikes for frame in strike.frames]
    return {
        "emulated": True,
        "runs": len(strikes),
        "frames": len(frames),
        "unanswered": sum(frame.answers == 0 for frame in frames),
        "answered_late": sum(_too_late(frame) for frame in frames),
        "wrong": sum(frame.wrong for frame in frames),
        "duplicate": sum(frame.answers > 1 for frame in frames),
        "leaked": len(left),
        "threads_grown_max": max(grown.values(), default=0),
        "attainment_others_min": round(min(strike.attainment_of_others() for strike in strikes), 4),
        "recovery_s_max": round(max(strike.recovery_s() for strike in strikes), 2),
        "by_fault": {fault.name: _summary(strikes, fault.name) for fault in all_faults("a1")},
    }


def _model() -> EmulatedModel:
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
        slo_us=_SLO_US,
        planned_rps=_capacity_rps(),
        input=TensorSpec("frame", "FP32", (10_000,)),
        pipelines=(EmulatedPipeline(batch_size=2, stages=stages, transfer_us=((1_500,) * 4,)),),
    )


def _capacity_rps() -> float:
    return len(_WORKERS) * 2 / (_LATENCY_US[1] / 1e6)


def _strike(deployment: ServedDeployment, manifest: DeploymentManifest, fault: Fault, seed: int) -> Strike:
    """Load, break, wait until it is back, load a little longer."""
    entry = manifest.models[0]
    address = f"{manifest.entry.host}:{manifest.entry.grpc_port}"
    load = TaggedLoad([(address, entry.dispatcher)], entry.input, entry.outputs[0].name, _SLO_US)
    arrivals = list(Poisson(_LOAD * _capacity_rps()).times_us(60.0, seed, "net"))
    thread = threading.Thread(target=load.run, args=(arrivals,))
    began_s = time.monotonic() + 0.05
    thread.start()
    try:
        time.sleep(_BEFORE_S)
        struck_s = time.monotonic() - began_s
        fault.strike(deployment)
        fault.wait_until_back(deployment)
        back_s = time.monotonic() - began_s
        time.sleep(_AFTER_S)
    finally:
        load.stop()
        thread.join()
        load.close()
    return Strike(fault=fault, struck_s=struck_s, back_s=back_s, frames=load.frames)


def _too_late(frame: TaggedFrame) -> bool:
    """Whether its answer, of whatever kind, came later than a second after its deadline."""
    return frame.ended_s is not None and frame.ended_s - frame.sent_s > _SLO_US / 1e6 + 1.0


def _threads(deployment: ServedDeployment) -> dict[str, int]:
    """Threads of every stub that has not been restarted since."""
    counts = {}
    for server in (deployment.manifest.entry, *deployment.manifest.servers):
        for model, stub in stubs_of(pid_of(deployment, server.name)).items():
            counts[model] = len(list(Path(f"/proc/{stub.pid}/task").iterdir()))
    return counts


def _summary(strikes: Sequence[Strike], name: str) -> dict[str, float]:
    chosen = [strike for strike in strikes if strike.fault.name == name]
    return {
        "attainment_others_min": round(min(strike.attainment_of_others() for strike in chosen), 4),
        "attainment_all_mean": round(
            statistics.mean(frame.in_time(_SLO_US / 1e6) for strike in chosen for frame in strike.frames),
            4,
        ),
        "outage_s_max": round(max(strike.back_s - strike.struck_s for strike in chosen), 2),
        "recovery_s_max": round(max(strike.recovery_s() for strike in chosen), 2),
        "unanswered": sum(frame.answers == 0 for strike in chosen for frame in strike.frames),
    }


if __name__ == "__main__":
    main("Faults under load: what is lost, and how fast it recovers.", run, repeats=20, seed=1)
