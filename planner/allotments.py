"""What one model can serve with a few whole GPUs; found out lazily, because most of it is never asked.

Notation (one model; pipelines p, GPU classes g)
    a = (a_g)      an allotment: whole GPUs of each class
    F(a)           most frames/s of the model on a, in whole workers: the MILP of planner.formulation, alone
    U(a) >= F(a) >= L(a)                 what is known of it so far
    small          at most `largest` GPUs: listed one by one;   large: all others, known by their price alone

Bounds. With c_pg GPUs of class g kept busy by a frame/s through p, for any GPU prices pi >= 0
    F(a) <= sum_g pi_g a_g / k(pi),      k(pi) = min_p sum_g pi_g c_pg over the pipelines that a has GPUs for
so U starts as the least of that over a fixed set of prices. `settle` asks the MILP, over the pipelines whose
loss at those prices (planner.prices) leaves the wanted rate within reach: only those can matter.
For large allotments that serve a rate R:   pi a >= max(k(pi) R, (largest + 1) min_g pi_g).

Rules
- F grows with a: what is learnt of one allotment is learnt of all above it (L) and below it (U). `refused`
  has the large ones that do not serve: nothing within them does either.
- Settling only decides whether F(a) >= R: the nearer R is to U(a), the fewer pipelines can matter. What the
  node limit leaves open is not asked again for about the same R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from planner.allotment_grid import Grid, priced, priced_all
from planner.dominance import undominated
from planner.formulation import MilpProblem, Outcome, PlanMilp, Use
from planner.improve import gpus_taken, served_rps
from planner.pipelines import Columns, Floats, Ints
from planner.prices import Prices, WantedModel, losses
from planner.problem import Objective
from planner.solver import Limits, Status

Uses = tuple[Use, ...]
MANY_COLUMNS = 4_000
"""With more columns, dominated ones are not looked for among all."""
NEAR = 1e-9
SERVED = 5e-7
"""A rate short by less is served: about the solver's own tolerance."""
MARGIN = 1.03
"""Settling looks for at most so much more than the rate that it was asked for."""
SETTLE = Limits(relative_gap=0.02, nodes=200, restarts=False)
SAME_RATE = 0.01


@dataclass(frozen=True, eq=False)
class ServingAllotment:
    """A large allotment that is known to serve `rate_rps`."""

    gpus: Floats
    rate_rps: float
    uses: Uses


@dataclass(frozen=True, eq=False)
class Refused:
    """No allotment within these GPUs serves rate_rps or more."""

    gpus: Floats
    rate_rps: float


class Allotments:
    """One model's small allotments, and what is known of its large ones. Rows of uses are `wanted`'s."""

    def __init__(self, wanted: WantedModel, grid: Grid, pipelines_per_class_pair: int | None = None) -> None:
        rows = np.arange(len(wanted.columns))
        if len(rows) <= MANY_COLUMNS:
            rows = undominated(wanted.columns, bool(wanted.reserves))
        self.wanted = replace(wanted, columns=wanted.columns.select(rows))
        self.grid = grid
        self.found: list[ServingAllotment] = []
        self.refused: list[Refused] = []
        self.work = 0
        """Pipelines times GPUs of all MILPs so far."""
        self.nodes = 0
        self._open: dict[int, float] = {}
        self._open_large: list[Refused] = []
        """Large ones that a node limit left open, not known to be refused."""
        self._limit = pipelines_per_class_pair
        self._busy = self.wanted.columns.gpus_per_rps(len(grid.counts))
        self._needs = _gpus_per_class(self.wanted.columns, len(grid.counts))
        self.front = _front(self._busy)
        """[pipeline, class]: GPUs that a frame/s keeps busy, of pipelines that none beats in all classes."""
        self._uses: dict[int, Uses] = {}
        self._minimal: dict[tuple[float, bool], Ints] = {}
        """What `minimal` has given since anything was learnt."""
        self.lower = np.zeros(len(grid.gpus))
        self.upper, self._prices = self._first_bounds()

    def minimal(self, rate_rps: float, real: bool = False) -> Ints:
        """The small allotments that may serve this rate (`real`: that do) while none within them does."""
        asked = (rate_rps, real)
        if asked not in self._minimal:
            near = SERVED if real else NEAR
            serves = (self.lower if real else self.upper) >= rate_rps * (1 - near)
            # Both bounds grow with the allotment, so one GPU less of any class tells.
            with_less = np.append(serves, False)[self.grid.less].any(axis=1)
            self._minimal[asked] = np.nonzero(serves & ~with_less)[0]
        return self._minimal[asked]

    def may_be_small(self, rate_rps: float) -> bool:
        """Whether any small allotment may serve this rate."""
        return bool((self.upper >= rate_rps * (1 - NEAR)).any())

    def serves(self, row: int, rate_rps: float) -> bool:
        """Is it known that this small allotment serves the rate?"""
        return bool(self.lower[row] >= rate_rps * (1 - SERVED))

    def uses(self, row: int) -> Uses:
        """Pipelines in use on a small allotment that serve lower[row]."""
        return self._uses[row]

    def settle(self, row: int, rate_rps: float) -> bool:
        """Learn whether a small allotment serves this rate; False: it is known, or was left open before."""
        left_open = self._open.get(row, 0.0)
        if self.serves(row, rate_rps) or abs(rate_rps - left_open) <= SAME_RATE * left_open:
            return False
        prices, gpus = self._prices[row], self.grid.gpus[row]
        worth = float(priced(self.grid.gpus[row : row + 1], prices)[0])
        enough = min(rate_rps * MARGIN, float(self.upper[row]))
        rows = np.nonzero((self._needs <= gpus).all(axis=1))[0]
        loss = self._losses(rows, prices, 1.0, enough)
        self._learn(
            row, self._solve(rows[loss <= worth - rate_rps * (1 - NEAR)], gpus, rate_rps, enough), rate_rps
        )
        return True

    def settle_gpus(self, gpus: Floats, prices: Floats, rate_rps: float) -> bool:
        """As `settle` for a large allotment, by the pipelines that can matter at these prices."""
        open_ = (one for one in self._open_large if one.rate_rps <= rate_rps * (1 + SAME_RATE))
        if any((gpus <= one.gpus).all() for one in open_):
            return False
        used = np.maximum(prices, float(prices.max()) * NEAR)
        scaled = used / self.frame_price(used)
        worth = float(priced(gpus[None, :], scaled)[0])
        enough = min(rate_rps * MARGIN, worth)
        rows = np.nonzero((self._needs <= gpus).all(axis=1))[0]
        rows = rows[self._losses(rows, scaled, 1.0, enough) <= worth - rate_rps * (1 - NEAR)]
        outcome = self._solve(rows, gpus, rate_rps, enough)
        if outcome is None or outcome.status is Status.INFEASIBLE:
            self.refused = [
                one for one in self.refused if one.rate_rps < rate_rps or not (one.gpus <= gpus).all()
            ]
            self.refused.append(Refused(gpus, rate_rps))
            return True
        learnt = self._learn_large(outcome, rate_rps)
        if not learnt:
            self._open_large.append(Refused(gpus, rate_rps))
        return learnt

    def small_price(self, prices: Floats, rate_rps: float) -> float:
        """The least price of small allotments that may serve this rate; infinite where there is none."""
        may = self.upper >= rate_rps * (1 - NEAR)
        return float(priced(self.grid.gpus[may], prices).min(initial=np.inf))

    def price_large(self, prices: Floats, rate_rps: float) -> float:
        """What is proven of the cost of large allotments that serve this rate; infinite if there are none."""
        if self.grid.complete:
            return math.inf
        return max(
            self.frame_price(prices) * rate_rps, (self.grid.largest + 1) * float(self._usable(prices).min())
        )

    def frame_price(self, prices: Floats) -> float:
        """k(pi): a frame/s on the cheapest pipeline."""
        return float(priced(self._busy, prices).min())

    def _usable(self, prices: Floats) -> Floats:
        return prices[np.array(self.grid.counts) > 0]

    def _first_bounds(self) -> tuple[Floats, Floats]:
        """U from prices alone, and per allotment the prices that gave it, scaled to k(pi) = 1.

        What a larger allotment cannot serve, none within it can.
        """
        gpus = self.grid.gpus
        upper, best = np.zeros(len(gpus)), np.zeros(gpus.shape)
        worth = _worth_of_a_gpu(self._busy)
        needed = np.minimum(self._needs, 2)
        front = _front(np.concatenate([self._busy, needed], axis=1))
        busy, needed = np.split(front, 2, axis=1)
        priced_busy: dict[int, Floats] = {}
        for alike in self.grid.alike:
            possible = (needed <= alike.up_to_two).all(axis=1)
            if not possible.any():
                continue
            directions = alike.directions * worth
            if id(alike.directions) not in priced_busy:
                priced_busy[id(alike.directions)] = priced_all(busy, directions)
            scaled = directions / priced_busy[id(alike.directions)][:, possible].min(axis=1)[:, None]
            bounds = priced_all(gpus[alike.rows], scaled)
            upper[alike.rows] = bounds.min(axis=0)
            best[alike.rows] = scaled[bounds.argmin(axis=0)]
        grows: Floats = np.where(self.grid.below, upper[None, :], np.inf).min(axis=1)
        return grows, best

    def _losses(self, rows: Ints, prices: Floats, frame_price: float, cap_rps: float) -> Floats:
        as_prices = Prices(0.0, tuple(map(float, prices)), (), ())
        if not len(rows):
            return np.zeros(0)
        return losses(self.wanted.columns.select(rows), as_prices, frame_price, cap_rps)

    def _solve(self, rows: Ints, gpus: Floats, rate_rps: float, enough_rps: float) -> Outcome | None:
        """rate_rps to enough_rps on these GPUs over these pipelines; None where there are none."""
        if not len(rows):
            return None
        rows = rows[undominated(self.wanted.columns.select(rows), bool(self.wanted.reserves))]
        self.work += len(rows) * int(gpus.sum())
        one = replace(self.wanted, columns=self.wanted.columns.select(rows), rate=1.0)
        problem = MilpProblem(
            wanted=[one],
            gpu_counts=[int(count) for count in gpus],
            objective=Objective.MAX_RATE,
            bound=enough_rps,
            pipelines_per_class_pair=self._limit,
            least=rate_rps * (1 - NEAR),
        )
        return self._from_rows(PlanMilp(problem).solve(SETTLE), rows)

    def _from_rows(self, outcome: Outcome, rows: Ints) -> Outcome:
        """The outcome with uses of `rows` as uses of our own columns."""
        self.nodes += outcome.nodes
        uses = tuple(tuple(replace(use, row=int(rows[use.row])) for use in mine) for mine in outcome.uses)
        return replace(outcome, uses=uses)

    def _learn(self, row: int, outcome: Outcome | None, rate_rps: float) -> None:
        if outcome is None or outcome.status is Status.INFEASIBLE:
            self._minimal.clear()
            within = self.grid.below[:, row]
            self.upper[within] = np.minimum(self.upper[within], rate_rps * (1 - 2 * NEAR))
            return
        if outcome.uses:
            self._serves(row, served_rps(self.wanted, outcome.uses[0]), outcome.uses[0])
        if not self.serves(row, rate_rps):
            self._open[row] = rate_rps

    def _learn_large(self, outcome: Outcome, rate_rps: float) -> bool:
        """Note an allotment that was found; is it new?"""
        if not outcome.uses:
            return False
        taken = gpus_taken(self.wanted, outcome.uses[0], len(self.grid.counts))
        gpus = np.array(taken, dtype=np.float64)
        served = served_rps(self.wanted, outcome.uses[0])
        if sum(taken) <= self.grid.largest:
            row = int(np.nonzero((self.grid.gpus == gpus).all(axis=1))[0][0])
            return self._serves(row, served, outcome.uses[0])
        if served < rate_rps * (1 - SERVED) or any(
            (known.gpus <= gpus).all() and known.rate_rps >= served * (1 - NEAR) for known in self.found
        ):
            return False
        self.found.append(ServingAllotment(gpus, served, outcome.uses[0]))
        return True

    def _serves(self, row: int, served_rps: float, uses: Uses) -> bool:
        """Note what a small allotment, and so all above it, serve; was it not known?"""
        self._minimal.clear()
        worse = np.nonzero(self.grid.below[row] & (self.lower < served_rps * (1 - NEAR)))[0]
        for above in worse:
            self.lower[above] = served_rps
            self._uses[int(above)] = uses
        return bool(len(worse))


def _front(table: Floats) -> Floats:
    """Rows that no other row equals or beats in every column; of equal ones the first."""
    order = np.unique(table, axis=0)
    kept, count = np.empty_like(order), 0
    for row in order:
        if not (kept[:count] <= row).all(axis=1).any():
            kept[count] = row
            count += 1
    return kept[:count]


def _gpus_per_class(columns: Columns, classes: int) -> Floats:
    """[row, class]: stages of a pipeline on each class. Each needs a GPU of its own."""
    stages: Floats = np.stack([(columns.gpu == g).sum(axis=1) * 1.0 for g in range(classes)], axis=1)
    return stages


def _worth_of_a_gpu(busy: Floats) -> Floats:
    """Frames/s of a GPU of each class at best, where it carries most of a pipeline: its price's scale."""
    part = busy / busy.sum(axis=1)[:, None]
    least = np.array([busy[part[:, g] >= min(0.5, part[:, g].max()), g].min() for g in range(busy.shape[1])])
    worth: Floats = 1.0 / np.where(least > 0, least, np.inf)
    filled: Floats = np.where(worth > 0, worth, worth.max())
    return filled
