"""Made-up fleets whose links bind: what is planned against what is simulated.

Each draw has 1 to 6 models of frames of 20 to 500 KB, an entry's link of 50 to 1,000 Mbit/s, two or three
classes of GPUs on servers with links of like speed, and SLOs of 4 to 12 times what a frame takes. Fleets
whose plan is bound by anything else, or that have no plan, are drawn again and counted. Capacity: the largest
factor of all planned rates at which 99 % of the frames are in time: of all together, and of each model's.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.helpers.report import main
from planner.cluster import Cluster, EntryServer, GpuClass, Server
from planner.explain import Infeasible
from planner.frames import FrameSize
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Demand, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile, TensorSpec
from planner.serving import ServedModel
from planner.serving_build import served_model
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.capacity import highest_reached
from python_backend.simulator.counts import SimulatedCounts
from python_backend.simulator.together import run_together

BATCHES = (1, 2, 4, 8)
TARGET = 0.99
FACTORS = tuple(0.5 + 0.02 * step for step in range(51))
MOST, LEAST = 1.1, 0.85
"""Planned over simulated: a plan that promises more cannot be kept, one that promises less wastes links."""
_BLOCKS = 2
_BATCHED = 0.6 / BATCHES[-1] + 0.4
"""Of a frame in the largest batch, over one alone."""
_LINKS = {"entry link", "links"}
_MOST_GPUS = 60
_SLOS = 25.0
"""What is simulated lasts so many times the longest SLO: what waits at the end counts as served."""


@dataclass(frozen=True)
class Outcome:
    """Of one fleet: the factors at which all frames together, and each model's, are served."""

    planned_rps: float
    together: float
    each: float

    @property
    def ratio(self) -> float:
        """Planned over simulated capacity."""
        return _inverse(self.together)

    @property
    def ratio_of_each(self) -> float:
        """The same where the model served least decides."""
        return _inverse(self.each)


def _inverse(factor: float) -> float:
    return 1 / factor if factor else math.inf


def run(fleets: int = 16, seed: int = 1, frames: int = 3_000, draws: int = 2) -> Mapping[str, Any]:
    """The figures of this benchmark. frames: simulated in each of so many draws of arrivals, at least."""
    skipped: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for number in itertools.count():
        if len(rows) == fleets:
            break
        problem = made(np.random.default_rng((seed, number)))
        try:
            planned = plan(problem, mode="fast")
            why = why_skipped(planned)
        except Infeasible:
            why = "no plan"
        if why:
            skipped[why] = skipped.get(why, 0) + 1
            continue
        outcome = simulated(problem, planned, frames, draws)
        rows.append(_row(number, problem, planned, outcome))
        print(rows[-1], flush=True)
    ratios = sorted(row["planned_over_simulated"] for row in rows)
    return {
        "fleets": rows,
        "skipped": skipped,
        "ratio_min": ratios[0],
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_max": ratios[-1],
        "promise_too_much": sum(ratio > MOST for ratio in ratios),
        "promise_too_little": sum(ratio < LEAST for ratio in ratios),
    }


def made(rng: np.random.Generator) -> Problem:
    """One fleet, its GPUs at least 1.3 to 2.5 times as fast as the entry's link."""
    models = [f"m{number}" for number in range(rng.integers(1, 7))]
    sizes = [round(_even_log(rng, 20e3, 500e3)) for _ in models]
    entry_mbit = _even_log(rng, 50, 1_000)
    speeds = [1.0, *rng.uniform(0.3, 0.8, rng.integers(1, 3))]
    link_us = statistics.fmean(sizes) * 8 / entry_mbit
    gpus_wanted = rng.uniform(1.3, 2.5) * _BLOCKS * _BATCHED / statistics.fmean(speeds) / link_us
    block_us = min(_even_log(rng, 3e3, 40e3), _MOST_GPUS / gpus_wanted)
    per_class = math.ceil(max(len(models), gpus_wanted * block_us) / len(speeds))
    per_server = int(rng.integers(1, 5))
    return Problem(
        cluster=Cluster(
            gpu_classes=tuple(GpuClass(f"G{index}") for index in range(len(speeds))),
            servers=tuple(
                Server(
                    f"G{index}-{number}", f"G{index}", per_server, entry_mbit * rng.uniform(0.5, 2.0) / 1000
                )
                for index in range(len(speeds))
                for number in range(math.ceil(per_class / per_server))
            ),
            entry=EntryServer(bandwidth_gbps=entry_mbit / 1000, client_bandwidth_gbps=10.0),
            carried_share=0.95,
        ),
        profile=Profile(tuple(_profile(name, block_us, speeds, rng) for name in models)),
        demands=tuple(
            Demand(
                name,
                round((_BLOCKS * block_us / min(speeds) + 2 * size * 8 / entry_mbit) * rng.uniform(4, 12)),
                weight=float(rng.uniform(0.3, 1.0)),
                frame=FrameSize(1280, 720, size),
            )
            for name, size in zip(models, sizes, strict=True)
        ),
        options=PlanOptions(count_ends=True),
    )


def _even_log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _profile(name: str, block_us: float, speeds: Sequence[float], rng: np.random.Generator) -> ModelProfile:
    own_us = block_us * rng.uniform(0.7, 1.3)
    return ModelProfile(
        model=name,
        cut_bytes=(round(_even_log(rng, 5e3, 200e3)),),
        tables=tuple(
            LatencyTable(
                f"G{index}", 1, BATCHES, (tuple(own_us / speed * (0.6 + 0.4 * b) for b in BATCHES),) * _BLOCKS
            )
            for index, speed in enumerate(speeds)
        ),
        outputs=(TensorSpec("logits", "FP32", (10,)),),
        overheads=Overheads(hop_us=500.0),
    )


def why_skipped(planned: Plan) -> str:
    """Why a fleet is not one of those meant here; '' if it is."""
    if any(not model.pipelines for model in planned.models):
        return "a model is not served"
    bound = {what for model in planned.models for what in model.bound_by}
    return "" if bound & _LINKS else "links do not bind"


def simulated(problem: Problem, planned: Plan, frames: int, draws: int) -> Outcome:
    """What becomes of a fleet's frames."""
    tables = [served_model(planned, problem, model.model, "placed") for model in planned.models]
    rates = [model.throughput_rps for model in planned.models]
    seconds = max(frames / sum(rates), _SLOS * max(demand.slo_us for demand in problem.demands) / 1e6)

    @functools.cache
    def runs(index: int) -> list[list[SimulatedCounts]]:
        return served(tables, rates, FACTORS[index], seconds, draws)

    def together(index: int) -> bool:
        return statistics.fmean(_attained(run) for run in runs(index)) >= TARGET

    def each(index: int) -> bool:
        return all(_attained(counts) >= TARGET for counts in zip(*runs(index), strict=True))

    first = highest_reached(FACTORS, 0.95, together)
    second = highest_reached(FACTORS, FACTORS[max(0, first)], each)
    return Outcome(sum(rates), *(FACTORS[index] if index >= 0 else 0.0 for index in (first, second)))


def served(
    tables: Sequence[ServedModel], rates: Sequence[float], factor: float, seconds: float, draws: int
) -> list[list[SimulatedCounts]]:
    """Counts of each model, for each draw of arrivals."""
    return [
        run_together(tables, list(_arrivals(tables, rates, factor, seconds, draw))) for draw in range(draws)
    ]


def _arrivals(
    tables: Sequence[ServedModel], rates: Sequence[float], factor: float, seconds: float, seed: int
) -> Iterator[Iterator[int]]:
    for table, rate in zip(tables, rates, strict=True):
        yield iter(parse_arrivals("poisson", factor * rate).times_us(seconds, seed, table.model))


def _attained(counts: Sequence[SimulatedCounts]) -> float:
    return sum(one.in_time for one in counts) / max(1, sum(one.offered for one in counts))


def _row(number: int, problem: Problem, planned: Plan, outcome: Outcome) -> dict[str, Any]:
    assert problem.cluster.entry is not None
    assert problem.cluster.entry.bandwidth_gbps is not None
    return {
        "fleet": number,
        "frame_kb": [round(demand.frame.bytes / 1e3) for demand in problem.demands if demand.frame],
        "entry_mbit": round(1e3 * problem.cluster.entry.bandwidth_gbps),
        "slo_ms": [round(demand.slo_us / 1e3) for demand in problem.demands],
        "bound_by": sorted({what for model in planned.models for what in model.bound_by}),
        "planned_rps": round(outcome.planned_rps, 1),
        "planned_over_simulated": round(outcome.ratio, 3),
        "with_each_model_served": round(outcome.ratio_of_each, 3),
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], run, fleets=16, seed=1, frames=3_000, draws=2)
