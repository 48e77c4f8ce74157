"""A problem with cascades as one without: rates multiply along a cascade, each member has a part of the SLO.

Notation    D   index of dispersion of a member's arrivals: variance over mean of their number in a while
            N   frames of the next member for one answer
Dispersion  of the next member's frames, which come in bunches of N: a compound process has
            D' = Var[N] / E[N] + E[N] D, which is E[N^2] / E[N] where D = 1
Loss        a frame is answered whole only if all that came of it is. Of the share that may be lost, each
            member gets an equal part, divided by its frames for each of the cascade's (union bound).
Entries     a member with fewer shards than there are entries has its frames of the others passed on: a hop
            there and one back, which its part has to contain
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from planner.cascades.data import Cascade, CascadePart, Parts, PlannedCascade
from planner.owned import HOP_US
from planner.plan import Plan
from planner.problem import Demand, InnerFlow, Problem


def divided(problem: Problem, parts: Parts) -> Problem:
    """The problem whose models are each by themselves, `parts` being what members of cascades get of their
    SLO.
    """
    members = {member.model: cascade for cascade in problem.cascades for member in cascade.members}
    demands = tuple(
        _inner(problem, members[demand.model], demand, parts) if demand.model in members else demand
        for demand in problem.demands
    )
    return replace(problem, demands=demands, cascades=())


def divided_as_planned(problem: Problem, plan: Plan) -> Problem:
    """The problem that this plan's models were planned for."""
    if not problem.cascades:
        return problem
    parts = {model.model: model.slo_us for model in plan.models}
    return divided(with_passing(problem, passed_on(problem, plan)), parts)


def passed_on(problem: Problem, plan: Plan) -> frozenset[str]:
    """Members of which some entry owns nothing, so that all frames of them that it makes are passed on."""
    entries = len(problem.cluster.entries)
    few = {one.model for one in plan.shards if len(one.shards) < entries}
    return frozenset(each.model for cascade in problem.cascades for each in cascade.members) & few


def with_passing(problem: Problem, models: Collection[str]) -> Problem:
    """With the time that passing frames of these models on takes; theirs alone is counted."""
    demands = tuple(
        replace(one, flow=replace(one.flow, passed_us=2 * HOP_US if one.model in models else 0))
        for one in problem.demands
    )
    return replace(problem, demands=demands)


def parts_of(problem: Problem, plan: Plan) -> dict[str, int] | None:
    """How the plan divides the SLOs of the problem's cascades, by member; None where it divides others."""
    slos = {model.model: model.slo_us for model in plan.models}
    for cascade in problem.cascades:
        for leaf in cascade.leaves:
            if sum(slos.get(member.model, 0) for member in cascade.way_to(leaf.model)) != cascade.slo_us:
                return None
    return {member.model: slos[member.model] for one in problem.cascades for member in one.members}


def _inner(problem: Problem, cascade: Cascade, demand: Demand, parts: Parts) -> Demand:
    frames = cascade.frames_of(demand.model)
    planned = frames * cascade.member(demand.model).headroom
    return replace(
        demand,
        slo_us=parts[demand.model],
        weight=None if cascade.weight is None else cascade.weight * planned,
        rate_rps=None if cascade.rate_rps is None else cascade.rate_rps * planned,
        flow=InnerFlow(
            bunch=cascade.member(demand.model).fanout.bunch,
            dispersion=_dispersion(cascade, demand.model, problem.options.dispersion),
            loss_part=1 / (len(cascade.members) * frames),
            inside=bool(cascade.member(demand.model).of),
            passed_us=demand.flow.passed_us,
        ),
    )


def _dispersion(cascade: Cascade, model: str, outer: float) -> float:
    found = outer
    for member in cascade.way_to(model)[1:]:
        fanout = member.fanout
        found = fanout.variance / fanout.mean + fanout.mean * found
    return found


def planned_cascades(problem: Problem, plan: Plan) -> tuple[PlannedCascade, ...]:
    """What the plan of the divided problem makes of the problem's cascades."""
    rates = {model.model: model.throughput_rps for model in plan.models}
    slos = {model.model: model.slo_us for model in plan.models}
    return tuple(
        PlannedCascade(
            name=cascade.name,
            slo_us=cascade.slo_us,
            throughput_rps=min(rates[each.model] / cascade.frames_of(each.model) for each in cascade.members),
            parts=tuple(
                CascadePart(
                    each.model, each.of, slos[each.model], cascade.frames_of(each.model), each.fanout.bunch
                )
                for each in cascade.members
            ),
        )
        for cascade in problem.cascades
    )
