"""Finds by simulation how much room a plan must leave: SLO margins, for each model its own where that pays.

The planner knows how much of a plan's throughput random arrivals can use, and what slack varying latencies
take (planner.queueing); the rest only serving can say: how much slack a batch needs to be formed, what
waiting between stages costs, what errors of the profile do. So candidates are planned for several shares of
loss and margins (a margin leaves out pipelines of little slack), and simulated in scenarios of what is
expected.

- First some rungs (ppipe.simulation.rungs) common to all models. Then each model's own best rung together.
  Then, from the best so far, the loss or one model's rung a step up or down at a time, until nothing gains or
  enough were tried.
- The FINALISTS best are planned again in the planner's thorough mode, which finds better plans for the same
  margins, and compete with those of the fast mode.
- Score: guaranteed load over weight, two thirds the mean over models and a third the least. For min-cost the
  least share of a wanted rate that is guaranteed; of plans that guarantee all of it, the cheaper one.
- What is promised of the winner is found anew, in PROMISED_IN scenarios that chose nothing, and from what its
  workers can compute in COMPUTED_IN more.
- Scenarios are never those that results are reported on. No clock decides: same problem, same margins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from planner.plan import Plan, Promise
from planner.planning import plan
from planner.problem import Objective, Problem, wanted_of
from planner.serving_build import Links
from ppipe.simulation.children import search_pool
from ppipe.simulation.hopeless import require_promises
from ppipe.simulation.judging import STEADY, Judge
from ppipe.simulation.margined import with_margins
from ppipe.simulation.rungs import LOSSES, Choice, ladder_of
from ppipe.simulation.scenarios import FIRST_SEED, Scenario, scenarios_of
from ppipe.simulation.telling import Progress, silent, telling
from python_backend.simulator.guarantee import promise_of

SCENARIOS, SECONDS = 3, 8.0
"""In which each candidate is judged, and how long one is."""
MOST_LONGER = 4.0
"""Bursts need longer scenarios to be alike, by their standard deviation; up to so many times."""
PROMISED_IN, PROMISED_SECONDS, COMPUTED_IN = 20, 8.0, 500
AT_ONCE = 5
"""Of these scenarios, simulated by one process."""
FINALISTS = 2
ALL_WANTED = 0.99
"""Of wanted rates: loads are looked for on a grid."""
T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """What was tried, what its plan promises, and what that served at 99 % as guaranteed, by model."""

    margins: Mapping[str, float]
    batch_rooms: Mapping[str, float]
    loss_share: float
    mode: str
    planned_rps: Mapping[str, float]
    served_rps: Mapping[str, float]
    score: float
    note: str = ""
    """Why there is no plan, where there is none."""


@dataclass(frozen=True)
class MarginSearch:
    """The best plan, with what it promises, the problem that it solves, its candidate, and every candidate in
    the order tried.
    """

    plan: Plan
    problem: Problem
    best: Candidate
    tried: tuple[Candidate, ...]


def auto_margin(
    problem: Problem,
    policy: str = "adaptive",
    links: Links = "paper",
    processes: int = 2,
    progress: Progress = silent,
    promise: bool = True,
) -> MarginSearch:
    """Search the margins of `problem` under PlanOptions.expect. Raises what the planner raises where no
    margin gives a plan. `promise`: whether to say what the plan promises, too.
    """
    search = _Search(problem, Judge(policy, links), progress, promise)
    if processes < 2:
        return search.run(None)
    with search_pool(processes) as pool:
        return search.run(pool)


class _Search:
    """State of one search: what was found for each choice."""

    def __init__(
        self,
        problem: Problem,
        judge: Judge,
        progress: Progress,
        promise: bool,
    ) -> None:
        self.problem = problem
        self.ladder = ladder_of(problem)
        self.judge = judge
        self.progress = progress
        self.promise = promise
        self.found: dict[Choice, tuple[Plan | None, Candidate]] = {}
        self.served: dict[str, float] = {}
        """What a model's plan serves, by what the simulator sees of it: margins near each other often give
        the same one.
        """

    def run(self, pool: Executor | None) -> MarginSearch:
        count = len(self.problem.demands)
        self._try([(loss, (step,) * count, "fast") for loss, step in self.ladder.first], pool)
        loss = self._best()[0]
        self._try([(loss, tuple(self._own_best(loss, model) for model in range(count)), "fast")], pool)
        while len(self.found) < self.ladder.most:
            before = self._best()
            more = list(self.ladder.neighbours(before))
            self._try(more[: self.ladder.most - len(self.found)], pool)
            if self._best() == before:
                break
        ranked = sorted(self.found, key=lambda choice: -self.found[choice][1].score)
        self._try([(loss, steps, "proven") for loss, steps, _ in ranked[:FINALISTS]], pool)
        made, best = self.found[self._best()]
        problem = self._problem(self._best())
        if made is None:
            # Nothing could be planned: let the planner explain.
            made = plan(problem, mode="fast")
        tried = tuple(candidate for _, candidate in self.found.values())
        if self.promise:
            made = self._promising(made, problem, pool)
        return MarginSearch(made, problem, best, tried)

    def _promising(self, made: Plan, problem: Problem, pool: Executor | None) -> Plan:
        """The plan with what it promises of each model. Raises NoPromise."""
        run: Callable[..., Iterable[Any]] = map if pool is None else pool.map
        scenarios = scenarios_of(PROMISED_IN, FIRST_SEED + SCENARIOS)
        parts = [scenarios[start : start + AT_ONCE] for start in range(0, PROMISED_IN, AT_ONCE)]
        jobs = [(made, problem, model.model, part, self.judge) for model in made.models for part in parts]
        # Those run meanwhile: what is nominal is only waited for.
        found, nominal = run(_loads_rps, jobs), self._nominal_rps(made, problem, run)
        found = self._told("simulating what is promised", found, len(jobs))
        loads: dict[str, list[float]] = {model.model: [] for model in made.models}
        others = scenarios_of(COMPUTED_IN, scenarios[-1].seed + 1)
        in_others = run(_computed_rps, [(made, problem, name, others, self.judge) for name in loads])
        for (_, _, name, _, _), part in zip(jobs, found, strict=True):
            loads[name] += part
        steady = replace(problem, options=replace(problem.options, expect=STEADY, dispersion=1.0))
        unguarded: Mapping[str, float] = {}
        if steady.options != problem.options:
            plain = plan(steady, mode="fast")
            unguarded = self._nominal_rps(plain, steady, run)
        held_in, models = problem.options.expect.held_in, []
        for model, in_all in zip(made.models, in_others, strict=True):
            rps = nominal[model.model]
            computed = self.judge.computed_rps(made, problem, model.model, scenarios)
            promise = Promise(
                promise_of(loads[model.model], held_in, computed, in_all),
                rps,
                max(rps, unguarded.get(model.model, 0.0)),
                held_in,
            )
            models.append(replace(model, promise=promise))
        made = replace(made, models=tuple(models))
        require_promises(made, problem, self.judge)
        return made

    def _told(self, text: str, results: Iterable[T], total: int) -> Iterable[T]:
        return telling(self.progress, text, results, total)

    def _nominal_rps(
        self, made: Plan, problem: Problem, run: Callable[..., Iterable[Any]]
    ) -> Mapping[str, float]:
        alone = [(replace(made, models=(model,)), problem, self.judge) for model in made.models]
        return {name: rps for found in run(_nominal_rps, alone) for name, rps in found.items()}

    def _problem(self, choice: Choice) -> Problem:
        loss, steps, _ = choice
        rungs = [self.ladder.rungs[step] for step in steps]
        margins, rooms = [rung.margin for rung in rungs], [rung.batch_room for rung in rungs]
        return with_margins(self.problem, margins, LOSSES[loss], rooms)

    def _try(self, choices: Sequence[Choice], pool: Executor | None) -> None:
        """Plan what was not tried yet, then simulate every model's plan that was not met before."""
        run: Callable[..., Iterable[Any]] = map if pool is None else pool.map
        new = [choice for choice in dict.fromkeys(choices) if choice not in self.found]
        problems = [self._problem(choice) for choice in new]
        plans = list(
            self._told(
                f"planning {len(new)} more",
                run(_planned, [(problem, choice[2]) for problem, choice in zip(problems, new, strict=True)]),
                len(new),
            )
        )
        jobs: dict[str, tuple[Plan, Problem, Judge]] = {}
        for made, problem in zip(plans, problems, strict=True):
            for model in () if isinstance(made, str) else made.models:
                if (key := self.judge.served_alike(made, problem, model)) not in self.served:
                    jobs.setdefault(key, (replace(made, models=(model,)), problem, self.judge))
        held = self._told(f"simulating plans of {len(new)}", run(_held_rps, jobs.values()), len(jobs))
        self.served |= dict(zip(jobs, held, strict=True))
        for choice, problem, made in zip(new, problems, plans, strict=True):
            self.found[choice] = self._candidate(problem, choice[2], made)

    def _candidate(self, problem: Problem, mode: str, made: Plan | str) -> tuple[Plan | None, Candidate]:
        """made: a plan, or why there is none."""
        margins = {demand.model: demand.slo_margin or 0.0 for demand in problem.demands}
        rooms = {demand.model: demand.batch_room for demand in problem.demands}
        loss = problem.options.loss_share or 0.0
        if isinstance(made, str):
            return None, Candidate(margins, rooms, loss, mode, {}, {}, 0.0, made)
        planned = {model.model: model.throughput_rps for model in made.models}
        served = {
            model.model: self.served[self.judge.served_alike(made, problem, model)] for model in made.models
        }
        score = _score(made, problem, served)
        return made, Candidate(margins, rooms, loss, mode, planned, served, score)

    def _best(self) -> Choice:
        return max(self.found, key=lambda choice: self.found[choice][1].score)

    def _own_best(self, loss: int, model: int) -> int:
        """The common rung at which this model served most, planned for this loss."""
        name = self.problem.demands[model].model
        common = {
            steps[0]: found
            for (other, steps, _), (_, found) in self.found.items()
            if other == loss and len(set(steps)) == 1
        }
        return max(common, key=lambda step: common[step].served_rps.get(name, 0.0))


def _planned(job: tuple[Problem, str]) -> Plan | str:
    """The plan of one problem, or why there is none. Runs in a process of its own."""
    problem, mode = job
    try:
        return plan(problem, mode=mode)
    except ValueError as error:
        return str(error).splitlines()[0]


def _held_rps(job: tuple[Plan, Problem, Judge]) -> float:
    """What a plan of one model serves, as guaranteed. Runs in a process of its own."""
    made, problem, judge = job
    seconds = SECONDS * min(MOST_LONGER, math.sqrt(problem.options.dispersion))
    (held,) = judge.held_rps(made, problem, scenarios_of(SCENARIOS), max(SECONDS, seconds)).values()
    return held


def _score(made: Plan, problem: Problem, served: Mapping[str, float]) -> float:
    shares = [served[demand.model] / wanted_of(demand, problem.options) for demand in problem.demands]
    if problem.options.objective is Objective.MIN_COST:
        return min(shares) if min(shares) < ALL_WANTED else 1.0 + 1.0 / made.objective
    return (2 * sum(shares) / len(shares) + min(shares)) / 3


def _nominal_rps(job: tuple[Plan, Problem, Judge]) -> Mapping[str, float]:
    """What a plan of one model serves without what is expected. Runs in a process of its own."""
    made, problem, judge = job
    return judge.nominal_rps(made, problem, SECONDS)


def _loads_rps(job: tuple[Plan, Problem, str, Sequence[Scenario], Judge]) -> list[float]:
    """What one model serves in each of some scenarios. Runs in a process of its own."""
    made, problem, name, scenarios, judge = job
    return judge.loads_rps(made, problem, name, scenarios, PROMISED_SECONDS)


def _computed_rps(job: tuple[Plan, Problem, str, Sequence[Scenario], Judge]) -> list[float]:
    """What one model's workers can compute in each scenario. Runs in a process of its own."""
    made, problem, name, scenarios, judge = job
    return judge.computed_rps(made, problem, name, scenarios)
