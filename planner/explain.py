"""Says why a problem cannot be planned, and the smallest change that would help.

Rules: bad input is a ProblemError that names field, value and what is accepted; input that is well formed but
cannot be served is an Infeasible, which names per model the fastest pipeline there is and on which classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.cluster import Cluster, Server
from planner.entry import EntryRow, most_factor
from planner.formulation import stage_count
from planner.memory import least_stage_bytes, room_text
from planner.pipelines import Columns, enumerate_columns
from planner.prices import RatesTooHigh
from planner.problem import Demand, Objective, PlanOptions, Problem
from planner.profile import ModelProfile
from planner.rates import budget_us, frame_of, margin_of

MAX_STAGES = 4
MOST_EXTRA_GPUS = 1 << 20
MOST_TAKERS = 5


class ProblemError(ValueError):
    """Input that is wrong in itself; one line per fault."""


class Infeasible(ValueError):
    """Nothing can serve what is wanted. `reasons`: per model in the message, or '' for the cluster as a
    whole.
    """

    def __init__(self, message: str, reasons: tuple[NoPipeline, ...] = ()) -> None:
        super().__init__(message)
        self.reasons = reasons


@dataclass(frozen=True)
class NoPipeline:
    """Why a model has no feasible pipeline. `fastest_us` None: it runs on no class of the cluster at all."""

    model: str
    fastest_us: float | None
    classes: tuple[str, ...]
    message: str


def validate(problem: Problem) -> None:
    """Raises ProblemError with every fault of a problem's options and demands."""
    faults = [*_option_faults(problem.options), *_demand_faults(problem)]
    if problem.options.count_ends:
        faults += _end_faults(problem)
    if not any(problem.cluster.gpu_count(gpu_class.name) for gpu_class in problem.cluster.gpu_classes):
        faults.append("cluster: it has no GPU; add a server")
    if faults:
        raise ProblemError("\n".join(faults))


def _option_faults(options: PlanOptions) -> list[str]:
    faults = []
    if not 1 <= options.max_stages <= MAX_STAGES:
        faults.append(f"options.max_stages: {options.max_stages}; accepted are 1 to {MAX_STAGES}")
    if not 0 <= options.slo_margin < 1:
        faults.append(f"options.slo_margin: {options.slo_margin}; accepted are 0 <= margin < 1")
    if not (math.isfinite(options.batch_build_factor) and options.batch_build_factor >= 0):
        factor = options.batch_build_factor
        faults.append(f"options.batch_build_factor: {factor}; accepted is any number >= 0")
    limit = options.pipelines_per_class_pair
    if limit is not None and limit < 1:
        faults.append(f"options.pipelines_per_class_pair: {limit}; accepted are 1 and above, or none")
    for gpu, cost in options.gpu_cost.items():
        if not (math.isfinite(cost) and cost > 0):
            faults.append(f"options.gpu_cost of {gpu}: {cost}; accepted is any number > 0")
    return faults


def _demand_faults(problem: Problem) -> list[str]:
    faults = []
    names = [demand.model for demand in problem.demands]
    known = [profile.model for profile in problem.profile.models]
    if not names:
        faults.append("demands: none; at least one model is needed")
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(f"demands: {name} is listed {names.count(name)} times; once is accepted")
    for demand in problem.demands:
        where = f"demand for {demand.model}"
        if demand.model not in known:
            faults.append(f"{where}: no profile of it; profiled are {', '.join(known) or 'none'}")
        if demand.slo_us < 1:
            faults.append(f"{where}: slo_us {demand.slo_us}; accepted is any whole number >= 1")
        if demand.slo_margin is not None and not 0 <= demand.slo_margin < 1:
            faults.append(f"{where}: slo_margin {demand.slo_margin}; accepted are 0 <= margin < 1")
        if not 0 <= demand.batch_room <= 1:
            faults.append(f"{where}: batch_room {demand.batch_room}; accepted are 0 <= batch_room <= 1")
        for field in ("weight", "rate_rps", "batch_build_rps"):
            value = getattr(demand, field)
            if value is not None and not (math.isfinite(value) and value > 0):
                faults.append(f"{where}: {field} {value}; accepted is any number > 0")
        if problem.options.objective is Objective.MIN_COST and demand.rate_rps is None:
            faults.append(f"{where}: rate_rps is missing; objective min-cost needs one for every model")
        elif demand.weight is None and demand.rate_rps is None:
            faults.append(f"{where}: neither weight nor rate_rps; objective max-rate needs one of them")
    return faults


def _end_faults(problem: Problem) -> list[str]:
    """What counting the way in and out needs to know."""
    faults = []
    known = {profile.model: profile for profile in problem.profile.models}
    if any(entry.bandwidth_gbps is None for entry in problem.cluster.entries):
        faults.append("cluster.entry: bandwidth_gbps is missing; accepted is any number > 0")
    for demand in problem.demands:
        profile = known.get(demand.model)
        if profile is None:
            continue
        try:
            frame = frame_of(profile, demand)
        except ValueError as error:
            faults.append(str(error))
            continue
        if profile.prepare is not None and profile.prepare.us_per_pixel and not frame.pixels:
            where = f"demand for {demand.model}: frame of 0 pixels"
            faults.append(f"{where}; preparing it is timed by pixels, so give width and height")
        if demand.answer_bytes is not None and demand.answer_bytes < 0:
            faults.append(f"demand for {demand.model}: answer_bytes {demand.answer_bytes}; accepted are >= 0")
    return faults


def entry_too_small(rows: Sequence[EntryRow], rates: Sequence[float]) -> Infeasible:
    """The error for wanted rates that the entry does not carry."""
    lines = [f"The entry server carries at most {most_factor(rows, rates):.1%} of the wanted rates:"]
    for row in rows:
        needed = row.used(rates) / row.carried
        there = row.capacity / row.carried
        if needed > there:
            lines.append(f"  {row.name}: {needed:.4g} {row.unit} needed, {there:g} there")
    lines.append("Smaller frames, lower rates or a larger entry would do.")
    return Infeasible("\n".join(lines))


def no_pipelines(problem: Problem, demands: list[Demand]) -> Infeasible:
    """The error for models without any feasible pipeline."""
    reasons = tuple(_no_pipeline(problem, demand) for demand in demands)
    return Infeasible("\n".join(reason.message for reason in reasons), reasons)


def _no_pipeline(problem: Problem, demand: Demand) -> NoPipeline:
    profile = problem.profile.model(demand.model)
    columns = enumerate_columns(profile, problem.cluster, replace(demand, slo_us=2**62), problem.options)
    if not len(columns):
        return NoPipeline(demand.model, None, (), _nowhere(problem, profile))
    building = columns.waiting_us
    row = int(np.argmin(columns.latency_us + building))
    fastest = math.ceil(float(columns.latency_us[row] + building[row]) - 1e-6)
    classes = tuple(
        problem.cluster.gpu_classes[int(columns.gpu[row, i])].name for i in range(stage_count(columns, row))
    )
    margin = margin_of(demand, problem.options)
    waits = f", {building[row] / 1000:.3f} ms of them for batch building" if building[row] else ""
    budget = budget_us(demand, problem.options)
    text = (
        f"{demand.model}: no pipeline meets its SLO. The fastest takes {fastest / 1000:.3f} ms on "
        f"{_shape(problem.cluster, columns, row)}{waits}; the SLO of {demand.slo_us / 1000:.3f} ms "
        f"less a margin of {margin:g} leaves {budget / 1000:.3f} ms. "
    )
    if fastest <= demand.slo_us:
        most = _round_down((demand.slo_us - fastest) / demand.slo_us)
        text += f"A margin of {most} would do, or "
    needed = math.ceil(fastest / (1 - margin)) + 1
    text += f"{'an' if fastest <= demand.slo_us else 'An'} SLO of {needed / 1000:.3f} ms"
    text += "." if fastest <= demand.slo_us else " would do."
    return NoPipeline(demand.model, float(fastest), classes, text)


def _round_down(share: float) -> float:
    return math.floor(max(0.0, share) * 10_000) / 10_000


def _shape(cluster: Cluster, columns: Columns, row: int) -> str:
    names = []
    for i in range(stage_count(columns, row)):
        slices = int(columns.slices[row, i])
        part = f" (1/{slices} GPU)" if slices > 1 else ""
        names.append(cluster.gpu_classes[int(columns.gpu[row, i])].name + part)
    return " -> ".join(names) + f" at batch {int(columns.batch[row, 0])}"


def _nowhere(problem: Problem, profile: ModelProfile) -> str:
    there = [c.name for c in problem.cluster.gpu_classes if problem.cluster.gpu_count(c.name)]
    profiled = sorted({table.gpu for table in profile.tables})
    shared = [gpu for gpu in there if gpu in profiled]
    if not shared:
        return (
            f"{profile.model}: profiled on {', '.join(profiled) or 'no GPU class'}; the cluster has "
            f"{', '.join(there)}. Profile it on one of those."
        )
    weights = sum(profile.weight_bytes) / 2**30
    stages = problem.options.max_stages
    frames = min(table.batch_sizes[0] for table in profile.tables if table.gpu in shared)
    needed = least_stage_bytes(profile, stages, frames) / 2**30
    rooms = [room_text(problem.cluster.gpu_class(gpu)) for gpu in shared]
    return (
        f"{profile.model}: no split into up to {stages} stages fits the memory of {', '.join(shared)}: of "
        f"{weights:.2f} GiB of weights, the best split leaves a stage of {needed:.2f} GiB, activations at "
        f"batch {frames} included. {'. '.join(room for room in rooms if room)}. "
        "Allow more stages or blocks, or larger GPUs."
    )


def rates_too_high(
    problem: Problem,
    error: RatesTooHigh,
    servable: Callable[[str, int], bool],
    servable_without: Callable[[Sequence[str]], bool],
) -> Infeasible:
    """The error for rates beyond the cluster; `servable(gpu, n)`: could they be served with n more of a
    class? `servable_without(models)`: without these models?
    """
    takers = sorted(zip(error.parts, problem.demands, strict=False), key=lambda pair: -pair[0])
    shown = ", ".join(f"{d.model} ({d.rate_rps:g} rps) {part:.0%}" for part, d in takers[:MOST_TAKERS])
    share = error.share
    lines = [f"The cluster can serve at most {share:.1%} of the wanted rates. Of the GPUs' worth, they take:"]
    lines.append(f"  {shown}" + (" and others less" if len(takers) > MOST_TAKERS else ""))
    lines.append(f"All rates at {math.floor(share * 1000) / 10:g} % of these may do; or one of:")
    without = _without([demand.model for _, demand in takers], servable_without)
    if without:
        lines.append(f"  all models but {', '.join(without)}")
    for gpu_class in problem.cluster.gpu_classes:
        extra = _extra_gpus(gpu_class.name, servable)
        if extra is not None:
            lines.append(f"  at least {extra} more {gpu_class.name}")
    return Infeasible("\n".join(lines))


def _without(models: Sequence[str], servable: Callable[[Sequence[str]], bool]) -> Sequence[str]:
    """The fewest of these models, from the first on, without which the others can be served."""
    return next((models[:n] for n in range(1, len(models)) if servable(models[:n])), ())


def _extra_gpus(gpu: str, servable: Callable[[str, int], bool]) -> int | None:
    """The least number of GPUs of one class to add, by bisection; None where no number helps."""
    if not servable(gpu, MOST_EXTRA_GPUS):
        return None
    low, high = 0, MOST_EXTRA_GPUS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if servable(gpu, middle) else (middle, high)
    return high


def with_more(problem: Problem, gpu: str, count: int) -> Problem:
    """The problem with `count` more GPUs of a class, on servers like those that it has."""
    size = problem.cluster.gpus_per_server(gpu)
    models = problem.cluster.servers_of(gpu) or problem.cluster.servers
    gbps = min(server.bandwidth_gbps for server in models)
    cores = [server.cores for server in models if server.cores is not None]
    taken = {server.name for server in problem.cluster.servers}
    servers = list(problem.cluster.servers)
    number = 0
    while count > 0:
        name = f"more-{gpu}-{number}"
        number += 1
        if name not in taken:
            servers.append(Server(name, gpu, min(size, count), gbps, cores=min(cores, default=None)))
            count -= size
    return replace(problem, cluster=replace(problem.cluster, servers=tuple(servers)))
