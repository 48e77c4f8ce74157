"""What dispatchers served by while a rollout went on, and what these tables serve of the same arrivals in
simulation: whoever made the rollout, and however often it was killed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import TracebackType

from benchmarks.helpers.heal.fleet import HealFleet
from benchmarks.helpers.heal.simulated import simulate
from planner.revision import read_acks, read_hand_over
from planner.rollout.fleet import Tables
from planner.rollout.tables import restricted
from planner.serving import ServedModel
from ppipe.rollout.live import served_tables

_LOOK_S = 0.02
Served = Mapping[str, ServedModel | None]
"""By model; None: nothing is left of its table."""


class TablesServed:
    """Looks at the dispatchers' answers while it is entered. A dispatcher's frames are served by the table
    that it said last; a worker of the table that its server does not have serves nothing.
    """

    def __init__(self, fleet: HealFleet) -> None:
        self._fleet = fleet
        self._deployed = fleet.deployed
        self._models = {entry.model: entry.dispatcher for entry in fleet.manifest.models}
        self._servers = [self._deployed.models_of(server) for server in fleet.manifest.servers]
        self._tables: dict[int, Tables] = {}
        self._seen: list[tuple[float, Served]] = []
        """From when, by time.monotonic; one for each change."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> TablesServed:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def simulated(
        self, from_s: float, to_s: float, arrivals: Mapping[str, Sequence[int]], start_s: float
    ) -> float:
        """The share in time of the frames that come between two times of time.monotonic. arrivals: by model,
        in microseconds since start_s.
        """
        seen = [(at_s - start_s, served) for at_s, served in self._seen]
        return served_of(seen, from_s - start_s, to_s - start_s, arrivals)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        now_s = time.monotonic()
        handed = read_hand_over(self._deployed.tables)
        last = served_tables(self._deployed.tables, self._deployed.answers, self._fleet.manifest)
        if handed is not None:
            self._tables.setdefault(handed.number, last)
        there = {name for server in self._servers for name in server.models()}
        acks = read_acks(self._deployed.answers, self._models.values())
        found: dict[str, ServedModel | None] = {}
        for model, dispatcher in self._models.items():
            number = acks[dispatcher].number if dispatcher in acks else 0
            found[model] = restricted(self._served(model, number, last), there)
        if not self._seen or self._seen[-1][1] != found:
            self._seen.append((now_s, found))

    def _served(self, model: str, number: int, last: Tables) -> ServedModel:
        """Before anything was handed over, what was generated."""
        generated = self._fleet.manifest.model(model).served
        return generated if number == 0 else self._tables.get(number, last)[model]


def served_of(
    seen: Sequence[tuple[float, Served]], from_s: float, to_s: float, arrivals: Mapping[str, Sequence[int]]
) -> float:
    """The share of the frames between `from_s` and `to_s` that tables serve in time, each simulated from when
    it was seen until the next was; 1 where no frame comes.
    """
    served = total = 0
    for (at_s, tables), (next_s, _) in pairwise([*seen, (float("inf"), {})]):
        begin_us, end_us = 1e6 * max(from_s, at_s), 1e6 * min(to_s, next_s)
        for model, times_us in arrivals.items():
            mine = [at_us for at_us in times_us if begin_us <= at_us < end_us]
            served += len(mine) - len(simulate(tables.get(model), mine).dropped)
            total += len(mine)
    return served / total if total else 1.0
