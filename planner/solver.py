"""The one module that imports PuLP and HiGHS: states a linear or integer problem, solves it, says how sure it
is.

Rules
- Deterministic: one thread, a fixed seed, limits in nodes of the search tree. Seconds only when asked for.
- A solution always carries the solver's own bound; status and how the search ended are kept apart.
- PuLP states the problem, highspy solves it in this process. PuLP has no way to pass a starting solution or
  node limits to it, so its HiGHS class is extended here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import highspy
import pulp

Variable = Any
"""A pulp.LpVariable; opaque to callers."""
Term = tuple[Variable, float]
SENSES = {"<=": pulp.LpConstraintLE, "==": pulp.LpConstraintEQ, ">=": pulp.LpConstraintGE}


class Status(Enum):
    """What the solver found."""

    OPTIMAL = "optimal"
    """Within the wanted gap."""
    FEASIBLE = "feasible"
    """A solution, but a limit ended the search first."""
    INFEASIBLE = "infeasible"
    """Proven that there is none."""
    UNKNOWN = "unknown"
    """A limit ended the search before it found any."""


@dataclass(frozen=True)
class Limits:
    """When to stop: at this relative gap, or after so many nodes (None: no limit), or seconds (not
    reproducible).
    """

    relative_gap: float = 1e-4
    nodes: int | None = None
    seconds: float | None = None
    restarts: bool = True


@dataclass(frozen=True)
class Solution:
    """`values` in the order in which variables were made; `prices` per constraint, for problems without
    integers.

    bound: no solution is better than this, in the problem's own sense.
    """

    status: Status
    objective: float
    bound: float
    nodes: int
    values: tuple[float, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)

    @property
    def found(self) -> bool:
        """Is there a solution in `values`?"""
        return self.status in (Status.OPTIMAL, Status.FEASIBLE)


class LinearProgram:
    """A problem being stated. Names of variables and constraints must be unique."""

    def __init__(self, name: str, maximise: bool) -> None:
        self._maximise = maximise
        self._problem = pulp.LpProblem(name, pulp.LpMaximize if maximise else pulp.LpMinimize)
        self._variables: list[Variable] = []
        self._constraints: list[str] = []
        self._objective: list[Term] = []

    def variable(
        self, name: str, lower: float = 0.0, upper: float | None = None, integer: bool = False
    ) -> Variable:
        """A new variable. Names are numbered so that PuLP's order by name is the order of making."""
        category = pulp.LpInteger if integer else pulp.LpContinuous
        numbered = f"v{len(self._variables):06d}_{name}"
        variable = self._problem.add_variable(numbered, lower, upper, category)
        self._variables.append(variable)
        return variable

    def constrain(self, name: str, terms: Iterable[Term], sense: str, right: float) -> None:
        """sum of coefficient * variable  (<=, ==, >=)  right."""
        expression = pulp.LpAffineExpression(list(terms))
        self._problem.addConstraint(pulp.LpConstraint(expression, SENSES[sense], name, right))
        self._constraints.append(name)

    def optimise(self, terms: Iterable[Term]) -> None:
        """Set the objective."""
        self._objective = list(terms)

    def solve(self, limits: Limits, start: Mapping[int, float] | None = None) -> Solution:
        """Solve. `start`: a known solution, by the position of each variable."""
        # PuLP forgets variables that no expression holds, but positions must stay: all are in the objective.
        zeros = [(variable, 0.0) for variable in self._variables]
        self._problem.setObjective(pulp.LpAffineExpression(zeros) + pulp.LpAffineExpression(self._objective))
        solver = _Highs(limits, [start.get(i, 0.0) for i in range(len(self._variables))] if start else None)
        self._problem.solve(solver)
        return self._read()

    def _read(self) -> Solution:
        highs = self._problem.solverModel
        info = highs.getInfo()
        status = _status(highs)
        sign = -1.0 if self._maximise else 1.0
        if status in (Status.INFEASIBLE, Status.UNKNOWN):
            return Solution(status, math.nan, sign * info.mip_dual_bound, max(0, info.mip_node_count))
        has_integers = any(variable.cat == pulp.LpInteger for variable in self._variables)
        objective = sign * info.objective_function_value
        raw = highs.getSolution()
        prices = {}
        if not has_integers:
            # HiGHS minimises; its row duals change sign with the sense.
            rows = zip(self._constraints, raw.row_dual, strict=True)
            prices = {name: sign * dual for name, dual in rows}
        return Solution(
            status=status,
            objective=objective,
            bound=sign * info.mip_dual_bound if has_integers else objective,
            nodes=max(0, info.mip_node_count),
            values=tuple(raw.col_value),
            prices=prices,
        )


def version() -> str:
    """Solver and version, for plans."""
    highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    return f"HiGHS {highs.version()} through PuLP {pulp.VERSION}"


def _status(highs: Any) -> Status:
    status = highs.getModelStatus()
    ended = highspy.HighsModelStatus
    if status in (ended.kOptimal, ended.kModelEmpty):
        return Status.OPTIMAL
    if status in (ended.kInfeasible, ended.kUnboundedOrInfeasible):
        return Status.INFEASIBLE
    has_solution = highs.getInfo().primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    return Status.FEASIBLE if has_solution else Status.UNKNOWN


class _Highs(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS with node limits, a fixed seed and a starting solution."""

    def __init__(self, limits: Limits, start: list[float] | None) -> None:
        options: dict[str, Any] = {"random_seed": 0, "parallel": "off", "mip_allow_restart": limits.restarts}
        if limits.nodes is not None:
            options["mip_max_nodes"] = limits.nodes
        super().__init__(
            msg=False, threads=1, gapRel=limits.relative_gap, timeLimit=limits.seconds, **options
        )
        self._start = start

    def callSolver(self, lp: Any) -> None:  # noqa: N802 (PuLP's name)
        """Run HiGHS from the starting solution."""
        if self._start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = self._start
            lp.solverModel.setSolution(solution)
        lp.solverModel.run()

    def findSolutionValues(self, lp: Any) -> tuple[int, int]:  # noqa: N802 (PuLP's name)
        """Nothing: Model reads HiGHS itself, because PuLP does not know that a node limit can end a
        search.
        """
        return pulp.LpStatusNotSolved, pulp.LpSolutionNoSolutionFound
