"""Planning again with what is true now: servers that answer, rates as they come, latencies as measured.

Rules
- What is wanted is the mix that comes: the objective is the factor by which all of it could grow.
- Two plans are made: one that is free, and one with the cuts that are served, which loads little. The
  second is taken where it serves NEAR of what the first does.
- Workers go where they are loaded already (planner.rollout.keeping).
- Drift stretches the profile: what is measured is taken for all batch sizes.
- Cascades' SLOs stay divided as they are while that serves and nothing has drifted: margins were searched
  for that division, and another one takes seconds to find.
- Of a cascade the frames that clients send are counted, at its first model (`flows`). What comes of them
  follows as deployment.yaml says: under overload it is less than it will be once all is served.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from planner.cascades.data import Cascade, Parts
from planner.cascades.demands import divided_as_planned, parts_of
from planner.explain import Infeasible
from planner.feasibility import check
from planner.losses import Loss, after
from planner.plan import Pipeline, Plan
from planner.planning import plan
from planner.problem import Demand, Objective, Problem
from planner.profile import LatencyTable, ModelProfile, Profile
from planner.rollout.coarse import with_all_cuts, with_served_cuts
from planner.rollout.keeping import held_by, keep_places
from planner.serving import ServedModel
from planner.serving_build import served_model
from planner.sharding import plan_shards
from ppipe.operate.rules import PlanPromise
from python_backend.simulator.capacity import Workload, try_load
from python_backend.simulator.cascades import simulate_cascade

NEAR = 0.97
LEAST_SHARE = 0.02
"""Of what comes, at least so much is planned for a model: one that rests is not left without workers."""
MOST_FRAMES = 1_500
"""Of one model in one simulation."""
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class Truth:
    """What planning starts from. out: servers. rates_rps: by model; nothing: as demanded. factors: measured
    over profiled latency, by (model, GPU class).
    """

    out: frozenset[str] = frozenset()
    rates_rps: Mapping[str, float] = field(default_factory=dict)
    factors: Mapping[tuple[str, str], float] = field(default_factory=dict)


def with_servers(problem: Problem, names: Collection[str]) -> Problem:
    """With these servers alone: one that runs no tritonserver cannot be given work."""
    servers = tuple(server for server in problem.cluster.servers if server.name in names)
    return replace(problem, cluster=replace(problem.cluster, servers=servers))


def problem_now(problem: Problem, truth: Truth) -> Problem:
    """The problem with what is true now."""
    servers = tuple(server for server in problem.cluster.servers if server.name not in truth.out)
    return replace(
        problem,
        cluster=replace(problem.cluster, servers=servers),
        profile=Profile(tuple(_drifted(model, truth) for model in problem.profile.models)),
        demands=_demands(problem, truth),
        cascades=_cascades(problem, truth),
        options=replace(problem.options, objective=Objective.MAX_RATE, survive_servers=0),
    )


def flows(problem: Problem) -> frozenset[str]:
    """Models whose frames come from clients: all but those that others of their cascade feed."""
    fed = {member.model for cascade in problem.cascades for member in cascade.members if member.of}
    return frozenset(demand.model for demand in problem.demands if demand.model not in fed)


def planned_rps(served: Plan, problem: Problem) -> dict[str, float]:
    """Frames/s that a plan carries, of the models whose frames come from clients."""
    coming = flows(problem)
    return {model.model: model.throughput_rps for model in served.models if model.model in coming}


def wanted_rps(problem: Problem, truth: Truth) -> dict[str, float]:
    """Frames/s of each model that count: as they come, LEAST_SHARE of all at least; of a model that others
    feed, what comes of these.
    """
    coming = {model: truth.rates_rps.get(model, 0.0) for model in flows(problem)}
    total = sum(coming.values())
    if total <= 0:
        return {}
    wanted = {model: max(LEAST_SHARE * total, rate) for model, rate in coming.items()}
    for cascade in problem.cascades:
        first = wanted[cascade.members[0].model]
        wanted |= {member.model: first * cascade.frames_of(member.model) for member in cascade.members}
    return {demand.model: wanted[demand.model] for demand in problem.demands}


def plan_now(problem: Problem, truth: Truth, served: Plan) -> Plan:
    """A plan for what is true, placed where most is loaded. Raises Infeasible, ProblemError."""
    now = problem_now(problem, truth)
    parts = _parts_kept(now, truth, served)
    free = _plan_free(now, parts)
    chosen = free
    near = _plan_near(now, served, parts)
    if near is not None and near.objective >= NEAR * free.objective:
        chosen = near
    kept = keep_places(chosen, now.cluster, held_by(served))
    kept = replace(kept, shards=plan_shards(kept, divided_as_planned(now, kept)))
    check(kept, now)
    return kept


def _parts_kept(now: Problem, truth: Truth, served: Plan) -> Parts | None:
    """The division of cascades' SLOs that is served; None where members take other times than it was made
    for.
    """
    members = {member.model for cascade in now.cascades for member in cascade.members}
    drifted = {model for (model, _), factor in truth.factors.items() if factor != 1.0}
    return None if not members or members & drifted else parts_of(now, served)


def _plan_free(now: Problem, parts: Parts | None) -> Plan:
    """Another division only where nothing is served by this one. Raises Infeasible, ProblemError."""
    if parts is not None:
        with contextlib.suppress(Infeasible):
            return plan(now, mode="fast", parts=parts)
    return plan(now, mode="fast")


def _plan_near(now: Problem, served: Plan, parts: Parts | None) -> Plan | None:
    """None where the cuts that are served serve nothing with what is left."""
    try:
        return with_all_cuts(_plan_free(with_served_cuts(now, served), parts), now, served)
    except ValueError:
        return None


def tables_of(made: Plan, problem: Problem) -> dict[str, ServedModel]:
    """What dispatchers would have of a placed plan, by model; none for a model that nothing serves."""
    inner = divided_as_planned(problem, made)
    return {
        model.model: served_model(made, inner, model.model, links="placed")
        for model in made.models
        if model.pipelines
    }


def what_is_left(served: Plan, problem: Problem, truth: Truth) -> Plan:
    """The plan that is served without what is out, at latencies as they are."""
    whole = problem_now(problem, replace(truth, out=frozenset()))
    return after(_slowed(served, truth), Loss("now", tuple(truth.out)), whole)


def _slowed(served: Plan, truth: Truth) -> Plan:
    """With its stages' latencies as they are."""

    def pipeline_now(model: str, pipeline: Pipeline) -> Pipeline:
        stages = tuple(
            replace(stage, latency_us=stage.latency_us * truth.factors.get((model, stage.gpu), 1.0))
            for stage in pipeline.stages
        )
        return replace(pipeline, stages=stages)

    models = tuple(
        replace(model, pipelines=tuple(pipeline_now(model.model, pipeline) for pipeline in model.pipelines))
        for model in served.models
    )
    return replace(served, models=models)


def promise_of(other: Plan, served: Plan, problem: Problem, truth: Truth) -> PlanPromise:
    """What both would serve of what comes."""
    now, whole = problem_now(problem, truth), problem_now(problem, replace(truth, out=frozenset()))
    wanted = wanted_rps(problem, truth) or {
        model.model: model.throughput_rps for model in served.models if model.throughput_rps > 0
    }
    old = tables_of(what_is_left(served, problem, truth), whole)
    new = tables_of(other, now)
    return PlanPromise(
        served=factor(old, wanted),
        planned=factor(new, wanted),
        simulated_served=attained(old, wanted, problem.cascades),
        simulated_planned=attained(new, wanted, problem.cascades),
    )


def factor(tables: Mapping[str, ServedModel], wanted: Mapping[str, float]) -> float:
    """How often what is wanted is served, by the model that gets least of it."""
    return min(
        (tables[model].planned_rps / rate if model in tables else 0.0 for model, rate in wanted.items()),
        default=0.0,
    )


def attained(
    tables: Mapping[str, ServedModel], wanted: Mapping[str, float], cascades: Sequence[Cascade] = ()
) -> float:
    """The share of all frames that is answered in time, simulated on the same arrivals for every table. Of a
    cascade its own frames count, and those with all that came of them.
    """
    inner = {member.model for cascade in cascades for member in cascade.members}
    total, served = 0.0, 0.0
    for model, rate in wanted.items():
        if model not in inner and rate > 0:
            total += rate
            if model in tables:
                tried = try_load(tables[model], "adaptive", rate, _workload(rate), target=0.0)
                served += rate * (tried.attainment or 0.0)
    for cascade in cascades:
        rate = wanted.get(cascade.members[0].model, 0.0)
        total += rate
        if rate > 0 and all(member.model in tables for member in cascade.members):
            frames = rate * sum(cascade.frames_of(member.model) for member in cascade.members)
            served += rate * simulate_cascade(cascade, tables, rate, _workload(frames)).attainment
    return served / total if total > 0 else 1.0


def _workload(frames_rps: float) -> Workload:
    return Workload(seconds=min(MOST_SECONDS, MOST_FRAMES / frames_rps), seeds=(1,))


def _cascades(problem: Problem, truth: Truth) -> tuple[Cascade, ...]:
    wanted = wanted_rps(problem, truth)
    return tuple(
        replace(cascade, weight=wanted[cascade.members[0].model], rate_rps=None) if wanted else cascade
        for cascade in problem.cascades
    )


def _demands(problem: Problem, truth: Truth) -> tuple[Demand, ...]:
    wanted = wanted_rps(problem, truth)
    return tuple(
        replace(demand, weight=wanted[demand.model], rate_rps=None, batch_build_rps=wanted[demand.model])
        if wanted
        else demand
        for demand in problem.demands
    )


def _drifted(profile: ModelProfile, truth: Truth) -> ModelProfile:
    tables = tuple(
        _stretched(table, truth.factors.get((profile.model, table.gpu), 1.0)) for table in profile.tables
    )
    return replace(profile, tables=tables)


def _stretched(table: LatencyTable, by: float) -> LatencyTable:
    if by == 1.0:
        return table
    return replace(table, latency_us=tuple(tuple(us * by for us in row) for row in table.latency_us))
