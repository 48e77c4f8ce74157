"""Finds by simulation how much room a plan must leave: SLO margins, for each model its own where that pays.

The planner knows how much of a plan's throughput Poisson arrivals can use (planner.queueing); the rest only
serving can say: how much slack a batch needs to be formed, what waiting between stages costs. So candidates
are planned for several shares of loss and margins (a margin leaves out pipelines of little slack), and
simulated.

- First FIRST: margins common to all models. Then each model's own best margin together. Then, from the best
  so far, the loss or one model's margin a step up or down at a time, until nothing gains or MOST_CANDIDATES
  were tried.
- The FINALISTS best are planned again in the planner's thorough mode, which finds better plans for the same
  margins, and compete with those of the fast mode.
- Score: capacity over weight, two thirds the mean over models and a third the least.
- Seeds are SEEDS, never those that results are reported on. No clock decides: same problem, same margins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem, weight_of
from planner.queueing import usable_share
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from python_backend.simulator.capacity import TARGET, Workload, find_capacity

LADDER = (0.16, 0.1, 0.06, 0.03, 0.0)
"""Margins to choose from."""
LOSSES = (0.004, 0.01, 0.02)
"""Shares of loss to plan for; what is served is judged at 1 %."""
FIRST = ((1, 4), (1, 3), (1, 2), (1, 1))
"""(loss, margin) to begin with, by index; margins alike for all models."""
SEEDS = (90_001, 90_002)
SECONDS = 12.0
GRID = 0.005
"""Capacity is found to this share of the planned rate."""
MOST_CANDIDATES = 5
"""Planned in fast mode."""
FINALISTS = 2
Choice = tuple[int, tuple[int, ...], str]
"""Index of a loss, and of a margin for each model; the planner's mode."""


@dataclass(frozen=True)
class Candidate:
    """What was tried, what its plan promises, and what that served at 99 % in simulation, by model."""

    margins: Mapping[str, float]
    loss_share: float
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
class MarginSetting:
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
    search = _Search(problem, MarginSetting(policy, links, arrivals), progress)
    if processes < 2:
        return search.run(None)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return search.run(pool)


def with_margins(problem: Problem, margins: Sequence[float], loss_share: float) -> Problem:
    """The problem with one margin for each demand, in order, and the share of loss to plan for. Time to form
    batches is then part of the slack that planner.queueing counts.
    """
    demands = tuple(
        replace(demand, slo_margin=margin) for demand, margin in zip(problem.demands, margins, strict=True)
    )
    options = replace(problem.options, loss_share=loss_share, batch_build_factor=0.0)
    return replace(problem, demands=demands, options=options)


class _Search:
    """State of one search: what was found for each choice."""

    def __init__(
        self, problem: Problem, question: MarginSetting, progress: Callable[[Candidate], None] | None
    ) -> None:
        self.problem = problem
        self.question = question
        self.progress = progress
        self.found: dict[Choice, tuple[Plan | None, Candidate]] = {}

    def run(self, pool: Executor | None) -> MarginSearch:
        count = len(self.problem.demands)
        self._try([(loss, (step,) * count, "fast") for loss, step in FIRST], pool)
        loss = self._best()[0]
        self._try([(loss, tuple(self._own_best(loss, model) for model in range(count)), "fast")], pool)
        while len(self.found) < MOST_CANDIDATES:
            before = self._best()
            self._try(list(_neighbours(before))[: MOST_CANDIDATES - len(self.found)], pool)
            if self._best() == before:
                break
        ranked = sorted(self.found, key=lambda choice: -self.found[choice][1].score)
        self._try([(loss, steps, "proven") for loss, steps, _ in ranked[:FINALISTS]], pool)
        made, best = self.found[self._best()]
        problem = self._problem(self._best())
        if made is None:
            # Nothing could be planned: let the planner explain.
            made = plan(problem, mode="fast")
        return MarginSearch(made, problem, best, tuple(candidate for _, candidate in self.found.values()))

    def _problem(self, choice: Choice) -> Problem:
        loss, steps, _ = choice
        return with_margins(self.problem, [LADDER[step] for step in steps], LOSSES[loss])

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

    def _own_best(self, loss: int, model: int) -> int:
        """The common margin at which this model served most, planned for this loss."""
        name = self.problem.demands[model].model
        common = {
            steps[0]: found
            for (other, steps, _), (_, found) in self.found.items()
            if other == loss and len(set(steps)) == 1
        }
        return max(common, key=lambda step: common[step].served_rps.get(name, 0.0))


def _neighbours(choice: Choice) -> Iterable[Choice]:
    loss, steps, mode = choice
    for other in (loss - 1, loss + 1):
        if 0 <= other < len(LOSSES):
            yield other, steps, mode
    for model in range(len(steps)):
        for change in (-1, 1):
            step = steps[model] + change
            if 0 <= step < len(LADDER):
                yield loss, (*steps[:model], step, *steps[model + 1 :]), mode


def _evaluate(job: tuple[Problem, str, MarginSetting]) -> tuple[Plan | None, Candidate]:
    """Plan one problem and find what each of its models can serve. Runs in a process of its own."""
    problem, mode, question = job
    margins = {demand.model: demand.slo_margin or 0.0 for demand in problem.demands}
    loss = problem.options.loss_share or 0.0
    try:
        made = plan(problem, mode=mode)
    except ValueError as error:
        return None, Candidate(margins, loss, mode, {}, {}, 0.0, str(error).splitlines()[0])
    planned = {model.model: model.throughput_rps for model in made.models}
    served = {name: _capacity_rps(made, problem, name, question) for name in planned}
    shares = [served[demand.model] / weight_of(demand) for demand in problem.demands]
    score = (2 * sum(shares) / len(shares) + min(shares)) / 3
    return made, Candidate(margins, loss, mode, planned, served, score)


def expected_rps(model: ServedModel) -> float:
    """What Poisson arrivals can use by planner.queueing, on the links that the model is served on."""
    frames, total = 0.0, 0.0
    for pipeline in model.pipelines:
        batch = pipeline.batch_size
        path_us = sum(stage.latency_us[batch - 1] for stage in pipeline.stages)
        path_us += sum(hop[batch - 1] for hop in pipeline.transfer_us)
        rate = min(
            1e6 * batch * len(stage.workers) / stage.latency_us[batch - 1] for stage in pipeline.stages
        )
        frames += rate * max(0, model.slo_us - path_us) / 1e6 - (batch - 1) * rate / model.planned_rps
        total += rate
    return min(total, model.planned_rps) * usable_share(max(0.0, round(frames, 1)), 1 - TARGET)


def _capacity_rps(made: Plan, problem: Problem, name: str, question: MarginSetting) -> float:
    model = served_model(made, problem, name, question.links)
    if not model.pipelines or model.planned_rps <= 0:
        return 0.0
    rates = [model.planned_rps * GRID * step for step in range(20, 261)]
    workload = Workload(arrivals=question.arrivals, seconds=SECONDS, seeds=SEEDS)
    return find_capacity(model, question.policy, rates, workload, expected_rps(model)).load_rps
