"""What models could do with so much time: their pipelines, enumerated once, and the relaxation over them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from planner.cascades.demands import divided
from planner.entry import entry_rows
from planner.pipelines import Columns, enumerate_columns
from planner.prices import RatesTooHigh, WantedModel, relax
from planner.problem import Demand, Problem, wanted_of
from planner.rates import margin_of
from planner.search import gpu_counts_of

_ROUNDING_US = 2
"""Between a budget and what it is of."""


class Outlook:
    """See the module. Of a problem with cascades."""

    def __init__(self, problem: Problem) -> None:
        longest = {member.model: cascade.slo_us for cascade in problem.cascades for member in cascade.members}
        self._inner = set(longest)
        self._problem = divided(problem, longest)
        self._columns: dict[str, Columns] = {}
        self._needs: dict[str, npt.NDArray[np.int64]] = {}
        for demand in self._problem.demands:
            profile = problem.profile.model(demand.model)
            columns = enumerate_columns(profile, problem.cluster, demand, problem.options)
            self._columns[demand.model] = columns
            self._needs[demand.model] = self._needed(demand, columns)

    def _needed(self, demand: Demand, columns: Columns) -> npt.NDArray[np.int64]:
        """Per pipeline the least SLO, in microseconds, that it fits."""
        share = 1 - margin_of(demand, self._problem.options)
        own_us = np.ceil((columns.latency_us + columns.waiting_us) / share)
        return np.asarray(own_us, dtype=np.int64) + demand.flow.passed_us + 1

    def steps(self, model: str) -> npt.NDArray[np.int64]:
        """The parts of the SLO at which one more pipeline of the model comes into reach, rising."""
        return np.unique(self._needs[model])

    def bound(self, parts: Mapping[str, int]) -> float | None:
        """Of the objective with these parts of the SLO; None where nothing can be served."""
        problem, wanted = self._problem, []
        for demand in problem.demands:
            columns = self._columns[demand.model]
            if demand.model in self._inner:
                columns = columns.select(self._needs[demand.model] <= parts[demand.model] + _ROUNDING_US)
            if not len(columns):
                return None
            wanted.append(WantedModel(demand.model, columns, wanted_of(demand, problem.options)))
        cost = [problem.options.gpu_cost.get(one.name, 1.0) for one in problem.cluster.gpu_classes]
        counts = gpu_counts_of(problem.cluster)
        try:
            return relax(counts, wanted, problem.options.objective, cost, entry_rows(problem)).bound
        except RatesTooHigh:
            return None
