"""One measurement from start to end: warm up, send, score, save."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.manifest import DeploymentManifest
from planner.serial import to_plain
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import FrameResult
from ppipe.bench.reference import Reference
from ppipe.bench.score import Score, score, score_by_model
from ppipe.bench.target import SystemUnderTest
from ppipe.bench.workload import RequestTrace, make_workload

WARM_UP_S = 1.5
_WARM_UP_LOAD = 0.5
_WARM_UP_SEED = 977


@dataclass(frozen=True)
class Measured:
    """One system under one workload. `planned_rps`: what its plan says it can serve; None without a plan."""

    system: str
    seconds: float
    slo_us: Mapping[str, int]
    planned_rps: float | None
    total: Score
    models: Mapping[str, Score]
    outcomes: Sequence[FrameResult]


def measure(
    system: str,
    target: SystemUnderTest,
    workload: RequestTrace,
    references: Mapping[str, Reference],
    slo_us: Mapping[str, int],
    *,
    planned_rps: float | None = None,
    warm_up_s: float = WARM_UP_S,
    progress: Callable[[int], None] = lambda sent: None,
) -> Measured:
    """Send a little other load that is not scored, then the workload, and score that. Models without a
    reference are not compared.
    """
    options = LoadOptions(slo_us=slo_us)
    if warm_up_s > 0:
        send_load(target, _warm_up(workload, warm_up_s), references, options)
    outcomes = send_load(target, workload, references, options, progress)
    return Measured(
        system=system,
        seconds=workload.seconds,
        slo_us=slo_us,
        planned_rps=planned_rps,
        total=score(outcomes, slo_us, workload.seconds),
        models=score_by_model(outcomes, slo_us, workload.seconds),
        outcomes=outcomes,
    )


def slos_us(manifest: DeploymentManifest) -> dict[str, int]:
    """The SLO of each model and cascade that clients call."""
    return {model.model: model.served.slo_us for model in manifest.own_models} | {
        cascade.name: cascade.slo_us for cascade in manifest.cascades
    }


def planned_rates(manifest: DeploymentManifest) -> dict[str, float]:
    """What the plan says that it serves, frames/s of each model and cascade that clients call."""
    return {model.model: model.served.planned_rps for model in manifest.own_models} | {
        cascade.name: cascade.planned_rps for cascade in manifest.cascades
    }


def save(measured: Sequence[Measured], path: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Scores of one or more systems as JSON."""
    path.write_text(json.dumps(as_plain(measured, extra), indent=1) + "\n", encoding="utf-8")


def as_plain(measured: Sequence[Measured], extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same as dicts and numbers."""
    systems = {
        one.system: {
            "seconds": one.seconds,
            "slo_us": dict(one.slo_us),
            "planned_rps": one.planned_rps,
            "total": to_plain(one.total),
            "models": to_plain(one.models),
        }
        for one in measured
    }
    return {**(extra or {}), "systems": systems}


def _warm_up(workload: RequestTrace, seconds: float) -> RequestTrace:
    """Half of the workload's rate for a short while, with frames of its own."""
    rates = {
        model: max(2.0, _WARM_UP_LOAD * workload.count(model) / workload.seconds) for model in workload.models
    }
    frames = 1 + min(
        max(arrival.frame for arrival in workload.arrivals if arrival.model == model)
        for model in workload.models
    )
    return make_workload(rates, seconds=seconds, seed=_WARM_UP_SEED, frames=frames, process="gamma:cv=0.1")
