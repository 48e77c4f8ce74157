"""Finds the SLO margin by simulation: the one whose plan serves most, for each model its own where that pays.

The planner's margin is a guess at queueing. A small one plans more throughput and leaves less slack to
serve it with, so only serving can say which is best. Each candidate is planned and simulated.

- First FIRST: margins common to all models, and some with a queueing factor (planner.queueing), which lets a
  plan mix pipelines of much and little slack. Batch building is given BUILD_SCALE of the time that the paper
  gives it: at high load the frames of a batch already wait. Then each model's own best margin together.
  Then, from the best so far, the factor or one model's margin a step up or down at a time, until nothing
  gains or MOST_CANDIDATES were tried.
- The FINALISTS best are planned again in the planner's thorough mode, which finds better plans for the same
  margins, and compete with those of the fast mode.
- Score: capacity over weight, half the mean over models and half the least, so that no model pays for
  another.
- Seeds are SEEDS, never those that results are reported on. No clock decides: same problem, same margins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Literal

from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem
from planner.serving_build import served_model
from python_backend.simulator.capacity import Workload, find_capacity

LADDER = (0.3, 0.24, 0.19, 0.15, 0.11, 0.08, 0.05, 0.02)
"""Margins to choose from."""
BUILD_SCALE = 0.3
"""Of the problem's batch_build_factor."""
FACTORS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.65)
"""Queueing factors to choose from."""
FIRST = ((0, 1), (0, 3), (0, 5), (1, 7), (2, 7), (3, 7), (4, 7), (5, 7), (1, 4), (2, 4), (3, 4), (4, 2))
"""(factor, margin) to begin with, by index; margins alike for all models."""
SEEDS = (90_001, 90_002)
SECONDS = 12.0
GRID = 0.01
"""Capacity is found to this share of the planned rate."""
MOST_CANDIDATES = 28
"""Planned in fast mode."""
FINALISTS = 3
POOR_GAP = 0.15
"""A plan of the fast mode with a larger gap is planned again thoroughly at once."""
Links = Literal["paper", "placed"]
Choice = tuple[int, tuple[int, ...], str]
"""Index of a factor, and of a margin for each model; the planner's mode."""


@dataclass(frozen=True)
class Candidate:
    """What was tried, what its plan promises, and what that served at 99 % in simulation, by model."""

    margins: Mapping[str, float]
    queueing_factor: float
    mode: str
    planned_rps: Mapping[str, float]
    served_rps: Mapping[str, float]
    score: float
    note: str = ""
    """Why there is no plan, where there is none."""


@dataclass(frozen=True)
class MarginSearch:
    """The best plan, the problem that it solves, its candidate, and every candidate in the order tried."""

    plan: Plan
    problem: Problem
    best: Candidate
    tried: tuple[Candidate, ...]


@dataclass(frozen=True)
class Question:
    """What candidates are judged by."""

    policy: str
    links: Links
    arrivals: str


def auto_margin(
    problem: Problem,
    policy: str = "adaptive",
    links: Links = "paper",
    arrivals: str = "poisson",
    processes: int = 2,
    progress: Callable[[Candidate], None] | None = None,
) -> MarginSearch:
    """Search the margins of `problem`. Raises what the planner raises where no margin gives a plan."""
    search = _Search(problem, Question(policy, links, arrivals), progress)
    if processes < 2:
        return search.run(None)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return search.run(pool)


def with_margins(problem: Problem, margins: Sequence[float], queueing_factor: float) -> Problem:
    """The problem with one margin for each demand, in order, and the search's settings for the rest."""
    demands = tuple(
        replace(demand, slo_margin=margin) for demand, margin in zip(problem.demands, margins, strict=True)
    )
    options = replace(
        problem.options,
        queueing_factor=queueing_factor,
        batch_build_factor=problem.options.batch_build_factor * BUILD_SCALE,
    )
    return replace(problem, demands=demands, options=options)


class _Search:
    """State of one search: what was found for each choice."""

    def __init__(
        self, problem: Problem, question: Question, progress: Callable[[Candidate], None] | None
    ) -> None:
        self.problem = problem
        self.question = question
        self.progress = progress
        self.found: dict[Choice, tuple[Plan | None, Candidate]] = {}

    def run(self, pool: Executor | None) -> MarginSearch:
        count = len(self.problem.demands)
        self._try([(factor, (step,) * count, "fast") for factor, step in FIRST], pool)
        factors = {self._best()[0], 0}
        own = [
            (f, tuple(self._own_best(f, model) for model in range(count)), "fast") for f in sorted(factors)
        ]
        self._try(own, pool)
        while len(self.found) < MOST_CANDIDATES:
            before = self._best()
            self._try(list(_neighbours(before))[: MOST_CANDIDATES - len(self.found)], pool)
            if self._best() == before:
                break
        ranked = sorted(self.found, key=lambda choice: -self.found[choice][1].score)
        self._try([(factor, steps, "proven") for factor, steps, _ in ranked[:FINALISTS]], pool)
        made, best = self.found[self._best()]
        problem = self._problem(self._best())
        if made is None:
            # Nothing could be planned: let the planner explain.
            made = plan(problem, mode="fast")
        return MarginSearch(made, problem, best, tuple(candidate for _, candidate in self.found.values()))

    def _problem(self, choice: Choice) -> Problem:
        factor, steps, _ = choice
        return with_margins(self.problem, [LADDER[step] for step in steps], FACTORS[factor])

    def _try(self, choices: Sequence[Choice], pool: Executor | None) -> None:
        new = [choice for choice in dict.fromkeys(choices) if choice not in self.found]
        jobs = [(self._problem(choice), choice[2], self.question) for choice in new]
        results: Iterable[tuple[Plan | None, Candidate]] = (map if pool is None else pool.map)(
            _evaluate, jobs
        )
        for choice, result in zip(new, results, strict=True):
            self.found[choice] = result
            if self.progress is not None:
                self.progress(result[1])

    def _best(self) -> Choice:
        return max(self.found, key=lambda choice: self.found[choice][1].score)

    def _own_best(self, factor: int, model: int) -> int:
        """The common margin at which this model served most with this factor."""
        name = self.problem.demands[model].model
        common = {
            steps[0]: found
            for (other, steps, _), (_, found) in self.found.items()
            if other == factor and len(set(steps)) == 1
        }
        return max(common, key=lambda step: common[step].served_rps.get(name, 0.0))


def _neighbours(choice: Choice) -> Iterable[Choice]:
    factor, steps, mode = choice
    for other in (factor - 1, factor + 1):
        if 0 <= other < len(FACTORS):
            yield other, steps, mode
    for model in range(len(steps)):
        for change in (-1, 1):
            step = steps[model] + change
            if 0 <= step < len(LADDER):
                yield factor, (*steps[:model], step, *steps[model + 1 :]), mode


def _evaluate(job: tuple[Problem, str, Question]) -> tuple[Plan | None, Candidate]:
    """Plan one problem and find what each of its models can serve. Runs in a process of its own."""
    problem, mode, question = job
    margins = {demand.model: demand.slo_margin or 0.0 for demand in problem.demands}
    factor = problem.options.queueing_factor
    try:
        made = plan(problem, mode=mode)
        if mode == "fast" and made.gap > POOR_GAP:
            made = plan(problem, mode="proven")
    except ValueError as error:
        return None, Candidate(margins, factor, mode, {}, {}, 0.0, str(error).splitlines()[0])
    planned = {model.model: model.throughput_rps for model in made.models}
    served = {name: _capacity_rps(made, problem, name, question) for name in planned}
    shares = [served[demand.model] / (demand.weight or demand.rate_rps or 1.0) for demand in problem.demands]
    score = (sum(shares) / len(shares) + min(shares)) / 2
    return made, Candidate(margins, factor, mode, planned, served, score)


def _capacity_rps(made: Plan, problem: Problem, name: str, question: Question) -> float:
    model = served_model(made, problem, name, question.links)
    if not model.pipelines or model.planned_rps <= 0:
        return 0.0
    rates = [model.planned_rps * GRID * step for step in range(10, 131)]
    workload = Workload(arrivals=question.arrivals, seconds=SECONDS, seeds=SEEDS)
    return find_capacity(model, question.policy, rates, workload, model.planned_rps * 0.95).load_rps
