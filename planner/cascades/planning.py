"""Plans a problem with cascades: divides their SLOs, plans the models by themselves, says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from planner import serial
from planner.cascades.data import Cascade, Member, Parts
from planner.cascades.demands import divided, passed_on, planned_cascades, with_passing
from planner.cascades.division import NoDivision, Reach, divide
from planner.cascades.outlook import Outlook
from planner.explain import Infeasible, ProblemError, validate
from planner.plan import Plan
from planner.pools import by_pool
from planner.problem import Objective, Problem


def plan_cascades(
    problem: Problem,
    plan: Callable[[Problem], Plan],
    reach: Reach,
    with_build_rates: Callable[[Problem], Problem],
    parts: Parts | None = None,
) -> Plan:
    """plan: of a problem without cascades. reach: the objective of one by pools, quickly, or about. parts:
    the division, where it is known; the plan's bound is then of it. Raises ProblemError, Infeasible.
    """
    _validate(problem)
    problem_hash = serial.content_hash(problem)
    bound: float | None = None
    passed: frozenset[str] = frozenset()
    while True:
        # More of a plan's members may be passed on than were thought to be, and then they have less time.
        made = _planned(with_passing(problem, passed), plan, reach, with_build_rates, parts)
        bound = made.upper_bound if bound is None else bound
        more = passed_on(problem, made) - passed
        if not more:
            break
        passed |= more
    return replace(
        made,
        upper_bound=bound,
        gap=abs(bound - made.objective) / made.objective if made.objective else 0.0,
        cascades=planned_cascades(problem, made),
        problem_hash=problem_hash,
    )


def _planned(
    problem: Problem,
    plan: Callable[[Problem], Plan],
    reach: Reach,
    with_build_rates: Callable[[Problem], Problem],
    parts: Parts | None,
) -> Plan:
    """Of a problem that says which members are passed on."""
    if parts is not None and all(demand.batch_build_rps is not None for demand in problem.demands):
        return plan(divided(problem, parts))
    first = _by_need(by_pool(problem))
    # The rates at which batches fill are those of one division, so that all are measured alike.
    rates = {
        demand.model: demand.batch_build_rps for demand in with_build_rates(divided(problem, first)).demands
    }
    demands = tuple(replace(one, batch_build_rps=rates[one.model]) for one in problem.demands)
    problem = replace(problem, demands=demands)
    if parts is not None:
        return plan(divided(problem, parts))
    try:
        division = divide(by_pool(problem), reach)
    except NoDivision as error:
        raise _no_division(problem, first) from error
    made = plan(divided(problem, division.parts))
    maximise = problem.options.objective is Objective.MAX_RATE
    bound = max(division.bound, made.objective) if maximise else min(division.bound, made.objective)
    return replace(made, upper_bound=bound)


def _validate(problem: Problem) -> None:
    """Raises ProblemError."""
    known = {demand.model for demand in problem.demands}
    for cascade in problem.cascades:
        for member in cascade.members:
            if member.model not in known:
                raise ProblemError(f"cascade {cascade.name}: no demand for its member {member.model}")
        if problem.options.objective is Objective.MIN_COST and cascade.rate_rps is None:
            raise ProblemError(f"cascade {cascade.name}: rate_rps is missing; min-cost needs one")
    if problem.options.survive_servers:
        raise ProblemError("planner.survive: not for cascades yet; leave it out, or plan the models apart")
    if spot := [one.name for one in problem.cluster.gpu_classes if one.spot]:
        raise ProblemError(
            f"cluster.gpu_classes.{spot[0]}.spot: plans that survive the loss of a class are not for "
            "cascades yet; leave it out, or plan the models apart"
        )
    validate(divided(problem, {each.model: one.slo_us for one in problem.cascades for each in one.members}))


def _by_need(problem: Problem) -> dict[str, int]:
    """Parts in proportion to what each member needs at least. Raises Infeasible where that is too much."""
    outlook, parts = Outlook(problem), {}
    for cascade in problem.cascades:
        least = {}
        for member in cascade.members:
            steps = outlook.steps(member.model)
            least[member.model] = int(steps[0]) if len(steps) else cascade.slo_us
        for member in cascade.members:
            ways = [cascade.way_to(leaf.model) for leaf in cascade.leaves]
            needed = max(sum(least[each.model] for each in way) for way in ways if member in way)
            parts[member.model] = cascade.slo_us * least[member.model] // needed
        if any(parts[model] < need for model, need in least.items()):
            hop_us = {one.model: one.flow.passed_us for one in problem.demands if one.flow.passed_us}
            raise Infeasible(_too_short(cascade, least) + _with_hops(hop_us))
    return parts


def _with_hops(hop_us: Mapping[str, int]) -> str:
    if not hop_us:
        return ""
    return (
        f". {max(hop_us.values()) / 1000:g} ms of that are for passing a frame on to another entry and back: "
        f"there are fewer shards than entries of {', '.join(hop_us)}; more GPUs or one entry would do"
    )


def _too_short(cascade: Cascade, least: dict[str, int]) -> str:
    needs = ", ".join(f"{model} {need / 1000:.1f} ms" for model, need in least.items())
    way = max((cascade.way_to(leaf.model) for leaf in cascade.leaves), key=lambda way: _sum(way, least))
    return (
        f"cascade {cascade.name}: its SLO of {cascade.slo_us / 1000:g} ms is too short. With their margins "
        f"its models need at least: {needs}; {' and '.join(each.model for each in way)} in turn "
        f"need {_sum(way, least) / 1000:.1f} ms"
    )


def _sum(way: tuple[Member, ...], least: dict[str, int]) -> int:
    return sum(least[member.model] for member in way)


def _no_division(problem: Problem, first: dict[str, int]) -> Infeasible:
    names = ", ".join(cascade.name for cascade in problem.cascades)
    return Infeasible(
        f"cascades {names}: no way of dividing their SLOs gives every model pipelines on these GPUs; more "
        "GPUs, a longer SLO, a lower rate or a smaller margin would do. Tried first: "
        + ", ".join(f"{model} {part / 1000:.1f} ms" for model, part in first.items())
    )
