"""Plans many models by their allotments, and proves how good the plan is.

1. For a factor z under trial, the configuration LP (planner.allotment_lp) over all allotments that *may*
serve w_m z. If its prices prove that none do, z is a bound. Otherwise every allotment it picks that is not
known to serve is settled (planner.allotments) and the LP solved again, until it picks real ones only.
2. The same with one allotment for each model, by MILP: without a solution, z is a bound; with one that is
real, it is a plan.
3. The first z is a little below the bound; the next ones fall in growing steps until one is served, then
halve what is open between plan and bound. Prices that prove z impossible mostly prove lower ones so, too.

Min-cost: the same once, with the GPUs' cost as the objective.

Rules
- Nothing is settled unless the LP or the MILP picks it, so most allotments never are.
- A z that is neither proven nor served lowers the next trial, not the bound.
- Limits count pipelines, GPUs and nodes of the MILPs, never seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from planner.allotment_grid import Grid
from planner.allotment_lp import AllotmentLp, Pick, Relaxed
from planner.allotments import Allotments, Uses
from planner.formulation import MilpProblem
from planner.improve import gpus_taken
from planner.pipelines import Floats
from planner.problem import Objective
from planner.solver import Status

NEAR = 1e-9
LEAST = 1e-6
"""No factor below this share of the first bound is tried."""
FIRST_STEP = 0.02
MOST_OPEN = 3
"""Trials without a verdict, once there is a plan."""
HALVINGS = 20
MOST_WORK = 300_000
"""Pipelines times GPUs of the MILPs that settle; about 20 s."""
MOST_LARGE = 100
"""MILPs that price large allotments; about 10 s."""
ROUNDS = 60


class TrialVerdict(Enum):
    """What a trial showed."""

    SERVED = "served"
    IMPOSSIBLE = "impossible"
    OPEN = "open"


@dataclass(frozen=True, eq=False)
class Shared:
    """Per model the pipelines in use (rows of `models[m].wanted`); none where no plan was found. `bound`: on
    the objective. `impossible`: proven that there is no plan.
    """

    models: tuple[Allotments, ...]
    uses: tuple[Uses, ...]
    bound: float
    nodes: int
    impossible: bool = False


def share_out(problem: MilpProblem, gap: float) -> Shared:
    """A plan of `problem` whose bound is within `gap` of it, where the limits allow that."""
    return _Search(problem, gap).run()


class _Search:
    """The state between trials: the plan so far, its factor, the bound."""

    def __init__(self, problem: MilpProblem, gap: float) -> None:
        self._problem = problem
        self._gap = gap
        self._max_rate = problem.objective is Objective.MAX_RATE
        grid = Grid.of(problem.gpu_counts)
        self._models = [Allotments(one, grid, problem.pipelines_per_class_pair) for one in problem.wanted]
        self._factor, self._bound = 0.0, problem.bound
        self._uses: tuple[Uses, ...] = ()
        self._impossible = False
        self._asked_large = 0
        self._prices = np.ones(len(problem.gpu_counts))

    def run(self) -> Shared:
        """All trials."""
        if self._max_rate:
            self._largest_factor()
        else:
            self._cheapest()
        nodes = sum(one.nodes for one in self._models)
        return Shared(tuple(self._models), self._uses, self._bound, nodes, self._impossible)

    def _largest_factor(self) -> None:
        """Trials from the bound downwards, in growing steps, until one is served; then by halves."""
        if self._hopeless():
            self._impossible = True
            return
        top, step, left_open = self._bound, FIRST_STEP, 0
        while self._wide(top) and left_open < MOST_OPEN and not self._spent:
            z = (self._factor + top) / 2 if self._uses else top * (1 - step)
            verdict = self._try(z)
            if verdict is TrialVerdict.IMPOSSIBLE:
                self._bound = max(self._factor, min(self._bound, self._proven(z)))
            top = top if verdict is TrialVerdict.SERVED else min(z, self._bound)
            left_open += verdict is TrialVerdict.OPEN and bool(self._uses)
            step = min(2 * step, 0.5)

    def _wide(self, top: float) -> bool:
        """Is there still something to find between the plan and `top`?"""
        if not self._uses:
            return top > LEAST * self._problem.bound
        return self._bound > self._factor * (1 + self._gap) and top > self._factor * (1 + self._gap / 4)

    def _hopeless(self) -> bool:
        """Can the GPUs not even give every model some pipeline? Nothing need be settled for that."""
        lp = self._lp(LEAST * self._bound, None)
        if any(one.wanted.columns.depth > max(1, one.grid.largest) for one in lp.models):
            return False
        prices = np.ones(len(lp.counts))
        return lp.choose(prices, math.inf, real=False).status is Status.INFEASIBLE

    def _proven(self, z: float) -> float:
        """The least factor, at most z, that the latest prices prove to be impossible."""
        prices = self._prices
        worth = sum(p * n for p, n in zip(prices, self._problem.gpu_counts, strict=True))
        low, high = self._factor, z
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            least = sum(min(pair) for pair in self._lp(middle, None).least_prices(prices))
            low, high = (low, middle) if least > worth * (1 + NEAR) else (middle, high)
        return high

    def _cheapest(self) -> None:
        verdict = self._try(1.0)
        self._impossible = verdict is TrialVerdict.IMPOSSIBLE
        if self._impossible:
            return
        lp = self._lp(1.0, self._problem.gpu_cost)
        for _ in range(ROUNDS):
            relaxed, _ = self._relax(lp, 1.0)
            if relaxed is None:
                return
            above = self._cost(self._uses) * (1 + NEAR) - self._bound
            chosen = lp.choose(relaxed.prices, above, real=False)
            known = chosen.picks or chosen.status is Status.INFEASIBLE  # nothing cheaper than the plan so far
            if known and not self._affordable_large(lp, relaxed.prices, above):
                self._bound = max(self._bound, min(chosen.bound, self._cost(self._uses)))
            if chosen.picks and self._real(lp, chosen.picks):
                self._note(chosen.picks)
                return
            if not self._settle(lp, chosen.picks, relaxed, 1.0):
                break
        chosen = lp.choose(self._prices, math.inf, real=True)
        if chosen.picks:
            self._note(chosen.picks)

    def _cost(self, uses: Sequence[Uses]) -> float:
        """Of whole GPUs; infinite without a plan."""
        taken = [
            gpus_taken(one.wanted, mine, len(self._problem.gpu_counts))
            for one, mine in zip(self._models, uses, strict=False)
        ]
        costs = self._problem.gpu_cost
        total = sum(c * n for mine in taken for c, n in zip(costs, mine, strict=True))
        return total if uses else math.inf

    @property
    def _spent(self) -> bool:
        return bool(self._uses) and sum(one.work for one in self._models) >= MOST_WORK

    def _lp(self, z: float, cost: Sequence[float] | None) -> AllotmentLp:
        rates = [one.wanted.rate * z for one in self._models]
        return AllotmentLp(self._models, rates, self._problem.gpu_counts, cost)

    def _try(self, z: float) -> TrialVerdict:
        """Can this factor be served?"""
        lp = self._lp(z, None)
        relaxed, spare = self._relax(lp, z)
        if relaxed is None:
            return TrialVerdict.IMPOSSIBLE if spare < 0 else TrialVerdict.OPEN
        for _ in range(ROUNDS):
            chosen = lp.choose(relaxed.prices, spare, real=False)
            if chosen.status is Status.INFEASIBLE and not self._affordable_large(lp, relaxed.prices, spare):
                return TrialVerdict.IMPOSSIBLE
            if chosen.picks and self._real(lp, chosen.picks):
                return self._note(chosen.picks)
            if not self._settle(lp, chosen.picks, relaxed, z):
                break
        chosen = lp.choose(relaxed.prices, math.inf, real=True)
        return self._note(chosen.picks) if chosen.picks else TrialVerdict.OPEN

    def _affordable_large(self, lp: AllotmentLp, prices: Floats, spare: float) -> bool:
        return any(large <= min(small, large) + spare for small, large in lp.least_prices(prices))

    def _relax(self, lp: AllotmentLp, z: float) -> tuple[Relaxed | None, float]:
        """The LP once it picks only what is known to serve, and sum pi N - sum C; None: proven impossible."""
        while True:
            relaxed = lp.relax()
            if relaxed is None:
                if self._open_all(lp):
                    continue
                return None, -math.inf if self._without(lp) else 0.0
            least = lp.least_prices(relaxed.prices)
            news = lp.widen(relaxed.prices, least)
            self._prices = relaxed.prices
            worth = sum(p * n for p, n in zip(relaxed.prices, self._problem.gpu_counts, strict=True))
            spare = float(worth - sum(min(pair) for pair in least))
            if lp.cost is not None:
                all_cost = sum(c * n for c, n in zip(lp.cost, self._problem.gpu_counts, strict=True))
                self._bound = max(self._bound, all_cost - spare)
            elif spare < -NEAR * worth:
                return None, spare
            if not news and not self._settle(lp, relaxed.picks, relaxed, z):
                return relaxed, spare + NEAR * worth

    def _open_all(self, lp: AllotmentLp) -> bool:
        """Let models without small allotments have large ones; was there any?"""
        new = [m for m in self._without(lp) if not lp.models[m].grid.complete]
        for m in new:
            lp.opened[m] = [lp.models[m].cheapest_column(np.ones(len(lp.counts)))]
        return bool(new)

    def _without(self, lp: AllotmentLp) -> list[int]:
        """Models that have no allotment at all in the LP."""
        return [
            m
            for m, (one, rate) in enumerate(zip(lp.models, lp.rates, strict=True))
            if not len(one.minimal(rate)) and m not in lp.opened
        ]

    def _settle(self, lp: AllotmentLp, picks: Sequence[Pick], relaxed: Relaxed, z: float) -> bool:
        """Settle what was picked and is not known to serve; was there any?"""
        news = False
        for pick in picks:
            one, rate = lp.models[pick.model], lp.rates[pick.model]
            if pick.small is not None:
                news |= not self._spent and one.settle(pick.small, rate)
            elif pick.found is None and self._asked_large < MOST_LARGE:
                self._asked_large += 1
                news |= one.settle_large(relaxed.prices, rate)
        return news

    def _real(self, lp: AllotmentLp, picks: Sequence[Pick]) -> bool:
        return all(
            pick.found is not None
            or (pick.small is not None and lp.models[pick.model].serves(pick.small, lp.rates[pick.model]))
            for pick in picks
        )

    def _note(self, picks: Sequence[Pick]) -> TrialVerdict:
        """Keep the plan of these picks."""
        uses: list[Uses] = [()] * len(self._models)
        factor = self._bound if self._max_rate else 1.0  # what no other plan gains, nor this one uses
        for pick in picks:
            one = self._models[pick.model]
            if pick.small is not None:
                served, uses[pick.model] = float(one.lower[pick.small]), one.uses(pick.small)
            else:
                assert pick.found is not None  # only real picks get here
                found = one.found[pick.found]
                served, uses[pick.model] = found.rate_rps, found.uses
            factor = min(factor, served / one.wanted.rate)
        if not self._max_rate and self._cost(uses) >= self._cost(self._uses):
            return TrialVerdict.SERVED
        self._uses, self._factor = tuple(uses), factor
        return TrialVerdict.SERVED
