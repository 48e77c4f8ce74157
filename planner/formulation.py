"""The plan's MILP over a set of candidate pipelines, constraint by constraint.

Sets       m models; p pipelines of m; i stages of p; g GPU classes; k stage positions
Constants  N_g GPUs; w_m weight or rate; r_pi frames/s of one worker; s_pi slices per GPU; U upper bound on z
           a_em what a frame/s of m takes of row e of the entry, C_e all of that (planner.entry)
Variables  x_p >= 0   frames/s through p           n_pi  whole workers of stage i
           v_lp >= 0  frames/s through p after loss l, which leaves the share f_lg of class g's workers
           G_mkg      whole GPUs of class g that position k of m uses (apart by slice count beyond 4 slices)
           A_mg       GPUs of class g that m uses     z  the common factor (max-rate)
           y_p        1 if p is used, only where an option needs it
Max-rate   max z                     with  sum_p x_p = w_m z                       (demand)
           with a share s of the mean: max (1 - s) z + s mean u_m, with u_m for z in (demand), u_m >= z
Reserves   sum_p g_jp x_p >= w_m z       instead, for every row j of planner.queueing  (demand)
Min-cost   min sum cost_g A_mg       with  sum_p x_p = w_m                         (demand)
           x_p <= r_pi n_pi                                                        (pool)
           sum_pi n_pi / s_pi <= G_mkg   over stages of m at position k on g       (whole GPUs)
           A_mg = sum_k G_mkg                                                      (allotment)
           sum_m A_mg <= N_g                                                       (capacity)
           sum_m a_em w_m z <= C_e, with u_m in place of z where there is one      (entry)
           n_pi <= s_pi N_g y_p,  sum of y_p over one tuple of classes <= limit    (pipelines per class tuple)
           v_lp <= r_pi f_lg n_pi  over stages i of p, for every loss l (planner.losses)   (what remains)
           or v_lp <= r_pi (n_pi - s_pi h_lpi), s_pi h_lpi >= (1 - f_lg) n_pi, h whole GPUs
           sum_p g_jp v_lp >= w_m z   for every loss l and row j                           (promise)
           n_pi >= parts_pi y_p   where a stage splits the batch into parts        (parallel parts)

Servers' links and cores are in r_pi: no worker is planned with more than 1 / (slices * GPUs per server) of
its server's link in, link out and cores, so that every way of placing the workers keeps to them.

A_mg follows from G_mkg, but as variables of their own they let the solver branch on how many GPUs a model
gets, which decides almost everything: it made the hardest of the paper's problems 7 times faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.entry import EntryRow
from planner.losses import KeptShares
from planner.packing import slice_group
from planner.pipelines import Columns
from planner.prices import WantedModel
from planner.problem import Objective
from planner.solver import Limits, LinearProgram, Solution, Status, Term, Variable

MOST_RESERVE = 1.5
"""Throughput of any sensible plan over the throughput that its reserves were made for."""
NOTHING = 1e-9
IN_USE = 1e-6
"""Workers of a relaxed plan that count."""
Position = tuple[int, int, int]
"""Stage position, class index, slice group."""


@dataclass(frozen=True)
class Use:
    """One pipeline in use: its row in the model's columns, frames/s, and workers per stage."""

    row: int
    rate_rps: float
    workers: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What the MILP found: status, bound over these candidates, nodes, and the pipelines in use per model."""

    status: Status
    objective: float
    bound: float
    nodes: int
    uses: tuple[tuple[Use, ...], ...] = ()


@dataclass
class _ModelVariables:
    """Variables of one model, by position in its columns."""

    x: list[Variable] = field(default_factory=list)
    n: list[list[Variable]] = field(default_factory=list)
    y: list[Variable | None] = field(default_factory=list)
    gpus: dict[Position, Variable] = field(default_factory=dict)
    allotment: dict[int, Variable] = field(default_factory=dict)


@dataclass(frozen=True)
class MilpProblem:
    """What to solve. `bound`: a known bound on the objective. `gpu_cost` matters for MIN_COST only."""

    wanted: Sequence[WantedModel]
    gpu_counts: Sequence[int]
    objective: Objective
    bound: float
    gpu_cost: Sequence[float] = ()
    pipelines_per_class_pair: int | None = None
    mean_share: float = 0.0
    """Max-rate: how much the mean of served / wanted counts beside the least."""
    least: float = 0.0
    """Max-rate: the least of served / wanted that will do."""
    entry: Sequence[EntryRow] = ()
    """Rows over all of `wanted`. For MIN_COST the rates were found to fit them."""
    losses: Sequence[KeptShares] = ()
    """After each of which z must still be served."""


class PlanMilp:
    """The MILP of one problem, or its linear relaxation. State it once, then solve."""

    def __init__(self, problem: MilpProblem, relaxed: bool = False) -> None:
        self._problem = problem
        self._relaxed = relaxed
        self._model = LinearProgram("plan", maximise=problem.objective is Objective.MAX_RATE)
        self._names: list[tuple[str, tuple[int, ...]]] = []
        self._count = 0
        self._z = (
            self._variable(("z", ()), upper=problem.bound, lower=problem.least) if self._max_rate else None
        )
        counts = range(len(problem.wanted)) if self._max_rate and problem.mean_share else range(0)
        self._served = [self._variable(("u", (m,)), upper=None) for m in counts]
        self._variables = [self._declare(m, one) for m, one in enumerate(problem.wanted)]
        for m, (one, variables) in enumerate(zip(problem.wanted, self._variables, strict=True)):
            self._demand(m, one, variables)
            self._pools(m, one.columns, variables)
            for number, loss in enumerate(problem.losses):
                self._promise(m, number, loss, one, variables)
            self._whole_gpus(m, one.columns, variables)
            self._allotment(m, variables)
            self._class_tuples(m, one.columns, variables)
            self._parallel_parts(m, one.columns, variables)
        self._capacity()
        self._entry()
        self._objective()

    def solve(self, limits: Limits, start: Sequence[Sequence[Use]] | None = None) -> Outcome:
        """Solve from `start`, a known plan of the same problem, where there is one."""
        solution = self._model.solve(limits, self._as_start(start) if start is not None else None)
        if not solution.found:
            return Outcome(solution.status, solution.objective, solution.bound, solution.nodes)
        return Outcome(
            status=solution.status,
            objective=solution.objective,
            bound=solution.bound,
            nodes=solution.nodes,
            uses=tuple(self._uses(m, solution) for m in range(len(self._variables))),
        )

    def relaxation(self) -> tuple[float | None, list[list[int]]]:
        """Of a relaxed model: its objective, None where it has no solution, and per model the rows in use."""
        solution = self._model.solve(Limits())
        if not solution.found or (self._max_rate and solution.objective <= NOTHING):
            return None, []
        used: list[list[int]] = [[] for _ in self._variables]
        for (kind, where), value in zip(self._names, solution.values, strict=True):
            if kind == "n" and value > IN_USE:
                used[where[0]].append(where[1])
        return solution.objective, [sorted(set(rows)) for rows in used]

    @property
    def _max_rate(self) -> bool:
        return self._problem.objective is Objective.MAX_RATE

    def _variable(
        self,
        name: tuple[str, tuple[int, ...]],
        upper: float | None,
        integer: bool = False,
        lower: float = 0.0,
    ) -> Variable:
        self._names.append(name)
        return self._model.variable(name[0], lower, upper, integer and not self._relaxed)

    def _declare(self, m: int, one: WantedModel) -> _ModelVariables:
        columns, counts = one.columns, self._problem.gpu_counts
        cap = most_rps(one, self._problem.bound if self._max_rate else 1.0) / self._least_kept()
        variables = _ModelVariables()
        for p in range(len(columns)):
            variables.x.append(self._variable(("x", (m, p)), upper=cap))
            variables.n.append(
                [
                    self._variable(
                        ("n", (m, p, i)), upper=_most_workers(columns, p, i, counts, cap), integer=True
                    )
                    for i in range(stage_count(columns, p))
                ]
            )
            wants_y = self._problem.pipelines_per_class_pair is not None or max(parts(columns, p)) > 1
            variables.y.append(self._variable(("y", (m, p)), upper=1, integer=True) if wants_y else None)
        for position in sorted(_positions(columns)):
            count = counts[position[1]]
            variables.gpus[position] = self._variable(("G", (m, *position)), upper=count, integer=True)
        for g in sorted({position[1] for position in variables.gpus}):
            variables.allotment[g] = self._variable(("A", (m, g)), upper=counts[g], integer=True)
        return variables

    def _least_kept(self) -> float:
        """Of any class of which a loss leaves anything."""
        shares = [share for loss in self._problem.losses for share in loss.kept.values() if share > 0]
        return min(shares, default=1.0)

    def _promise(
        self, m: int, number: int, loss: KeptShares, one: WantedModel, variables: _ModelVariables
    ) -> None:
        columns, left = one.columns, []
        for p, (x, pool) in enumerate(zip(variables.x, variables.n, strict=True)):
            v = self._variable(("v", (m, number, p)), upper=x.upBound)
            left.append(v)
            terms: list[Term]
            for i, n in enumerate(pool):
                rate, share = float(columns.rate_rps[p, i]), loss.of(int(columns.gpu[p, i]))
                terms = [(n, rate * share), (v, -1.0)]
                if loss.whole and 0 < share < 1:
                    slices = float(columns.slices[p, i])
                    h = self._variable(("h", (m, number, p, i)), upper=n.upBound, integer=True)
                    lost: list[Term] = [(h, slices), (n, share - 1)]
                    self._model.constrain(f"lost_{m}_{number}_{p}_{i}", lost, ">=", 0.0)
                    terms = [(n, rate), (h, -rate * slices), (v, -1.0)]
                self._model.constrain(f"left_{m}_{number}_{p}_{i}", terms, ">=", 0.0)
        for j, (gains, rate) in enumerate(one.rows()):
            terms = [(v, float(gain)) for v, gain in zip(left, gains, strict=True)]
            name = f"promise_{m}_{number}_{j}"
            if self._z is not None:
                self._model.constrain(name, [*terms, (self._z, -rate)], ">=", 0.0)
            else:
                self._model.constrain(name, [(v, gain / rate) for v, gain in terms], ">=", 1.0)

    def _demand(self, m: int, one: WantedModel, variables: _ModelVariables) -> None:
        sense = ">=" if one.reserves or self._problem.losses else "=="
        for j, (gains, rate) in enumerate(one.rows()):
            if self._z is not None:
                served: list[Term] = [(x, float(gain)) for x, gain in zip(variables.x, gains, strict=True)]
                z = self._served[m] if self._served else self._z
                self._model.constrain(f"demand_{m}_{j}", [*served, (z, -rate)], sense, 0.0)
            else:
                # Scaled to 1, so that the solver's tolerance is a share of the rate.
                served = [(x, float(gain) / rate) for x, gain in zip(variables.x, gains, strict=True)]
                self._model.constrain(f"demand_{m}_{j}", served, sense, 1.0)

    def _pools(self, m: int, columns: Columns, variables: _ModelVariables) -> None:
        for p, (x, pool) in enumerate(zip(variables.x, variables.n, strict=True)):
            for i, n in enumerate(pool):
                rate = float(columns.rate_rps[p, i])
                self._model.constrain(f"pool_{m}_{p}_{i}", [(n, rate), (x, -1.0)], ">=", 0.0)

    def _whole_gpus(self, m: int, columns: Columns, variables: _ModelVariables) -> None:
        terms: dict[Position, list[Term]] = {position: [] for position in variables.gpus}
        for p, pool in enumerate(variables.n):
            for i, n in enumerate(pool):
                terms[_position(columns, p, i)].append((n, 1.0 / int(columns.slices[p, i])))
        for position, gpus in variables.gpus.items():
            name = "whole_gpus_" + "_".join(map(str, (m, *position)))
            self._model.constrain(name, [*terms[position], (gpus, -1.0)], "<=", 0.0)

    def _allotment(self, m: int, variables: _ModelVariables) -> None:
        for g, allotment in variables.allotment.items():
            terms: list[Term] = [(gpus, 1.0) for position, gpus in variables.gpus.items() if position[1] == g]
            self._model.constrain(f"allotment_{m}_{g}", [*terms, (allotment, -1.0)], "==", 0.0)

    def _class_tuples(self, m: int, columns: Columns, variables: _ModelVariables) -> None:
        limit = self._problem.pipelines_per_class_pair
        if limit is None:
            return
        tuples: dict[tuple[int, ...], list[Term]] = {}
        for p, y in enumerate(variables.y):
            tuples.setdefault(tuple(map(int, columns.gpu[p])), []).append((y, 1.0))
            for i, n in enumerate(variables.n[p]):
                most = int(n.upBound)
                self._model.constrain(f"used_{m}_{p}_{i}", [(n, 1.0), (y, -float(most))], "<=", 0.0)
        for number, terms in enumerate(tuples.values()):
            self._model.constrain(f"class_tuple_{m}_{number}", terms, "<=", limit)

    def _parallel_parts(self, m: int, columns: Columns, variables: _ModelVariables) -> None:
        for p, y in enumerate(variables.y):
            if max(parts(columns, p)) == 1:
                continue
            x = variables.x[p]
            self._model.constrain(f"parts_used_{m}_{p}", [(x, 1.0), (y, -float(x.upBound))], "<=", 0.0)
            for i, least in enumerate(parts(columns, p)):
                terms: list[Term] = [(variables.n[p][i], 1.0), (y, -float(least))]
                self._model.constrain(f"parts_{m}_{p}_{i}", terms, ">=", 0.0)

    def _capacity(self) -> None:
        for g, count in enumerate(self._problem.gpu_counts):
            terms: list[Term] = [(v.allotment[g], 1.0) for v in self._variables if g in v.allotment]
            if terms:
                self._model.constrain(f"capacity_{g}", terms, "<=", count)

    def _entry(self) -> None:
        if self._z is None:
            return
        rates = [one.rate for one in self._problem.wanted]
        for row in self._problem.entry:
            terms: list[Term] = [(self._z, row.used(rates))]
            if self._served:
                pairs = zip(self._served, row.per_frame, rates, strict=True)
                terms = [(u, need * rate) for u, need, rate in pairs]
            self._model.constrain(f"entry_{row.name}", terms, "<=", row.capacity)

    def _objective(self) -> None:
        if self._z is not None:
            share = self._problem.mean_share
            for m, u in enumerate(self._served):
                self._model.constrain(f"least_{m}", [(u, 1.0), (self._z, -1.0)], ">=", 0.0)
            means = [(u, share / len(self._served)) for u in self._served]
            self._model.optimise([(self._z, 1.0 - share if means else 1.0), *means])
            return
        cost = self._problem.gpu_cost
        self._model.optimise([(a, float(cost[g])) for v in self._variables for g, a in v.allotment.items()])

    def _uses(self, m: int, solution: Solution) -> tuple[Use, ...]:
        values = {
            name: value
            for name, value in zip(self._names, solution.values, strict=True)
            if name[1][:1] == (m,)
        }
        columns = self._problem.wanted[m].columns
        uses = []
        for p in range(len(columns)):
            stages = range(stage_count(columns, p))
            workers = [round(values["n", (m, p, i)]) for i in stages]
            rate = min(
                count * float(columns.rate_rps[p, i]) for i, count in zip(stages, workers, strict=True)
            )
            if not self._problem.losses:  # else what is there to survive a loss serves more without one
                rate = min(rate, values["x", (m, p)])
            if rate > 1e-9 * self._problem.wanted[m].rate:
                uses.append(Use(row=p, rate_rps=rate, workers=tuple(workers)))
        return tuple(uses)

    def _as_start(self, start: Sequence[Sequence[Use]]) -> dict[int, float]:
        """Values of all variables for a plan given by its uses."""
        values: dict[tuple[str, tuple[int, ...]], float] = {}
        for m, uses in enumerate(start):
            columns = self._problem.wanted[m].columns
            used: dict[Position, float] = {}
            for use in uses:
                values["x", (m, use.row)] = use.rate_rps
                values["y", (m, use.row)] = 1.0
                for i, count in enumerate(use.workers):
                    values["n", (m, use.row, i)] = count
                    position = _position(columns, use.row, i)
                    used[position] = used.get(position, 0.0) + count / int(columns.slices[use.row, i])
            for position, share in used.items():
                gpus = math.ceil(share - 1e-9)
                values["G", (m, *position)] = gpus
                values["A", (m, position[1])] = values.get(("A", (m, position[1])), 0.0) + gpus
            if self._z is not None:
                one = self._problem.wanted[m]
                served = one.usable_rps({use.row: use.rate_rps for use in uses}) / one.rate
                values["u", (m,)] = served
                values["z", ()] = min(served, values.get(("z", ()), served))
        return {index: values.get(name, 0.0) for index, name in enumerate(self._names)}


def most_rps(one: WantedModel, factor: float) -> float:
    """No plan that serves this factor of the wanted rate needs more through any pipeline."""
    if not one.reserves:
        return one.rate * factor
    return MOST_RESERVE * max(one.rate * factor, 1e6 / one.reserves[-1].frame_us)


def stage_count(columns: Columns, row: int) -> int:
    """Stages of one pipeline."""
    return int((columns.gpu[row] >= 0).sum())


def parts(columns: Columns, row: int) -> list[int]:
    """Per stage, into how many parts the first stage's batch is split there."""
    return [int(columns.batch[row, 0] // columns.batch[row, i]) for i in range(stage_count(columns, row))]


def _position(columns: Columns, row: int, stage: int) -> Position:
    return stage, int(columns.gpu[row, stage]), slice_group(int(columns.slices[row, stage]))


def _positions(columns: Columns) -> set[Position]:
    return {_position(columns, p, i) for p in range(len(columns)) for i in range(stage_count(columns, p))}


def _most_workers(columns: Columns, row: int, stage: int, counts: Sequence[int], cap_rps: float) -> int:
    """Workers beyond the class's slices, or beyond what the cap needs, are of no use (parts of a batch
    apart).
    """
    there = counts[int(columns.gpu[row, stage])] * int(columns.slices[row, stage])
    needed = math.ceil(cap_rps / float(columns.rate_rps[row, stage]) - 1e-9)
    return min(there, max(needed, max(parts(columns, row))))
