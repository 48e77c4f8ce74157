"""What a plan serves of the same arrivals when nothing is lost, simulated: near its capacity a second may be
short by chance, and that is no part of healing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.serving import ServedModel
from python_backend.scheduler.actions import Action, Drop
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event
from python_backend.simulator.driver import SimulatedDriver


class Undisturbed:
    """Each model's arrivals, in microseconds, with a scheduler that has all workers of its table from the
    start. Latencies are the table's, so what is not dropped is in time.
    """

    def __init__(self, tables: Mapping[str, ServedModel], arrivals: Mapping[str, Sequence[int]]) -> None:
        self._frames = sorted(
            (at_us / 1e6, number not in late)
            for model, times_us in arrivals.items()
            for late in (dropped(tables.get(model), times_us),)
            for number, at_us in enumerate(times_us)
        )

    def attained(self, from_s: float, to_s: float) -> float:
        """The share in time of the frames that come between; 1 where there are none."""
        found = [in_time for at_s, in_time in self._frames if from_s <= at_s < to_s]
        return sum(found) / len(found) if found else 1.0


def dropped(served: ServedModel | None, times_us: Sequence[int]) -> set[int]:
    """Numbers of the frames that are dropped: all where the model has no workers."""
    if served is None:
        return set(range(len(times_us)))
    found: set[int] = set()

    def observe(_event: Event, _now_us: int, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Drop):
                found.add(action.request_id)

    SimulatedDriver(served, SchedulerCore(served, "adaptive"), observe=observe).run(iter(times_us))
    return found
