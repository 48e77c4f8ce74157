"""What each model of each setting of the paper bears, against the reference's own result.

For every case the highest load served at 99 % attainment (mean over seeds) under 30 s of arrivals, on the
reference's own grid: steps of 5 % of the rate that the reference's ppipe plan promises, in whole frames/s.

Rules
- Planner reference-*: the artifact's plans, capped at 100 % as they were. Planner ppipe, np, dart-r: ours,
  going on above 100 %; its margin is searched (--margin auto) or given.
- ratio is to reference.ppipe.load_at_99_rps, always.
- How far that is from what any schedule could serve of the same plan stands beside it
  (benchmarks.paper.bound).
- Utilisation is busy GPU time over all GPUs of the class while frames arrive, summed over a setting's models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.paper.bound import yardstick
from benchmarks.paper.data import PaperSetting, load_settings, reference_plan
from planner import serial
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from ppipe.simulation.margin import auto_margin
from python_backend.simulator.capacity import Capacity, Workload, find_capacity
from python_backend.simulator.jitter import Jitter

STEP = 0.05
MOST_STEPS = 60
"""Three times the reference's planned rate ends the grid."""
REFERENCE_PLANNERS = ("reference-ppipe", "reference-np", "reference-dart_r")
PLANNERS = ("ppipe", "np", "dart-r", *REFERENCE_PLANNERS)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    planner: str = "ppipe"
    policy: str = "adaptive"
    margin: str = "auto"
    links: Links = "paper"
    arrivals: str = "poisson"
    seconds: float = 30.0
    seeds: int = 3
    jitter: float = 0.0
    processes: int = 2
    plans: Path | None = None
    """Folder of plans: read where there, written where not."""
    bound: bool = True
    """Whether to compare with what no schedule can beat."""

    def workload(self) -> Workload:
        """The arrivals of one case."""
        return Workload(
            self.arrivals, self.seconds, tuple(range(1, self.seeds + 1)), Jitter(share=self.jitter)
        )


@dataclass(frozen=True)
class Case:
    """One model of one setting."""

    setting: str
    group: int | None
    cluster: str
    served: ServedModel
    reference_planned_rps: float
    reference_load_rps: float
    capped: bool
    gpus: tuple[tuple[str, float], ...]
    """Class and GPUs of it in the whole cluster."""


def capacities(
    data: Path, options: Options, log: Any = None, variants: Sequence[Options] = ()
) -> list[dict[str, Any]]:
    """One row per case, in file order: group, cluster, model, load_rps, ratio and more.

    With `variants` (of policy, arrivals, jitter) the plans of `options` serve each of them: a row for each.
    """
    settings = [setting for setting in load_settings(data) if setting.group is not None]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for setting in settings:
            problem, made, margins = planned(setting, options)
            cases = list(_cases(setting, problem, made, options))
            jobs = [(case, variant) for variant in variants or (options,) for case in cases]
            found = list(pool.map(_measure, jobs))
            rows += [row | {"margin": margins.get(row["model"])} for row in found]
            if log is not None:
                shown = ", ".join(f"{row['ratio']:.3f}" for row in found)
                print(f"{setting.name}: ratio {shown}", file=log, flush=True)
    return rows


def planned(setting: PaperSetting, options: Options) -> tuple[Problem, Plan, dict[str, float]]:
    """The problem that gives a plan its links and rates, the plan to serve, and its margins."""
    if options.planner.startswith("reference-"):
        return setting.problem, reference_plan(setting, options.planner.removeprefix("reference-")), {}
    problem = setting.problem
    if options.margin != "auto":
        margin = float(options.margin)
        problem = replace(problem, options=replace(problem.options, slo_margin=margin))
        made = plan(problem, options.planner)
        return problem, made, {model.model: model.slo_margin for model in made.models}
    if options.planner != "ppipe":
        return problem, plan(problem, options.planner), {}
    stored = _stored(setting, options)
    if stored is not None and stored.exists():
        made = serial.load(Plan, stored)
    else:
        made = auto_margin(problem, "adaptive", options.links, processes=options.processes).plan
        if stored is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            stored.write_text(serial.dumps(made), encoding="utf-8")
    return problem, made, {model.model: model.slo_margin for model in made.models}


def _stored(setting: PaperSetting, options: Options) -> Path | None:
    if options.plans is None:
        return None
    return options.plans / f"{setting.group}-{setting.cluster}-{options.links}.json"


def _cases(setting: PaperSetting, problem: Problem, made: Plan, options: Options) -> Iterable[Case]:
    reference = setting.reference["ppipe"]
    own = options.planner.removeprefix("reference-") if options.planner in REFERENCE_PLANNERS else "ppipe"
    gpus = tuple((c.name, float(problem.cluster.gpu_count(c.name))) for c in problem.cluster.gpu_classes)
    for index, demand in enumerate(problem.demands):
        yield Case(
            setting=setting.name,
            group=setting.group,
            cluster=setting.cluster,
            served=served_model(made, problem, demand.model, options.links),
            reference_planned_rps=float(reference["planned_rps"][index]),
            reference_load_rps=float(setting.reference[own]["load_at_99_rps"][index]),
            capped=options.planner in REFERENCE_PLANNERS,
            gpus=gpus,
        )


def grid_rps(planned_rps: float, steps: int) -> list[float]:
    """The reference's grid: whole frames/s at every STEP of the planned rate."""
    return [float(int(planned_rps * STEP * k + 1e-9)) for k in range(1, steps + 1)]


def _measure(job: tuple[Case, Options]) -> dict[str, Any]:
    case, options = job
    rates = grid_rps(case.reference_planned_rps, round(1 / STEP) if case.capped else MOST_STEPS)
    guess = case.reference_load_rps if case.capped else case.served.planned_rps * 0.95
    found = find_capacity(case.served, options.policy, rates, options.workload(), guess)
    row = {
        "group": case.group,
        "cluster": case.cluster,
        "model": case.served.model,
        "planner": options.planner,
        "policy": options.policy,
        "links": options.links,
        "arrivals": options.arrivals,
        "jitter": options.jitter,
        "planned_rps": round(case.served.planned_rps, 3),
        "load_rps": found.load_rps,
        "reference_load_rps": case.reference_load_rps,
        "load_factor": found.load_rps / case.reference_planned_rps,
        "attainment": found.best.attainment if found.best else None,
        "utilisation": _utilisation(case, found, options),
        "ratio": found.load_rps / case.reference_load_rps,
    }
    if options.bound:
        row |= yardstick(case.served, options.policy, found.load_rps, options.workload())
    return row


def _utilisation(case: Case, found: Capacity, options: Options) -> dict[str, float]:
    """Busy share of all GPUs of each class that this model accounts for, at the load found."""
    counts = found.best.counts if found.best else ()
    shares = {}
    for gpu, total in case.gpus:
        busy_us = sum(
            one.busy_us[p][s] / stage.slices_per_gpu
            for one in counts
            for p, pipeline in enumerate(case.served.pipelines)
            for s, stage in enumerate(pipeline.stages)
            if stage.gpu == gpu
        )
        shares[gpu] = busy_us / (1e6 * options.seconds * max(1, len(counts)) * total)
    return shares
