"""A cascade on real tritonservers with emulated workers, and the same arrivals and crops in simulation."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_repo_generator.emulated import (
    EmulatedCascade,
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    write_deployment,
)
from planner.cascades.data import Cascade, Fanout, Member
from planner.cascades.fanouts import draw_counts
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate
from ppipe.bench.target import SystemUnderTest, WayIn, tensor_request
from ppipe.bench.workload import Arrival, RequestTrace
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.live_metrics import read, read_cascade
from ppipe.serving.ports import free_base
from python_backend.simulator.capacity import TARGET, Workload, highest_reached
from python_backend.simulator.cascades import simulate_cascade

_INPUT = TensorSpec("frame", "FP32", (256,))
_OUTPUT = (TensorSpec("scores", "FP32", (16,)),)
_DETECTOR_US = (60_000, 70_000, 80_000, 90_000)
_CLASSIFIER_US = tuple(30_000 + 8_000 * batch for batch in range(1, 9))
_PART_US = 400_000
_GRID = 0.02


@dataclass(frozen=True)
class LiveRow:
    """One load: attainments in percent, of frames complete in time. why: reasons of partial answers, by the
    first thing that each lacks. handed_ms: from an answer of the detector until its crops were sent, mean.
    late: whole, but after their deadline. drift: measured over stated time of each model's stage, in its last
    batches.
    """

    load: float
    rate_rps: float
    offered: int
    measured: float
    simulated: float
    partial: int
    declined: int
    unanswered: int
    late: int
    why: Mapping[str, int]
    handed_ms: float
    drift: Mapping[str, float]


def crops(frame: Any, outputs: Mapping[str, Any]) -> Iterator[Any]:
    """As many frames as the detector's frame says in its second number."""
    number, count = frame.given[_INPUT.name].reshape(-1).view(np.int64)[:2]
    for row in range(count):
        yield row, _frame(int(number) * 1_000 + row, 0)


def measure_live(fanout: Fanout, loads: tuple[float, ...], seconds: float) -> list[LiveRow]:
    """At these shares of the load that the simulation serves."""
    members = (Member("detector"), Member("classifier", "detector", fanout, f"{__name__}:{crops.__name__}"))
    cascade = Cascade("crops", 2 * _PART_US, members)
    models = (
        _model("detector", _DETECTOR_US, 1),
        _model("classifier", _CLASSIFIER_US, 2),
    )
    with tempfile.TemporaryDirectory(prefix="ppipe-cascades-") as folder:
        root = Path(folder)
        manifest = write_deployment(
            root / "repository", models, free_base(36_600, 16), cascades=[EmulatedCascade(cascade, 1.0)]
        )
        capacity_rps = _capacity_rps(cascade, manifest)
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            return [_row(cascade, manifest, load, load * capacity_rps, seconds) for load in loads]


def _model(name: str, latency_us: tuple[int, ...], workers: int) -> EmulatedModel:
    servers = tuple(f"{name}-{worker}" for worker in range(workers))
    stage = EmulatedStage(latency_us, servers, _OUTPUT)
    rps = workers * len(latency_us) / latency_us[-1] * 1e6
    return EmulatedModel(name, _PART_US, rps, _INPUT, (EmulatedPipeline(len(latency_us), (stage,)),))


def _capacity_rps(cascade: Cascade, manifest: DeploymentManifest) -> float:
    served = {entry.model: entry.served for entry in manifest.models}
    workload = Workload(seconds=60.0, seeds=(1,))
    most_rps = served["detector"].planned_rps
    rates = [most_rps * _GRID * step for step in range(1, 51)]

    def reached(index: int) -> bool:
        return simulate_cascade(cascade, served, rates[index], workload).attainment >= TARGET

    return rates[highest_reached(rates, 0.7 * most_rps, reached)]


def _row(
    cascade: Cascade, manifest: DeploymentManifest, load: float, rate_rps: float, seconds: float
) -> LiveRow:
    workload = Workload(seconds=seconds, seeds=(1,))
    served = {entry.model: entry.served for entry in manifest.models}
    simulated = simulate_cascade(cascade, served, rate_rps, workload)
    times_us = workload.times_us(rate_rps, 1, cascade.name)
    # As simulate_cascade draws them for its member number 1.
    counts = draw_counts(cascade.members[1].fanout, len(times_us), np.random.default_rng((1, 1)))
    requests = [tensor_request(_INPUT, _frame(number, int(count))) for number, count in enumerate(counts)]
    target = SystemUnderTest(
        {cascade.name: [WayIn(manifest.entry.grpc_address, cascade.name)]}, {cascade.name: requests}
    )
    arrivals = tuple(Arrival(at_us, cascade.name, number) for number, at_us in enumerate(times_us))
    slo_us = {cascade.name: cascade.slo_us}
    before = _handed(manifest, cascade)
    results = send_load(target, RequestTrace(arrivals, seconds), {}, LoadOptions(slo_us))
    handed, handed_us = (now - then for now, then in zip(_handed(manifest, cascade), before, strict=True))
    fates = Counter(result.fate for result in results)
    good = sum(result.is_good(cascade.slo_us) for result in results)
    return LiveRow(
        load=load,
        rate_rps=round(rate_rps, 2),
        offered=len(results),
        measured=round(100 * good / len(results), 2),
        simulated=round(100 * simulated.attainment, 2),
        partial=fates[Fate.PARTIAL],
        declined=fates[Fate.DROPPED] + fates[Fate.FAILED],
        unanswered=fates[Fate.UNANSWERED],
        late=fates[Fate.ANSWERED] - good,
        # No Counter: dataclasses.asdict makes another one of its pairs.
        why=dict(Counter(result.reason for result in results if result.fate is Fate.PARTIAL)),
        handed_ms=round(handed_us / max(1.0, handed) / 1e3, 2),
        drift=_drift(manifest),
    )


def _handed(manifest: DeploymentManifest, cascade: Cascade) -> tuple[float, float]:
    """Answers of which crops were sent so far, and microseconds that it took."""
    page = read_cascade(manifest, manifest.cascade(cascade.name))
    crops = cascade.members[1].model
    series = ("ppipe_cascade_handed_total", "ppipe_cascade_handed_us_total")
    handed, handed_us = (page.total(name, model=crops) for name in series)
    return handed, handed_us


def _drift(manifest: DeploymentManifest) -> dict[str, float]:
    """Measured over stated time of the members' one stage, median of the last batches."""
    return {
        entry.model: round(read(manifest, entry).total("ppipe_stage_drift"), 3) for entry in manifest.models
    }


def _frame(number: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    frame = np.zeros(_INPUT.shape, np.float32)
    frame.view(np.int64)[:2] = number, count
    return frame
