"""The configuration LP: which allotments could serve every model at once, and prices that prove that none do.

For rates R_m (max-rate: w_m z for a factor z under trial), over the allotments a that may serve R_m
(planner.allotments: U_m(a) >= R_m), lambda_ma the share of model m that a gets:

    min theta   with  sum_a lambda_ma = 1  for every m,   sum_m,a a_g lambda_ma <= theta N_g  for every g

Large allotments of m are one column l_m with GPUs of its own, A_mg, and frames/s y_p through pipelines
    sum_p y_p = R_m l_m                  sum_p c_pg y_p <= A_mg <= N_g l_m
    sum_g A_mg >= (largest + 1) l_m

Bound. For any prices pi >= 0 let C_m(pi) be the least price of any allotment that may serve R_m. If
    sum_m C_m(pi) > sum_g pi_g N_g
then no plan serves all rates: the factor z is an upper bound. It holds whatever the prices are, so it does
not rest on the solver's tolerances. (Min-cost: the cost is at least sum_m C_m(cost + pi) - sum_g pi_g N_g.)
This is the relaxation of Gilmore and Gomory (1961) for cutting stock, and for max-min sharing the
configuration LP of Bansal and Sviridenko (2006). A basic solution has at most one model per GPU class that
is torn between allotments, so it is near to whole plans just where models are many.

`choose` is the same with lambda in {0, 1} and whole A_mg. An allotment whose price exceeds C_m by more than
sum pi N - sum C is in no plan that serves all rates, and is left out. Large ones A' that were found not to
serve R_m are cut off with all that lies within them (b in {0, 1}):
    sum_g b_g >= l_m,   A_mg >= (A'_g + 1) b_g
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.allotments import SERVED, Allotments
from planner.pipelines import Floats
from planner.solver import Limits, LinearProgram, Solution, Status, Term, Variable

NEAR = 1e-9
PICKED = 1e-6
CHOOSE_NODES = 500


@dataclass(frozen=True, eq=False)
class Pick:
    """A model's share of one allotment: small (its row), found (its index), or, with neither, a large one
    that is not known to serve, with `whole` GPUs or a mean of several.
    """

    model: int
    gpus: Floats
    share: float
    small: int | None = None
    found: int | None = None
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A solution of the LP: theta (or the cost), picks, and the price of each GPU."""

    value: float
    prices: Floats
    picks: tuple[Pick, ...]


@dataclass(frozen=True, eq=False)
class Chosen:
    """One allotment per model, none where none was found; the bound on the cost of every choice. work:
    variables times nodes that it took.
    """

    status: Status
    bound: float
    picks: tuple[Pick, ...] = ()
    work: int = 0


@dataclass(eq=False)
class AllotmentLp:
    """The LP and its whole-numbered twin for one set of rates. `cost`: of a GPU per class, for min-cost."""

    models: Sequence[Allotments]
    rates: Sequence[float]
    counts: Sequence[int]
    cost: Sequence[float] | None = None
    opened: set[int] = field(default_factory=set)
    """Models whose large allotments are in the LP."""

    def relax(self) -> Relaxed | None:
        """The LP as it is known now. None: some model has no allotment."""
        program = _Program(self, whole=False, theta=self.cost is None)
        if not program.complete:
            return None
        solution = program.solve(Limits())
        if not solution.found:
            return None
        duals = [abs(solution.prices[f"capacity_{g}"]) for g in range(len(self.counts))]
        prices = np.array(duals) + (np.array(self.cost) if self.cost is not None else 0.0)
        return Relaxed(solution.objective, prices, program.picks(solution))

    def least_prices(self, prices: Floats) -> list[tuple[float, float]]:
        """Per model the least price of its small allotments, and of its large ones."""
        return [
            (one.small_price(prices, rate), one.price_large(prices, rate))
            for one, rate in zip(self.models, self.rates, strict=True)
        ]

    def widen(self, least: Sequence[tuple[float, float]]) -> bool:
        """Open models whose large allotments may be cheaper than their small ones; any news?"""
        before = len(self.opened)
        self.opened |= {m for m, (small, large) in enumerate(least) if large < small * (1 - NEAR)}
        return len(self.opened) > before

    def open_those_without(self) -> None:
        """Open models that no small allotment may serve."""
        for m, (one, rate) in enumerate(zip(self.models, self.rates, strict=True)):
            if not one.grid.complete and not one.may_be_small(rate):
                self.opened.add(m)

    def choose(self, prices: Floats, spare: float, real: bool) -> Chosen:
        """One allotment for every model, within the GPUs. `spare`: sum pi N - sum C, see the module.
        `real`: only of those known to serve.
        """
        program = _Program(self, whole=True, theta=False, real=real, prices=prices, spare=spare)
        if not program.complete:
            return Chosen(Status.INFEASIBLE, math.inf)
        # Max-rate asks for any choice, min-cost for the cheapest.
        gap = 1.0 if self.cost is None else 1e-6
        solution = program.solve(Limits(relative_gap=gap, nodes=CHOOSE_NODES))
        picks = program.picks(solution) if solution.found else ()
        bound = math.inf if solution.status is Status.INFEASIBLE else solution.bound
        return Chosen(solution.status, bound, picks, program.variables * max(1, solution.nodes))


def _worth(gpus: Floats, prices: Floats) -> Floats:
    total = np.zeros(len(gpus))
    for g, price in enumerate(prices):
        total = total + gpus[:, g] * price
    return total


class _Program:
    """The LP or MILP being stated, and which variable stands for what."""

    def __init__(
        self,
        lp: AllotmentLp,
        whole: bool,
        theta: bool,
        real: bool = False,
        prices: Floats | None = None,
        spare: float = np.inf,
    ) -> None:
        self._lp, self._whole, self._real = lp, whole, real
        self._model = LinearProgram("allotments", maximise=False)
        self._made = 0
        self._columns: list[tuple[int, Pick]] = []
        self._large: list[tuple[int, int, list[int]]] = []
        """Model, index of its share, indices of its GPUs."""
        self._used: list[list[Term]] = [[] for _ in lp.counts]
        self._objective: list[Term] = []
        self._prices, self._spare = prices, spare
        self._cost = lp.cost if lp.cost is not None else (prices if whole else None)
        added = [self._add(m) for m in range(len(lp.models))]
        self.complete = all(added)
        ratio = self._variable("theta") if theta else None
        for g, count in enumerate(lp.counts):
            if ratio is not None:
                self._model.constrain(f"capacity_{g}", [*self._used[g], (ratio, -float(count))], "<=", 0.0)
            else:
                self._model.constrain(f"capacity_{g}", self._used[g], "<=", float(count))
        self._model.optimise([(ratio, 1.0)] if ratio is not None else self._objective)

    @property
    def variables(self) -> int:
        """How many it has."""
        return self._made

    def solve(self, limits: Limits) -> Solution:
        """Solve it."""
        return self._model.solve(limits)

    def picks(self, solution: Solution) -> tuple[Pick, ...]:
        """Allotments with a share."""
        picks = [
            Pick(pick.model, pick.gpus, solution.values[index], pick.small, pick.found)
            for index, pick in self._columns
            if solution.values[index] > PICKED
        ]
        for m, index, gpus in self._large:
            share = solution.values[index]
            if share > PICKED:
                mean = np.array([solution.values[g] for g in gpus]) / share
                picks.append(Pick(m, mean.round() if self._whole else mean, share, whole=self._whole))
        return tuple(picks)

    def _variable(self, name: str, upper: float | None = None, integer: bool = False) -> Variable:
        self._made += 1
        return self._model.variable(name, 0.0, upper, integer)

    def _add(self, m: int) -> bool:
        """The model's allotments; False: it has none."""
        one, rate = self._lp.models[m], self._lp.rates[m]
        picks = [Pick(m, one.grid.gpus[row], 0.0, small=int(row)) for row in one.minimal(rate, self._real)]
        picks += [
            Pick(m, found.gpus, 0.0, found=index)
            for index, found in enumerate(one.found)
            if found.rate_rps >= rate * (1 - SERVED)
        ]
        picks = self._affordable(m, picks)
        shares: list[Term] = []
        for pick in picks:
            share = self._variable("share", 1.0, self._whole)
            self._columns.append((self._made - 1, pick))
            shares.append((share, 1.0))
            self._take(share, pick.gpus.tolist())
        if self._may_be_large(m):
            shares.append((self._add_large(m), 1.0))
        if shares:
            self._model.constrain(f"one_{m}", shares, "==", 1.0)
        return bool(shares)

    def _affordable(self, m: int, picks: list[Pick]) -> list[Pick]:
        if self._prices is None or not picks:
            return picks
        worth = _worth(np.stack([pick.gpus for pick in picks]), self._prices)
        limit = self._least(m) + self._spare
        return [pick for pick, price in zip(picks, worth, strict=True) if price <= limit]

    def _may_be_large(self, m: int) -> bool:
        if not self._whole:
            return m in self._lp.opened
        if self._real or self._prices is None:
            return False
        return self._lp.models[m].price_large(self._prices, self._lp.rates[m]) <= self._least(m) + self._spare

    def _least(self, m: int) -> float:
        assert self._prices is not None
        one, rate = self._lp.models[m], self._lp.rates[m]
        return min(one.small_price(self._prices, rate), one.price_large(self._prices, rate))

    def _take(self, variable: Variable, gpus: Sequence[float]) -> None:
        """What the variable takes of each class, and its cost. (A variable stands in a sum once only.)"""
        for g, count in enumerate(gpus):
            if count:
                self._used[g].append((variable, float(count)))
        if self._cost is not None:
            total = sum(float(cost) * float(count) for cost, count in zip(self._cost, gpus, strict=True))
            self._objective.append((variable, total))

    def _add_large(self, m: int) -> Variable:
        """The model's large allotments as one column."""
        one, rate, counts = self._lp.models[m], self._lp.rates[m], self._lp.counts
        share = self._variable("large", 1.0, self._whole)
        first = self._made
        gpus = [self._variable("gpus", float(count), self._whole) for count in counts]
        self._large.append((m, first - 1, list(range(first, self._made))))
        rates = [(self._variable("rate"), column) for column in one.front.tolist()]
        self._model.constrain(f"rate_{m}", [*((y, 1.0) for y, _ in rates), (share, -rate)], "==", 0.0)
        for g, count in enumerate(counts):
            busy = [(y, column[g]) for y, column in rates if column[g]]
            self._model.constrain(f"busy_{m}_{g}", [*busy, (gpus[g], -1.0)], "<=", 0.0)
            self._model.constrain(f"there_{m}_{g}", [(gpus[g], 1.0), (share, -float(count))], "<=", 0.0)
            self._take(gpus[g], [float(g == other) for other in range(len(counts))])
        size = float(one.grid.largest + 1)
        self._model.constrain(f"size_{m}", [*((mine, 1.0) for mine in gpus), (share, -size)], ">=", 0.0)
        if self._whole:
            self._cut_off(m, share, gpus)
        return share

    def _cut_off(self, m: int, share: Variable, gpus: Sequence[Variable]) -> None:
        """What lies within a large allotment that was refused for this rate."""
        one, rate = self._lp.models[m], self._lp.rates[m]
        for number, refused in enumerate(one.refused):
            if refused.rate_rps > rate * (1 + NEAR):
                continue
            more: list[Term] = []
            for g, mine in enumerate(gpus):
                if refused.gpus[g] < self._lp.counts[g]:
                    beyond = self._variable("beyond", 1.0, True)
                    terms: list[Term] = [(mine, 1.0), (beyond, -float(refused.gpus[g] + 1))]
                    self._model.constrain(f"beyond_{m}_{number}_{g}", terms, ">=", 0.0)
                    more.append((beyond, 1.0))
            self._model.constrain(f"refused_{m}_{number}", [*more, (share, -1.0)], ">=", 0.0)
