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
from planner.problem import Objective
from planner.solver import Status

NEAR = 1e-9
LEAST = 1e-6
"""No factor below this share of the first bound is tried."""
FIRST_STEP = 0.02
FAR_DOWN = 0.7
MOST_OPEN = 3
"""Trials without a verdict, once there is a plan."""
PATIENT_WORK = 40_000
"""Variables times nodes of the MILPs over whole allotments, some 20 s. The last proofs take longest: from
here on LOOSER times the gap will do, and more in proportion to the work.
"""
LOOSER = 5
HALVINGS = 20
MOST_WORK = 300_000
"""Pipelines times GPUs of the MILPs that settle; about 20 s."""
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


def share_out(problem: MilpProblem, gap: float, grid: Grid | None = None) -> Shared:
    """A plan of `problem` whose bound is within `gap` of it, where the limits allow that. grid: of what is
    listed one by one, of the problem's GPUs.
    """
    return _Search(problem, gap, grid or Grid.of(problem.gpu_counts)).run()


class _Search:
    """The state between trials: the plan so far, its factor, the bound."""

    def __init__(self, problem: MilpProblem, gap: float, grid: Grid) -> None:
        self._problem = problem
        self._gap = gap
        self._max_rate = problem.objective is Objective.MAX_RATE
        self._models = [Allotments(one, grid, problem.pipelines_per_class_pair) for one in problem.wanted]
        self._factor, self._bound = 0.0, problem.bound
        self._open = 0.0
        """The largest factor that was left open."""
        self._choosing = 0
        """Variables times nodes of the MILPs over whole allotments so far."""
        self._uses: tuple[Uses, ...] = ()
        self._impossible = False
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
        """Trials from the bound downwards, in growing steps, until one is served; then by halves. Far down
        it is asked whether any plan serves anything.
        """
        least = LEAST * self._bound
        top, step, left_open, hopeful = self._bound, FIRST_STEP, 0, False
        while self._wide(top) and left_open < MOST_OPEN and not self._spent:
            if not self._uses and not hopeful and top < self._problem.bound * FAR_DOWN:
                hopeful = True
                if self._serves_nothing(least):
                    return
            z = (self._factor + top) / 2 if self._uses else top * (1 - step)
            verdict = self._try(z)
            top = top if verdict is TrialVerdict.SERVED else min(z, self._bound)
            left_open += verdict is TrialVerdict.OPEN and bool(self._uses)
            step = min(2 * step, 0.5)
        if not self._uses and not hopeful and self._serves_nothing(least):
            return  # the first prices were proof down to where nothing is tried any more
        self._lower_bound()

    def _serves_nothing(self, least: float) -> bool:
        """Note whether it is proven that not even this factor is served."""
        self._impossible = self._tried(least) is TrialVerdict.IMPOSSIBLE
        return self._impossible

    def _lower_bound(self) -> None:
        """Halve what lies between the bound and the highest factor that was left open."""
        for _ in range(MOST_OPEN):
            z = (self._open + self._bound) / 2
            if not self._open or not self._uses or self._spent or not self._wide(z):
                return
            self._try(z)

    def _wide(self, top: float) -> bool:
        """Is there still something to find between the plan and `top`?"""
        if not self._uses:
            return top > LEAST * self._problem.bound
        patience = self._choosing / PATIENT_WORK
        gap = self._gap * (LOOSER * patience if patience >= 1 else 1)
        return self._bound > self._factor * (1 + gap) and top > self._factor * (1 + self._gap / 4)

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
            if chosen.picks or chosen.status is Status.INFEASIBLE:  # nothing cheaper than the plan so far
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
        """Can this factor be served? Max-rate: notes what follows for the bound."""
        verdict = self._tried(z)
        if not self._max_rate:
            return verdict
        if verdict is TrialVerdict.IMPOSSIBLE:
            self._bound = max(self._factor, min(self._bound, self._proven(z)))
        elif verdict is TrialVerdict.OPEN:
            self._open = max(self._open, z)
        return verdict

    def _tried(self, z: float) -> TrialVerdict:
        lp = self._lp(z, None)
        relaxed, spare = self._relax(lp, z)
        if relaxed is None:
            return TrialVerdict.IMPOSSIBLE
        for _ in range(ROUNDS):
            chosen = lp.choose(relaxed.prices, spare, real=False)
            self._choosing += chosen.work
            if chosen.status is Status.INFEASIBLE:
                return TrialVerdict.IMPOSSIBLE
            if chosen.picks and self._real(lp, chosen.picks):
                return self._note(chosen.picks)
            if not self._settle(lp, chosen.picks, relaxed, z):
                break
        chosen = lp.choose(relaxed.prices, math.inf, real=True)
        return self._note(chosen.picks) if chosen.picks else TrialVerdict.OPEN

    def _relax(self, lp: AllotmentLp, z: float) -> tuple[Relaxed | None, float]:
        """The LP once it picks only what is known to serve, and sum pi N - sum C. None: proven impossible."""
        while True:
            lp.open_those_without()
            relaxed = lp.relax()
            if relaxed is None:
                return None, -math.inf
            least = lp.least_prices(relaxed.prices)
            news = lp.widen(least)
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

    def _settle(self, lp: AllotmentLp, picks: Sequence[Pick], relaxed: Relaxed, z: float) -> bool:
        """Settle what was picked and is not known to serve; was there any?"""
        news = False
        for pick in picks:
            one, rate = lp.models[pick.model], lp.rates[pick.model]
            if pick.small is not None:
                news |= not self._spent and one.settle(pick.small, rate)
            elif pick.found is None and pick.whole:
                news |= not self._spent and one.settle_gpus(pick.gpus, relaxed.prices, rate)
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
