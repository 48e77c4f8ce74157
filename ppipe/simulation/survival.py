"""What a plan still serves after each loss, in simulation; and the plan that promises most so.

Rules
- A loss that takes the same workers of a model as another one is simulated once.
- The loss of an entry takes no workers; what the entries that are left carry is not simulated but computed.
- A promise is what the WORST losses of each model by the closed form still serve in every scenario.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from planner.losses import Loss, after, losses_of
from planner.plan import ModelPlan, Plan, Survival
from planner.planning import plan
from planner.problem import Objective, Problem, wanted_of
from planner.surviving import carried_factor, usable_rps
from ppipe.simulation.children import search_pool
from ppipe.simulation.judging import Judge
from ppipe.simulation.margined import may_be_wrong, with_margins
from ppipe.simulation.scenarios import scenarios_of
from ppipe.simulation.telling import Progress, silent, telling

MARGINS, MARGINS_IF_WRONG = (0.03, 0.1), (0.25,)
"""Common to all models, to choose from; the latter where latencies may be wrong."""
LOSS_SHARE = 0.01
WORST = 2
SCENARIOS, SECONDS = 5, 6.0
SAFE = 0.99
"""Of what the scenarios hold: they are few."""


@dataclass(frozen=True)
class Remaining:
    """One model after losses that leave the same of it; `whole`: the plan that remains after the first."""

    model: ModelPlan
    whole: Plan
    losses: tuple[Loss, ...]


def remaining(made: Plan, problem: Problem) -> Mapping[str, tuple[Remaining, ...]]:
    """By model, all that may be left of it, each once; what is hit hardest by the closed form first."""
    found: dict[str, dict[tuple[tuple[int, int, int], ...], Remaining]] = {}
    for loss in losses_of(problem):
        left = after(made, loss, problem)
        for model in left.models:
            lost = _lost(made, model.model, loss)
            mine = found.setdefault(model.model, {})
            before = mine.get(lost)
            losses = (*before.losses, loss) if before else (loss,)
            mine[lost] = replace(before, losses=losses) if before else Remaining(model, left, losses)
    return {
        name: tuple(sorted(each.values(), key=lambda one: usable_rps(one.model, problem)))
        for name, each in found.items()
    }


def _lost(made: Plan, model: str, loss: Loss) -> tuple[tuple[int, int, int], ...]:
    """(pipeline, stage, workers) that a loss takes of a model."""
    assert made.placement is not None
    counts = Counter(
        (worker.pipeline, worker.stage)
        for worker in made.placement.workers
        if worker.model == model and worker.server in loss.servers
    )
    return tuple((*place, count) for place, count in sorted(counts.items()))


def with_simulated_promise(made: Plan, problem: Problem, judge: Judge) -> Plan:
    """The plan with its promise as simulation has it, and the loss that binds there."""
    if made.survival is None:
        return made
    held, binding = _simulated(made, problem, judge)
    factor = SAFE * held
    survival = replace(
        made.survival,
        promised=factor,
        binding=binding,
        bound=max(factor, made.survival.bound),
        without=max(factor, made.survival.without),
    )
    return replace(made, survival=_with_gap(survival))


def _with_gap(survival: Survival) -> Survival:
    promised, bound = survival.promised, survival.bound
    return replace(survival, gap=(bound - promised) / promised if promised else 0.0)


def _simulated(made: Plan, problem: Problem, judge: Judge) -> tuple[float, str]:
    """The share of what is wanted that every model serves after the worst losses, and the loss that binds.
    Hardest losses first: whether a later one holds that much is quickly seen.
    """
    wanted = {demand.model: wanted_of(demand, problem.options) for demand in problem.demands}
    worst = [(name, one) for name, each in remaining(made, problem).items() for one in each[:WORST]]
    worst.sort(key=lambda pair: usable_rps(pair[1].model, problem) / wanted[pair[0]])
    carried = {loss.name: carried_factor(loss, problem) for loss in losses_of(problem) if loss.entry}
    binding = min(carried, key=lambda name: carried[name], default="")
    least = carried.get(binding, math.inf)
    for name, one in worst:
        alone = replace(one.whole, models=(one.model,))
        share = _held(alone, problem, judge, least * wanted[name]) / wanted[name]
        if share < least:
            least, binding = share, one.losses[0].name
    return least, binding


def _held(alone: Plan, problem: Problem, judge: Judge, most_rps: float) -> float:
    """What a plan of one model serves in every scenario, as far as up to `most_rps`."""
    most = most_rps if math.isfinite(most_rps) else None
    (held,) = judge.held_rps(alone, problem, scenarios_of(SCENARIOS), SECONDS, most).values()
    return held


def surviving_plan(
    problem: Problem, judge: Judge, processes: int = 2, progress: Progress = silent
) -> tuple[Problem, Plan]:
    """Of the margins as stated and MARGINS those whose plan promises most, and that plan. Its bound is one of
    the plans of all of these margins. Raises what the planner raises.
    """
    jobs = [(margined, judge) for margined in _margined(problem)]
    if processes < 2:
        plans, without = [*map(_promising, jobs)], max(map(_without_promise, jobs))
    else:
        with search_pool(processes) as pool:
            of_plans, of_without = pool.map(_promising, jobs), pool.map(_without_promise, jobs)
            plans = list(telling(progress, "simulating plans after losses", of_plans, len(jobs)))
            without = max(telling(progress, "simulating plans that promise nothing", of_without, len(jobs)))
    found = [(margined, made) for (margined, _), made in zip(jobs, plans, strict=True)]
    promises = [made.survival for made in plans if made.survival is not None]
    planned, made = max(found, key=lambda pair: pair[1].survival.promised if pair[1].survival else 0.0)
    assert made.survival is not None
    survival = replace(
        made.survival,
        without=max(without, made.survival.promised),
        bound=max(one.bound for one in promises) if _is_max_rate(problem) else made.survival.bound,
    )
    return planned, replace(made, survival=_with_gap(survival))


def _is_max_rate(problem: Problem) -> bool:
    return problem.options.objective is Objective.MAX_RATE


def _margined(problem: Problem) -> Iterator[Problem]:
    if may_be_wrong(problem):
        # What is stated leaves room for errors; with little margin it is the better plan as often as not.
        yield problem
    for margin in MARGINS_IF_WRONG if may_be_wrong(problem) else MARGINS:
        yield with_margins(problem, [margin] * len(problem.demands), LOSS_SHARE)


def _promising(job: tuple[Problem, Judge]) -> Plan:
    """The plan of one problem, with what it promises. Runs in a process of its own."""
    problem, judge = job
    return with_simulated_promise(plan(problem, mode="fast"), problem, judge)


def _without_promise(job: tuple[Problem, Judge]) -> float:
    """What a plan that promises nothing serves while nothing is lost, in units of what is wanted. Runs in a
    process of its own.
    """
    problem, judge = job
    steady = tuple(replace(one, spot="") for one in problem.cluster.gpu_classes)
    plain = replace(
        problem,
        cluster=replace(problem.cluster, gpu_classes=steady),
        options=replace(problem.options, survive_servers=0),
    )
    made, least = plan(plain, mode="fast"), math.inf
    for model, demand in zip(made.models, problem.demands, strict=True):
        wanted = wanted_of(demand, problem.options)
        least = min(least, _held(replace(made, models=(model,)), plain, judge, least * wanted) / wanted)
    return SAFE * least
