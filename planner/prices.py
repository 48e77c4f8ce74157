"""The plan's linear relaxation over all pipelines: a true bound, and prices that say which pipelines can
matter.

Notation (per model m, pipeline p of m, GPU class g; max-rate)
    x_p      frames/s through p            c_pg   GPUs of class g that one frame/s through p keeps busy
    max z    with  sum_p x_p = w_m z   and   sum_p c_pg x_p <= N_g
For any GPU prices pi >= 0 let k_m = min_p sum_g pi_g c_pg, the price of a frame/s of m on its cheapest
pipeline. Then
    z <= sum_g pi_g N_g / sum_m w_m k_m
whatever pi is, so the bound does not rest on the solver's tolerances. For min-cost with rates r_m and
capacity prices s >= 0 on top of the GPUs' own cost:  cost >= sum_m r_m k_m(cost + s) - sum_g s_g N_g.

Entry. Rows sum_m a_em w_m z <= C_e (planner.entry), with prices q_e >= 0 of their own, make it
    z <= (sum_g pi_g N_g + sum_e q_e C_e) / sum_m w_m (k_m + sum_e q_e a_em)
They are the same for all pipelines of a model, so they choose none. For min-cost they hold or they do not.

Loss. A pipeline that serves x in whole workers n_i at prices pi buys GPU time for sum_i pi_i n_i / slices_i
that is worth k_m x. A plan that uses p at x is therefore at least  loss_p(x) = sum_i pi_i ceil(x / rate_i) /
slices_i - k_m x  below the bound. This is stronger than reduced cost, because it counts the idle part of the
last worker of every stage.

Rules: columns are added to the restricted problem until no pipeline is cheaper than the prices say; bound and
losses are always taken over all columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planner.entry import EntryRow
from planner.pipelines import Columns, Floats
from planner.problem import Objective
from planner.queueing import Reserve
from planner.solver import Limits, LinearProgram, Solution, Term

ROUNDS = 60
TOLERANCE = 1e-7
COLUMNS_PER_ROUND = 5
MAX_BREAKPOINTS = 1500
LOSS_CELLS = 2_000_000
Rows = Sequence[tuple[Floats, float]]
"""Wanted.rows of one model."""


@dataclass(frozen=True, eq=False)
class WantedModel:
    """One model of a problem to solve: its pipelines, and the rate wanted (max-rate: its weight)."""

    model: str
    columns: Columns
    rate: float
    reserves: tuple[Reserve, ...] = ()
    """Rows that leave room for random arrivals; none: throughput alone counts."""

    def rows(self) -> list[tuple[Floats, float]]:
        """(gain of every pipeline, wanted): sum_p x_p gain_p >= wanted * z must hold for each."""
        if not self.reserves:
            return [(np.ones(len(self.columns)), self.rate)]
        return [(one.gains(self.columns), self.rate) for one in self.reserves]

    def usable_rps(self, rates: Mapping[int, float]) -> float:
        """What of these rates, by row, random arrivals can use."""
        if not self.reserves:
            return sum(rates.values())
        served = [
            sum(rate * float(gains[row]) for row, rate in rates.items()) / wanted
            for gains, wanted in self.rows()
        ]
        return self.rate * min(served)

    def mixed(self, mix: Sequence[float]) -> WantedModel:
        """The rows' convex combination as a problem without rows: rates times gain, wanted rate alike."""
        if not self.reserves:
            return self
        pairs = list(zip(self.rows(), mix, strict=True))
        gains = np.zeros(len(self.columns))
        for (row, _), part in pairs:
            gains = gains + row * part
        columns = replace(self.columns, rate_rps=self.columns.rate_rps * gains[:, None])
        rate = sum(wanted * part for (_, wanted), part in pairs)
        return replace(self, columns=columns, rate=rate, reserves=())


@dataclass(frozen=True)
class Prices:
    """LP duals. gpu: objective per GPU, by class. frame: objective per frame/s, by model. bound: see
    the module.
    """

    bound: float
    gpu: tuple[float, ...]
    frame: tuple[float, ...]
    capacity: tuple[float, ...]
    """What one more GPU of a class changes in the objective: equal to `gpu` for max-rate, the capacity
    price else.
    """
    mix: tuple[tuple[float, ...], ...] = ()
    """Per model, the weights of its rows (Wanted.mixed) in this bound."""
    entry: Mapping[str, float] = field(default_factory=dict)
    """What one more unit of an entry row's capacity is worth, by the row's name; for max-rate."""


def relax(
    gpu_counts: Sequence[int],
    wanted: Sequence[WantedModel],
    objective: Objective,
    gpu_cost: Sequence[float],
    entry: Sequence[EntryRow] = (),
) -> Prices:
    """Solve the relaxation by column generation. For MIN_COST raises RatesTooHigh."""
    rates = [one.rate for one in wanted]
    factors = {row.name: (row.used(rates), row.capacity) for row in entry}
    limits = _Limits([float(count) for count in gpu_counts], factors)
    busy = [one.columns.gpus_per_rps(len(gpu_counts)) for one in wanted]
    rows = [one.rows() for one in wanted]
    chosen = [_first_columns(table) for table in busy]
    if objective is Objective.MIN_COST:
        most = _generate(busy, rows, chosen, limits, None)
        if most.bound < 1 - 1e-9:
            parts = [price * rate for price, rate in zip(most.frame, rates, strict=True)]
            raise RatesTooHigh(most.bound, tuple(part / sum(parts) for part in parts))
        return _generate(busy, rows, chosen, limits, gpu_cost)
    return _generate(busy, rows, chosen, limits, None)


@dataclass(frozen=True)
class _Limits:
    """GPUs per class; per entry row what z = 1 takes of it, and its capacity."""

    counts: Sequence[float]
    entry: Mapping[str, tuple[float, float]]


class RatesTooHigh(ValueError):
    """The cluster cannot serve the wanted rates; `share` is an upper bound on the share of them that it
    can. `parts`: of the GPUs' worth that all rates would take, each model's part.
    """

    def __init__(self, share: float, parts: tuple[float, ...] = ()) -> None:
        super().__init__(f"at most {share:.3f} of the wanted rates can be served")
        self.share = share
        self.parts = parts


def _first_columns(busy: Floats) -> list[int]:
    """The cheapest pipeline at a few plain prices: every class alone dear, and all equal."""
    classes = busy.shape[1]
    directions = [np.ones(classes)] + [np.where(np.arange(classes) == g, 1.0, 1e-3) for g in range(classes)]
    directions += [np.where(np.arange(classes) == g, 1e-3, 1.0) for g in range(classes)]
    return sorted({int(np.argmin(_priced(busy, tuple(direction)))) for direction in directions})


def _priced(busy: Floats, prices: Sequence[float]) -> Floats:
    """Price of one frame/s through each pipeline. Class by class: a matrix product's last bits vary by
    machine.
    """
    total = np.zeros(len(busy))
    for index, price in enumerate(prices):
        total = total + busy[:, index] * price
    return total


def _generate(
    busy: Sequence[Floats],
    rows: Sequence[Rows],
    chosen: list[list[int]],
    limits: _Limits,
    gpu_cost: Sequence[float] | None,
) -> Prices:
    """Rounds of: solve over the chosen columns, price all, add the cheapest. Keeps the best bound seen."""
    best: Prices | None = None
    for _ in range(ROUNDS):
        solution = _restricted(busy, rows, chosen, limits, gpu_cost)
        if not solution.found:  # the rates are at the very edge of what could be served
            raise RatesTooHigh(1.0)
        duals = [max(0.0, abs(solution.prices[f"capacity_{g}"])) for g in range(len(limits.counts))]
        entry = {} if gpu_cost is not None else {e: abs(solution.prices[f"entry_{e}"]) for e in limits.entry}
        mix = [_row_shares(solution, m, one, scaled=gpu_cost is not None) for m, one in enumerate(rows)]
        mixed = [_mixed(*one) for one in zip(busy, rows, mix, strict=True)]
        prices = replace(_bound(mixed, limits, duals, entry, gpu_cost), mix=tuple(mix))
        if best is None or (prices.bound < best.bound if gpu_cost is None else prices.bound > best.bound):
            best = prices
        if abs(best.bound - solution.objective) <= TOLERANCE * abs(solution.objective):
            break
        if not _add_columns(mixed, chosen, prices):
            break
    assert best is not None
    return best


def _row_shares(solution: Solution, number: int, rows: Rows, scaled: bool) -> tuple[float, ...]:
    """The duals of a model's rows as shares of their sum."""
    duals = [
        abs(solution.prices[f"demand_{number}_{j}"]) / (rate if scaled else 1.0)
        for j, (_, rate) in enumerate(rows)
    ]
    total = sum(duals)
    return tuple(dual / total if total else 1 / len(duals) for dual in duals)


def _mixed(table: Floats, rows: Rows, mix: Sequence[float]) -> tuple[Floats, float]:
    """GPUs per usable frame/s of every pipeline, and the rate wanted, by this mix of the rows."""
    gains = np.zeros(len(table))
    for (row, _), part in zip(rows, mix, strict=True):
        gains = gains + row * part
    return table / gains[:, None], sum(wanted * part for (_, wanted), part in zip(rows, mix, strict=True))


def _restricted(
    busy: Sequence[Floats],
    rows: Sequence[Rows],
    chosen: Sequence[Sequence[int]],
    limits: _Limits,
    gpu_cost: Sequence[float] | None,
) -> Solution:
    """The relaxation over the chosen columns only."""
    model = LinearProgram("relaxation", maximise=gpu_cost is None)
    z = model.variable("z") if gpu_cost is None else None
    used: list[list[Term]] = [[] for _ in limits.counts]
    cost: list[Term] = []
    for number, (table, demands, columns) in enumerate(zip(busy, rows, chosen, strict=True)):
        served = []
        for row in columns:
            x = model.variable("x")
            served.append((x, row))
            per_class = [(g, float(share)) for g, share in enumerate(table[row]) if share]
            for g, share in per_class:
                used[g].append((x, share))
            if gpu_cost is not None:
                cost.append((x, sum(gpu_cost[g] * share for g, share in per_class)))
        for j, (gains, rate) in enumerate(demands):
            if z is not None:
                terms = [(x, float(gains[row])) for x, row in served]
                model.constrain(f"demand_{number}_{j}", [*terms, (z, -rate)], ">=", 0.0)
            else:
                # Scaled to 1, so that the solver's tolerance is a share of the rate.
                terms = [(x, float(gains[row]) / rate) for x, row in served]
                model.constrain(f"demand_{number}_{j}", terms, ">=", 1.0)
    for g, count in enumerate(limits.counts):
        model.constrain(f"capacity_{g}", used[g], "<=", count)
    for name, (factor, capacity) in limits.entry.items():
        if z is not None:
            model.constrain(f"entry_{name}", [(z, factor)], "<=", capacity)
    model.optimise([(z, 1.0)] if z is not None else cost)
    return model.solve(Limits())


def _bound(
    mixed: Sequence[tuple[Floats, float]],
    limits: _Limits,
    duals: Sequence[float],
    entry: Mapping[str, float],
    gpu_cost: Sequence[float] | None,
) -> Prices:
    """The bound that these capacity prices prove, over all columns; see the module."""
    counts = limits.counts
    if gpu_cost is None:
        cheapest = [float(_priced(table, duals).min()) for table, _ in mixed]
        scale = sum(rate * price for (_, rate), price in zip(mixed, cheapest, strict=True))
        scale += sum(entry[name] * factor for name, (factor, _) in limits.entry.items())
        if scale <= 0:  # prices of an early round at which everything is free: they prove nothing
            return Prices(math.inf, tuple(duals), tuple(cheapest), tuple(duals))
        gpu = tuple(dual / scale for dual in duals)
        worth = sum(price * count for price, count in zip(gpu, counts, strict=True))
        prices = {name: dual / scale for name, dual in entry.items()}
        worth += sum(prices[name] * capacity for name, (_, capacity) in limits.entry.items())
        return Prices(
            bound=worth,
            gpu=gpu,
            frame=tuple(price / scale for price in cheapest),
            capacity=gpu,
            entry=prices,
        )
    gpu = tuple(cost + dual for cost, dual in zip(gpu_cost, duals, strict=True))
    cheapest = [float(_priced(table, gpu).min()) for table, _ in mixed]
    worth = sum(rate * price for (_, rate), price in zip(mixed, cheapest, strict=True))
    rent = sum(dual * count for dual, count in zip(duals, counts, strict=True))
    return Prices(bound=worth - rent, gpu=gpu, frame=tuple(cheapest), capacity=tuple(duals))


def _add_columns(mixed: Sequence[tuple[Floats, float]], chosen: list[list[int]], prices: Prices) -> bool:
    """Add each model's cheapest pipelines at these prices; was any new?"""
    added = False
    for (table, _), rows in zip(mixed, chosen, strict=True):
        priced = _priced(table, prices.gpu)
        count = min(COLUMNS_PER_ROUND, len(priced))
        for row in np.argpartition(priced, count - 1)[:count]:
            if int(row) not in rows:
                rows.append(int(row))
                added = True
    return added


def losses(columns: Columns, prices: Prices, frame_price: float, cap_rps: float) -> Floats:
    """Per pipeline the least loss_p(x) of any use of it, 0 < x <= cap_rps: how far below the bound its
    plans are.
    """
    least = np.full(len(columns), np.inf)
    for low in range(0, len(columns), step := max(1, LOSS_CELLS // (MAX_BREAKPOINTS * columns.depth))):
        rows = np.arange(low, min(low + step, len(columns)))
        least[rows] = np.maximum(0.0, _least_loss(columns.select(rows), prices, frame_price, cap_rps))
    return least


def _least_loss(columns: Columns, prices: Prices, frame_price: float, cap_rps: float) -> Floats:
    """A loss only falls up to the next whole worker of a stage: those rates, and the cap, are all to be
    looked at.
    """
    price = np.append(np.array(prices.gpu), 0.0)[columns.gpu] / columns.slices
    busy_price = np.zeros(len(columns))
    for stage in range(columns.depth):
        busy_price += price[:, stage] / columns.rate_rps[:, stage]
    least: Floats = _loss_at(columns, price, frame_price, np.full((len(columns), 1), cap_rps)).min(axis=1)
    for stage in range(columns.depth):
        rate = columns.rate_rps[:, stage]
        finite = np.isfinite(rate)
        most = int(min(MAX_BREAKPOINTS, np.max(cap_rps / rate[finite], initial=0.0)))
        if most < 1:
            continue
        # Padded stages have no rate: their x is the cap, which has been looked at.
        x = np.minimum(np.arange(1, most + 1)[None, :] * np.where(finite, rate, cap_rps)[:, None], cap_rps)
        least = np.minimum(least, _loss_at(columns, price, frame_price, x).min(axis=1))
        # Past the last rate looked at: at least the loss of that rate at full use of every worker.
        beyond = (busy_price - frame_price) * x[:, -1]
        least = np.where(x[:, -1] < cap_rps - rate, np.minimum(least, beyond), least)
    return least


def _loss_at(columns: Columns, price: Floats, frame_price: float, x: Floats) -> Floats:
    loss = -frame_price * x
    for stage in range(columns.depth):
        workers = np.ceil(x / columns.rate_rps[:, stage, None] - 1e-9)
        loss = loss + workers * price[:, stage, None]
    return loss
