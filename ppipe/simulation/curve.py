"""Attainment against load: simulated points of one model, one line per policy, for a picture or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.serving import ServedModel
from python_backend.simulator.bound import Bound
from python_backend.simulator.capacity import Workload, try_load


@dataclass(frozen=True)
class AttainmentCurve:
    """lines[policy][k]: attainment at load_factors[k] of planned_rps; `bound`: what no schedule can beat, ()
    where latencies vary.
    """

    model: str
    planned_rps: float
    load_factors: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]
    bound: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, line in {**self.lines, "bound": self.bound or self.load_factors}.items():
            if len(line) != len(self.load_factors):
                raise ValueError(f"curve of {self.model}: {name}: {len(line)} points for "
                                 f"{len(self.load_factors)} load_factors")  # fmt: skip


def attainment_curve(
    served: ServedModel, policies: Sequence[str], load_factors: Sequence[float], workload: Workload
) -> AttainmentCurve:
    """Simulate each policy at each load."""
    lines = {}
    for policy in policies:
        loads = [
            try_load(served, policy, served.planned_rps * factor, workload, target=0.0)
            for factor in load_factors
        ]
        lines[policy] = tuple(load.attainment or 0.0 for load in loads)
    most: tuple[float, ...] = ()
    if workload.exact:
        bound = Bound(served)
        most = tuple(bound.attainment(served.planned_rps * factor, workload) for factor in load_factors)
    return AttainmentCurve(served.model, served.planned_rps, tuple(load_factors), lines, most)
