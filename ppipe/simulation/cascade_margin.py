"""The plan of a problem with cascades that serves most: many are made, and each is simulated.

Plans of one objective serve very different loads: the objective does not know how long bunches of frames
wait. So margins, the division of the SLO and that of the GPUs are searched around the plans of common
margins, by what plans serve.

Max-rate: the plan that serves most, as the least of capacity over weight among cascades and other models.
Min-cost: the cheapest plan of which every cascade and model serves its rate; if none does, the one that comes
nearest.

Rules
- The same problem gives the same plan, however many processes look for it.
- A plan that does not serve more than the best one so far is not simulated further.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from planner import serial
from planner.cascades.demands import parts_of
from planner.explain import Infeasible
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Objective, Problem, wanted_of
from planner.serving_build import Links
from ppipe.simulation.cascade_choice import Choice, alike, another
from ppipe.simulation.cascades import cascade_capacities, serve_enough, without_cascades
from ppipe.simulation.children import search_pool
from ppipe.simulation.telling import Progress, silent, telling
from ppipe.simulation.view import plan_capacities
from python_backend.simulator.capacity import Workload

MARGINS = (0.2, 0.4, 0.6)
"""Common ones, to begin with."""
ROUNDS, AT_ONCE = 16, 8
"""Of choices around the best one so far."""
SMALL_GPUS, LEAST_ROUNDS, LEAST_SECONDS = 24, 3, 3.0
"""Of larger fleets less is tried, and simulated for a shorter time: both take longer."""
SECONDS, SEEDS = 10.0, (101, 102, 103)
BETTER = 1.005
"""What a plan must serve, of what the best one does, to be looked at further."""


@dataclass(frozen=True)
class Tried:
    """A choice, its plan, and what that serves at 99 %, by name of cascade or model; nothing where it does
    not serve more than another. score: the least of served over wanted.
    """

    choice: Choice
    plan: Plan
    served_rps: Mapping[str, float]
    score: float


def best_of_cascades(
    problem: Problem, links: Links, progress: Progress = silent, processes: int = 2
) -> tuple[Problem, Plan, tuple[Tried, ...]]:
    """The problem with the margins that were chosen, its plan, and all that served more than those before.
    Raises Infeasible.
    """
    if processes < 2:
        return _Search(problem, links, progress).run(None)
    with search_pool(processes) as pool:
        return _Search(problem, links, progress).run(pool)


@dataclass
class _Search:
    problem: Problem
    links: Links
    progress: Progress
    best: Tried | None = None
    steps: list[Tried] = field(default_factory=list)
    """The starts, and what was better than all before."""
    seen: set[str] = field(default_factory=set)

    def run(self, pool: Executor | None) -> tuple[Problem, Plan, tuple[Tried, ...]]:
        gpus = sum(server.gpu_count for server in self.problem.cluster.servers)
        part = min(1.0, SMALL_GPUS / gpus)
        seconds = max(min(LEAST_SECONDS, SECONDS), SECONDS * part)
        self._try([alike(self.problem, margin) for margin in MARGINS], "fast", seconds, pool)
        if self.best is None:
            raise Infeasible(f"cascades: no plan at margins of {MARGINS[0]:g} to {MARGINS[-1]:g}")
        rng = random.Random(0)
        for _ in range(max(min(LEAST_ROUNDS, ROUNDS), round(ROUNDS * part))):
            parts = self._parts()
            fill_rps = rates_served(self.best, self.problem)
            choices = [another(self.problem, self.best.choice, parts, fill_rps, rng) for _ in range(AT_ONCE)]
            self._try(choices, "fast", seconds, pool)
        self._prove(seconds, pool)
        chosen = self.best.choice.problem(self.problem)
        return chosen, self.best.plan, tuple(self.steps)

    def _parts(self) -> dict[str, int]:
        """Of the best plan."""
        parts = None if self.best is None else parts_of(self.problem, self.best.plan)
        assert parts is not None  # it was planned for these SLOs
        return parts

    def _prove(self, seconds: float, pool: Executor | None) -> None:
        """The best choice planned as well as can be; the same plan with its proof is as good."""
        assert self.best is not None
        fast = self.best
        parts = tuple(self._parts().items())
        (proven,) = self._try([replace(fast.choice, parts=parts)], "proven", seconds, pool)
        if proven is not None and _served_alike(proven.plan) == _served_alike(fast.plan):
            self.best = replace(fast, plan=proven.plan)
            self.steps = [self.best if step is fast else step for step in self.steps]

    def _try(
        self, choices: Sequence[Choice], mode: str, seconds: float, pool: Executor | None
    ) -> list[Tried | None]:
        run: Callable[..., Iterable[Any]] = map if pool is None else pool.map
        workload = Workload(arrivals=self.problem.options.expect.arrivals, seconds=seconds, seeds=SEEDS)
        known = frozenset(self.seen)
        jobs = [(self.problem, one, mode, self.links, workload, self.best, known) for one in choices]
        tried: Iterable[Tried | None] = run(_tried, jobs)
        found = list(telling(self.progress, "planning and simulating", tried, len(jobs)))
        for one in found:
            if one is None:
                continue
            self.seen.add(_served_alike(one.plan))
            if not one.choice.parts or (one.served_rps and is_better(self.problem, one, self.best)):
                self.steps.append(one)
            if one.served_rps and is_better(self.problem, one, self.best):
                self.best = one
        return found


def _tried(
    job: tuple[Problem, Choice, str, Links, Workload, Tried | None, frozenset[str]],
) -> Tried | None:
    """Plan one choice, and simulate the plan as far as it may be better. Runs in a process of its own."""
    problem, choice, mode, links, workload, best, known = job
    one = choice.problem(problem)
    try:
        made = plan(one, mode=mode, parts=dict(choice.parts) or None)
    except Infeasible:
        return None
    wanted = _wanted(problem)
    if best is not None and not _may_be_better(problem, made, best, known):
        return Tried(choice, made, {}, 0.0)
    least: dict[str, float] = {}
    if best is not None:
        least = {name: _to_beat(problem, best) * rate for name, rate in wanted.items()}
        if not serve_enough(made, one, least, workload, links):
            return Tried(choice, made, {}, 0.0)
    served = cascade_capacities(made, one, workload, links, reached_rps=least)
    others = plan_capacities(without_cascades(made, one), one, workload=workload, links=links)
    # Capacities are found on a grid of each plan's own, which may pass over what was just served.
    served |= {name: max(least.get(name, 0.0), capacity.load_rps) for name, capacity in others.items()}
    return Tried(choice, made, served, min(rps / wanted[name] for name, rps in served.items()))


def rates_served(tried: Tried, problem: Problem) -> dict[str, float]:
    """Frames/s of every model that a plan serves; for min-cost what is wanted, if that is less."""
    served = dict(tried.served_rps)
    if problem.options.objective is Objective.MIN_COST:
        served = {name: min(rps, served[name]) for name, rps in _wanted(problem).items()}
    inner = {
        member.model: served[cascade.name] * cascade.frames_of(member.model)
        for cascade in problem.cascades
        for member in cascade.members
    }
    rates = {
        demand.model: inner.get(demand.model, served.get(demand.model, 0.0)) for demand in problem.demands
    }
    return {model: rps for model, rps in rates.items() if rps > 0}


def _may_be_better(problem: Problem, made: Plan, best: Tried, known: frozenset[str]) -> bool:
    """Without simulating it."""
    if _served_alike(made) in known:
        return False
    return not _is_enough(problem, best) or made.objective < best.plan.objective


def _to_beat(problem: Problem, best: Tried) -> float:
    """The score below which a plan is no better."""
    return 1.0 if _is_enough(problem, best) else best.score * BETTER


def _is_enough(problem: Problem, one: Tried) -> bool:
    """Whether only the cost is left to be better in."""
    return problem.options.objective is Objective.MIN_COST and one.score >= 1.0


def is_better(problem: Problem, one: Tried, best: Tried | None) -> bool:
    """Whether one is better than the best so far."""
    if best is not None and _is_enough(problem, one) and _is_enough(problem, best):
        return one.plan.objective < best.plan.objective
    return best is None or one.score > best.score


def _served_alike(made: Plan) -> str:
    """The same for plans that serve alike."""
    return serial.content_hash(tuple((one.model, one.slo_us, one.pipelines) for one in made.models))


def _wanted(problem: Problem) -> dict[str, float]:
    """Weight or rate, by name of cascade or model."""
    inner = {member.model for cascade in problem.cascades for member in cascade.members}
    wanted = {
        demand.model: wanted_of(demand, problem.options)
        for demand in problem.demands
        if demand.model not in inner
    }
    for cascade in problem.cascades:
        rate, weight = cascade.rate_rps, cascade.weight
        by_weight = problem.options.objective is Objective.MAX_RATE and weight is not None
        wanted[cascade.name] = (weight if by_weight else rate) or 1.0
    return wanted


def cascade_margin_table(tried: Sequence[Tried], chosen: Plan) -> Table:
    """What was tried first, and each that was better than all before; the chosen one is marked."""
    table = Table(title="margins and parts by simulation: served at 99 %, frames/s")
    names = _names(tried)
    for name in ("margins", "parts, ms", *names, "objective", ""):
        table.add_column(name, justify="right")
    for one in tried:
        served = (f"{one.served_rps[name]:.1f}" if one.served_rps else "less" for name in names)
        mark = "<-" if one.plan is chosen else ""
        margins = ", ".join(f"{margin:g}" for margin in _once([margin for _, margin in one.choice.margins]))
        parts = ", ".join(f"{part.slo_us / 1e3:.1f}" for each in one.plan.cascades for part in each.parts)
        table.add_row(margins, parts, *served, f"{one.plan.objective:.2f}", mark)
    return table


def _names(tried: Sequence[Tried]) -> list[str]:
    return next((list(one.served_rps) for one in tried if one.served_rps), [])


def _once(margins: list[float]) -> list[float]:
    return margins[:1] if len(set(margins)) == 1 else margins
