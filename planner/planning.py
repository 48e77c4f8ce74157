"""The planner's front door: a problem in, a checked and placed plan out.

`plan(problem)` proves its plan to 1e-4 where it can; mode "fast" is for planning again at once when a GPU is
lost: same formulation, few candidates, the relaxation's bound. Every plan is checked by planner.feasibility
before it is returned.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from planner import serial
from planner.absent import with_prices_of_absent
from planner.assembly import assemble_plan, model_plan, objective_of, utilisation, within_entry
from planner.baselines import dart_models, one_stage
from planner.binding import bound_by
from planner.cascades.data import Parts
from planner.cascades.planning import plan_cascades
from planner.entry import EntryRow, entry_rows, entry_use, most_factor
from planner.explain import (
    Infeasible,
    ProblemError,
    entry_too_small,
    no_pipelines,
    rates_too_high,
    validate,
    with_more,
)
from planner.feasibility import check
from planner.formulation import MilpProblem
from planner.losses import KeptShares, kept_shares, losses_of, rows_after
from planner.pipelines import Columns, enumerate_columns
from planner.placing import place
from planner.plan import ModelPlan, Plan
from planner.pools import by_pool, with_classes
from planner.prices import RatesTooHigh, WantedModel, relax
from planner.problem import Demand, Objective, Problem, weight_of
from planner.queueing import Reserve, reserves
from planner.search import FAST, PROVEN, Effort, FoundPlan, NothingFound, gpu_counts_of, search
from planner.sharding import plan_shards
from planner.shards import owned_shares
from planner.shortage import too_few_gpus
from planner.solver import version
from planner.surviving import (
    LOSS_SHARE,
    plan_surviving,
    promised_factor,
    relax_surviving,
    search_surviving,
)
from planner.unusable import unusable_gpus

Planner = Literal["ppipe", "np", "dart-r"]
Mode = Literal["fast", "proven"]
WHOLE_THROUGHPUT = 0.97
"""Throughput of plans of whole workers over the relaxation's, about."""
WHOLE_OF_BOUND = 0.95
"""What whole GPUs reach of the relaxation's throughput, at the least worth trying for."""
FULL_PARTS = (1.0, 0.5, 0.0)
"""Between the planned share of the entry's links and all of them, what GPUs are tried for."""
MOST_PLANNED_AGAIN = 6
"""Models with which planning again takes seconds."""
ENTRY_TOLERANCE = 1e-9


def plan(problem: Problem, planner: str = "ppipe", mode: str = "proven", parts: Parts | None = None) -> Plan:
    """The plan of `problem`. parts: of its cascades' SLOs, for every member, where they are not to be
    searched. Raises ProblemError (an unknown planner or mode too), Infeasible.
    """
    _require("planner", planner, get_args(Planner))
    _require("mode", mode, get_args(Mode))
    if problem.cascades:
        return plan_cascades(
            problem,
            plan=lambda inner: plan(inner, planner, mode),
            reach=functools.partial(_relaxed if mode == "fast" else _objective, planner=planner),
            with_build_rates=with_build_rates,
            parts=parts,
        )
    validate(problem)
    effort = FAST if mode == "fast" else PROVEN
    problem_hash = serial.content_hash(problem)
    whole, problem = problem, by_pool(problem)
    resolved = with_build_rates(problem)
    if planner == "ppipe":
        plan_once = _surviving if kept_shares(resolved) else _milp
        made = plan_once(resolved, "ppipe", effort, problem_hash)
    else:
        made = _milp(one_stage(resolved), "np", effort, problem_hash)
    if planner == "dart-r":
        made = _dart(resolved, made, problem_hash)
    made = with_classes(made, whole.cluster)
    if made.placement is None:
        made = replace(made, placement=place(made, whole.cluster))
    made = _with_shards(made, replace(whole, demands=resolved.demands))
    check(made, replace(whole, demands=resolved.demands))
    idle = [gpu for gpu, used in made.gpus_used.items() if not used]
    made = replace(made, unusable=unusable_gpus(resolved, idle))
    if planner == "ppipe":
        made = with_prices_of_absent(made, problem, _reached(problem, made, effort))
    return made


def _with_shards(made: Plan, problem: Problem) -> Plan:
    """The plan of several entries with its shards, at rates that each carries with what it passes on.

    Raises Infeasible.
    """
    shards = plan_shards(made, problem)
    if not shards:
        return made
    rows = entry_rows(problem, owned_shares(shards, problem.cluster.entries))
    slowed = within_entry(problem, made.models, rows, trim=False)
    if tuple(slowed) != made.models:
        _require_wanted(problem, slowed, rows)
        objective = objective_of(problem, slowed)
        gap = abs(made.upper_bound - objective) / objective if objective else 0.0
        busy = utilisation(problem, slowed)
        made = replace(made, models=tuple(slowed), objective=objective, gap=gap, utilisation=busy)
        shards = plan_shards(made, problem)
    prices = {(use.server, use.resource): use.price for use in made.entry}
    entry = [replace(use, price=prices[use.server, use.resource]) for use in entry_use(rows, made.models, {})]
    return replace(made, shards=shards, entry=tuple(entry))


def _require_wanted(problem: Problem, slowed: Sequence[ModelPlan], rows: Sequence[EntryRow]) -> None:
    """Raises Infeasible where these are below the rates of min-cost."""
    if problem.options.objective is Objective.MIN_COST:
        rates = [demand.rate_rps or 0.0 for demand in problem.demands]
        if any(one.throughput_rps < rate for one, rate in zip(slowed, rates, strict=True)):
            raise entry_too_small(rows, rates)


def _objective(problem: Problem, planner: str) -> float | None:
    """Of a quick plan of a problem by pools; None where it has none."""
    try:
        return _milp(problem if planner == "ppipe" else one_stage(problem), planner, FAST, "").objective
    except Infeasible:
        return None


def _relaxed(problem: Problem, planner: str) -> float | None:
    """A bound on that, which takes a tenth of the time."""
    stages = problem if planner == "ppipe" else one_stage(problem)
    try:
        return _bound(stages, _wanted(stages))
    except Infeasible:
        return None


def _reached(problem: Problem, made: Plan, effort: Effort) -> Callable[[Problem], float]:
    """What planning another problem would reach: by doing it, or, with many models, by the relaxation."""

    def reached(other: Problem) -> float:
        resolved = with_build_rates(other)
        if len(other.demands) > MOST_PLANNED_AGAIN:
            return _bound(resolved, _wanted(resolved))
        return made.objective if other is problem else _milp(resolved, "ppipe", effort, "").objective

    return reached


def _require(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ProblemError(f"{field} {value!r} is not one of {', '.join(allowed)}")


def with_build_rates(problem: Problem) -> Problem:
    """The problem with every model's batch building rate filled in.

    What is given stands. For min-cost it is the wanted rate; for max-rate NP's throughput without batch
    building, or, for models that NP cannot serve, the rate that the relaxation over all pipelines without
    batch building gives.
    """
    open_demands = [demand for demand in problem.demands if demand.batch_build_rps is None]
    if not open_demands or problem.options.batch_build_factor == 0:
        return problem
    if problem.options.objective is Objective.MIN_COST:
        rates = {demand.model: demand.rate_rps for demand in open_demands}
    else:
        rates = _rates_without_building(problem)
    filled = tuple(
        replace(demand, batch_build_rps=rates.get(demand.model)) if demand.batch_build_rps is None else demand
        for demand in problem.demands
    )
    return replace(problem, demands=filled)


def _rates_without_building(problem: Problem) -> dict[str, float | None]:
    instant = replace(problem, options=replace(problem.options, batch_build_factor=0.0))
    whole = one_stage(instant)
    columns = [(demand, _columns(whole, demand)) for demand in problem.demands]
    served = [
        (demand, WantedModel(demand.model, mine, weight_of(demand))) for demand, mine in columns if len(mine)
    ]
    rates: dict[str, float | None] = {}
    if served:
        alone = replace(whole, demands=tuple(demand for demand, _ in served))
        try:
            found = _milp(alone, "np", FAST, "", [one for _, one in served])
            rates = {model.model: model.throughput_rps for model in found.models}
        except Infeasible:
            rates = {}
    rest = [demand for demand in problem.demands if demand.model not in rates]
    wanted = [WantedModel(demand.model, _columns(instant, demand), weight_of(demand)) for demand in rest]
    wanted = [one for one in wanted if len(one.columns)]
    if wanted:
        alone = replace(
            instant,
            demands=tuple(demand for demand in rest if any(one.model == demand.model for one in wanted)),
        )
        bound = _bound(alone, wanted)
        rates |= {one.model: bound * one.rate for one in wanted}
    return rates


def _columns(problem: Problem, demand: Demand) -> Columns:
    return enumerate_columns(problem.profile.model(demand.model), problem.cluster, demand, problem.options)


def _gpu_cost(problem: Problem) -> list[float]:
    return [problem.options.gpu_cost.get(c.name, 1.0) for c in problem.cluster.gpu_classes]


def _milp(
    problem: Problem,
    planner: str,
    effort: Effort,
    problem_hash: str,
    wanted: Sequence[WantedModel] | None = None,
) -> Plan:
    """Plan by planner.search. wanted: every model with its pipelines, where the caller has them. Raises
    Infeasible.
    """
    wanted = _wanted(problem) if wanted is None else wanted
    rows = entry_rows(problem)
    _require_entry(problem, wanted, rows)
    loss = problem.options.loss_share
    if loss is not None:
        bound = _bound(problem, wanted)
        # The plan's bound is of throughput, not of what arrivals can use of it.
        found = replace(_search(problem, _reserved(problem, wanted, bound, loss), effort), bound=bound)
        return _assembled(problem, planner, wanted, found, problem_hash, trim=False)
    if (fed := _fed_by_entry(problem, wanted, effort)) is not None:
        return _assembled(problem, planner, wanted, fed, problem_hash, trim=True, trim_slowed=False)
    return _assembled(problem, planner, wanted, _search(problem, wanted, effort), problem_hash, trim=True)


def _assembled(
    problem: Problem,
    planner: str,
    wanted: Sequence[WantedModel],
    found: FoundPlan,
    problem_hash: str,
    trim: bool,
    trim_slowed: bool | None = None,
) -> Plan:
    """The plan of what was found. trim: without workers that the throughput does not need; others are there
    to absorb queueing, or losses. trim_slowed: without those that the rate at the entry does not need; None:
    as `trim`.
    """
    rows = entry_rows(problem)
    models = [
        model_plan(problem, demand, one.columns, uses, trim=trim)
        for demand, one, uses in zip(problem.demands, found.wanted, found.uses, strict=True)
    ]
    if any(not model.pipelines for model in models):
        raise too_few_gpus(problem, wanted)
    models = within_entry(problem, models, rows, trim=trim if trim_slowed is None else trim_slowed)
    entry = entry_use(rows, models, found.prices.entry)
    binding = bound_by(problem, wanted, found.prices, entry)
    models = [replace(model, bound_by=what) for model, what in zip(models, binding, strict=True)]
    return assemble_plan(
        problem, planner, models, found.bound, found.prices.capacity, version(), problem_hash, entry
    )


def _surviving(problem: Problem, planner: str, effort: Effort, problem_hash: str) -> Plan:
    """Plan by planner.surviving. Raises ProblemError, Infeasible."""
    del effort
    if len(problem.cluster.servers) < 2:
        raise ProblemError(
            "planner.survive: the fleet has one server, and nothing is left when it is lost; give it two or "
            "more, or leave survive out"
        )
    loss = LOSS_SHARE if problem.options.loss_share is None else problem.options.loss_share
    wanted, rows = _wanted(problem), entry_rows(problem)
    rows = (*rows, *(row for loss in losses_of(problem) for row in rows_after(problem, loss)))
    _require_entry(problem, wanted, rows)
    bound = _bound(problem, wanted)
    reserved = _reserved(problem, wanted, bound, loss)
    counts, cost = gpu_counts_of(problem.cluster), _gpu_cost(problem)
    try:
        prices = relax(counts, reserved, problem.options.objective, cost, rows)
    except RatesTooHigh as error:
        raise _too_high(problem, wanted, error) from error
    milp = MilpProblem(reserved, counts, problem.options.objective, prices.bound, cost, entry=rows)

    def solve(shares: Sequence[KeptShares]) -> Plan:
        found = search_surviving(replace(milp, losses=shares), prices, relaxed)
        made = _assembled(problem, planner, wanted, replace(found, bound=bound), problem_hash, trim=False)
        return replace(made, placement=place(made, problem.cluster, deal=True))

    plain = replace(problem, options=replace(problem.options, loss_share=loss))
    without = promised_factor(_milp(plain, planner, FAST, ""), plain)
    try:
        relaxed = relax_surviving(replace(milp, losses=kept_shares(problem)), prices)
        return plan_surviving(problem, solve, relaxed.bound, without)
    except NothingFound as error:
        raise Infeasible(
            f"planner.survive: {error}. More servers, or fewer GPUs in each, would do."
        ) from error


def _require_entry(problem: Problem, wanted: Sequence[WantedModel], rows: Sequence[EntryRow]) -> None:
    """Raises Infeasible where the entry does not carry the rates of min-cost."""
    share = most_factor(rows, [one.rate for one in wanted])
    if problem.options.objective is Objective.MIN_COST and share < 1 - ENTRY_TOLERANCE:
        raise entry_too_small(rows, [one.rate for one in wanted])


def _fed_by_entry(problem: Problem, wanted: Sequence[WantedModel], effort: Effort) -> FoundPlan | None:
    """Where the entry and not the GPUs bounds max-rate: the cheapest GPUs that serve all that it carries.
    They keep up with links that are full for a while, where there are so many; else with the share of links
    that is planned. None where the entry does not bound it, or where whole GPUs may not reach it.
    """
    rows = entry_rows(problem)
    rates = [one.rate for one in wanted]
    planned = most_factor(rows, rates)
    if problem.options.objective is not Objective.MAX_RATE or math.isinf(planned):
        return None
    counts, cost = gpu_counts_of(problem.cluster), _gpu_cost(problem)
    most = relax(counts, wanted, Objective.MAX_RATE, cost).bound * WHOLE_OF_BOUND
    if planned > most:
        return None
    full = most_factor([replace(row, capacity=row.capacity / row.usable) for row in rows], rates)
    for factor in dict.fromkeys(min(most, planned + (full - planned) * part) for part in FULL_PARTS):
        fixed = [replace(one, rate=one.rate * factor) for one in wanted]
        limit = problem.options.pipelines_per_class_pair
        try:
            found = search(problem.cluster, fixed, Objective.MIN_COST, cost, effort, limit)
        except (RatesTooHigh, NothingFound):
            continue
        prices = relax(counts, wanted, Objective.MAX_RATE, cost, rows)
        return replace(found, bound=prices.bound, prices=prices)
    return None


def _wanted(problem: Problem) -> list[WantedModel]:
    """Every model with its pipelines. Raises Infeasible where one has none."""
    wanted = []
    for demand in problem.demands:
        rate = demand.rate_rps if problem.options.objective is Objective.MIN_COST else weight_of(demand)
        assert rate is not None  # validate() saw to it
        wanted.append(WantedModel(demand.model, _columns(problem, demand), rate))
    missing = [d for d, one in zip(problem.demands, wanted, strict=True) if not len(one.columns)]
    if missing:
        raise no_pipelines(problem, missing)
    return wanted


def _bound(problem: Problem, wanted: Sequence[WantedModel]) -> float:
    """The relaxation's bound. Raises Infeasible where that does not serve the rates of min-cost."""
    counts, objective = gpu_counts_of(problem.cluster), problem.options.objective
    try:
        return relax(counts, wanted, objective, _gpu_cost(problem), entry_rows(problem)).bound
    except RatesTooHigh as error:
        raise _too_high(problem, wanted, error) from error


def _too_high(problem: Problem, wanted: Sequence[WantedModel], error: RatesTooHigh) -> Infeasible:
    return rates_too_high(problem, error, _servable_with(problem), _servable_without(problem, wanted))


def _reserved(
    problem: Problem, wanted: Sequence[WantedModel], bound: float, loss: float
) -> list[WantedModel]:
    """The same, to be planned for random arrivals at about the rates that the bound allows."""
    scale = bound * WHOLE_THROUGHPUT if problem.options.objective is Objective.MAX_RATE else 1.0
    return [
        replace(one, reserves=_reserves(problem, demand, one.rate * scale, loss))
        for demand, one in zip(problem.demands, wanted, strict=True)
    ]


def _reserves(problem: Problem, demand: Demand, rate_rps: float, loss: float) -> tuple[Reserve, ...]:
    flow = demand.flow
    dispersion = problem.options.dispersion if flow.dispersion is None else flow.dispersion
    found = reserves(demand.own_us, rate_rps, loss * flow.loss_part, dispersion, flow.bunch)
    return tuple(replace(one, batch_room=demand.batch_room) for one in found)


def _search(problem: Problem, wanted: Sequence[WantedModel], effort: Effort) -> FoundPlan:
    options = problem.options
    try:
        return search(
            problem.cluster,
            wanted,
            options.objective,
            _gpu_cost(problem),
            effort,
            options.pipelines_per_class_pair,
            options.least_gives,
            entry_rows(problem),
        )
    except RatesTooHigh as error:
        raise _too_high(problem, wanted, error) from error
    except NothingFound as error:
        raise too_few_gpus(problem, wanted) from error


def _servable_with(problem: Problem) -> Callable[[str, int], bool]:
    """Could the relaxation serve the rates with so many more GPUs of a class?"""
    counts = gpu_counts_of(problem.cluster)
    names = [gpu_class.name for gpu_class in problem.cluster.gpu_classes]

    def servable(gpu: str, extra: int) -> bool:
        # A class without GPUs has no pipelines yet.
        wanted = _wanted(problem if counts[names.index(gpu)] else with_more(problem, gpu, 1))
        more = [count + extra * (name == gpu) for name, count in zip(names, counts, strict=True)]
        try:
            relax(more, wanted, Objective.MIN_COST, _gpu_cost(problem))
        except RatesTooHigh:
            return False
        return True

    return servable


def _servable_without(problem: Problem, wanted: Sequence[WantedModel]) -> Callable[[Sequence[str]], bool]:
    """Could the relaxation serve the rates of all but these models?"""

    def servable(models: Sequence[str]) -> bool:
        left = [one for one in wanted if one.model not in models]
        try:
            relax(gpu_counts_of(problem.cluster), left, Objective.MIN_COST, _gpu_cost(problem))
        except RatesTooHigh:
            return False
        return True

    return servable


def _dart(problem: Problem, np_plan: Plan, problem_hash: str) -> Plan:
    """DART-r from NP's split of the GPUs. A rule, not a search: its bound is the one over all plans of
    the problem.
    """
    if problem.options.objective is not Objective.MAX_RATE:
        raise ProblemError("options.objective: min-cost; planner dart-r accepts max-rate only")
    models = dart_models(problem, np_plan)
    empty = [model.model for model in models if not model.pipelines]
    if empty:
        raise Infeasible(f"DART-r has no pipeline for {', '.join(empty)}")
    rows = entry_rows(problem)
    models = within_entry(problem, models, rows, trim=False)
    counts = gpu_counts_of(problem.cluster)
    prices = relax(counts, _wanted(problem), Objective.MAX_RATE, _gpu_cost(problem), rows)
    entry = entry_use(rows, models, prices.entry)
    return assemble_plan(
        problem, "dart-r", models, prices.bound, prices.capacity, version(), problem_hash, entry
    )


__all__ = ["Infeasible", "Mode", "Planner", "ProblemError", "plan", "with_build_rates"]
