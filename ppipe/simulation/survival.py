"""What a plan still serves after each loss, in simulation; and the plan that promises most so.

Rules
- A loss that takes the same workers of a model as another one is simulated once.
- A promise is what the WORST losses of each model by the closed form still serve in every scenario.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from planner.losses import Loss, after, losses_of
from planner.plan import ModelPlan, Plan
from planner.planning import plan
from planner.problem import Problem, wanted_of
from planner.surviving import usable_rps
from ppipe.simulation.judging import Judge
from ppipe.simulation.margined import may_be_wrong, with_margins
from ppipe.simulation.scenarios import scenarios_of

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
    left = dict(_simulated(made, problem, judge))
    binding = min(left, key=lambda name: left[name])
    factor = SAFE * left[binding]
    survival = replace(
        made.survival,
        promised=factor,
        binding=binding,
        bound=max(factor, made.survival.bound),
        without=max(factor, made.survival.without),
    )
    gap = (survival.bound - factor) / factor if factor else 0.0
    return replace(made, survival=replace(survival, gap=gap))


def _simulated(made: Plan, problem: Problem, judge: Judge) -> Iterator[tuple[str, float]]:
    """Name of a loss, and the share of what is wanted that one model then serves."""
    wanted = {demand.model: wanted_of(demand, problem.options) for demand in problem.demands}
    for name, each in remaining(made, problem).items():
        for one in each[:WORST]:
            alone = replace(one.whole, models=(one.model,))
            held = judge.held_rps(alone, problem, scenarios_of(SCENARIOS), SECONDS)
            yield one.losses[0].name, held[name] / wanted[name]


def surviving_plan(problem: Problem, judge: Judge) -> tuple[Problem, Plan]:
    """Of the margins as stated and MARGINS those whose plan promises most, and that plan. Raises what the
    planner raises.
    """
    found: list[tuple[Problem, Plan]] = []
    without = 0.0
    for margined in _margined(problem):
        found.append((margined, with_simulated_promise(plan(margined, mode="fast"), margined, judge)))
        without = max(without, _without_promise(margined, judge))
    planned, made = max(found, key=lambda pair: pair[1].survival.promised if pair[1].survival else 0.0)
    assert made.survival is not None
    survival = replace(made.survival, without=max(without, made.survival.promised))
    return planned, replace(made, survival=survival)


def _margined(problem: Problem) -> Iterator[Problem]:
    if may_be_wrong(problem):
        # What is stated leaves room for errors; with little margin it is the better plan as often as not.
        yield problem
    for margin in MARGINS_IF_WRONG if may_be_wrong(problem) else MARGINS:
        yield with_margins(problem, [margin] * len(problem.demands), LOSS_SHARE)


def _without_promise(problem: Problem, judge: Judge) -> float:
    """What a plan that promises nothing serves while nothing is lost, in units of what is wanted."""
    steady = tuple(replace(one, spot="") for one in problem.cluster.gpu_classes)
    plain = replace(
        problem,
        cluster=replace(problem.cluster, gpu_classes=steady),
        options=replace(problem.options, survive_servers=0),
    )
    held = judge.held_rps(plan(plain, mode="fast"), plain, scenarios_of(SCENARIOS), SECONDS)
    return SAFE * min(held[demand.model] / wanted_of(demand, problem.options) for demand in problem.demands)
