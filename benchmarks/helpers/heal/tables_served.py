"""What dispatchers served by while a rollout went on, and what these tables carry: whoever made it, and
however often it was killed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from itertools import pairwise
from types import TracebackType

from benchmarks.helpers.heal.fleet import HealFleet
from planner.revision import read_acks, read_hand_over
from planner.rollout.fleet import Tables
from planner.rollout.tables import capacity_rps
from planner.serving import ServedModel
from ppipe.rollout.live import served_tables

_LOOK_S = 0.02


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
        self._seen: list[tuple[float, Mapping[str, float]]] = []
        """When it was seen, by time.monotonic, and what each model's table carries then."""
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

    def expected(self, from_s: float, to_s: float, rates: Mapping[str, float]) -> float:
        """The share of these rates that was carried between two times of time.monotonic."""
        return carried(self._seen, from_s, to_s, rates)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        handed = read_hand_over(self._deployed.tables)
        first = served_tables(self._deployed.tables, self._deployed.answers, self._fleet.manifest)
        if handed is not None:
            self._tables.setdefault(handed.number, first)
        there = {name for server in self._servers for name in server.models()}
        acks = read_acks(self._deployed.answers, self._models.values())
        rates = {}
        for model, dispatcher in self._models.items():
            number = acks[dispatcher].number if dispatcher in acks else 0
            rates[model] = capacity_rps(self._served(model, number, first), there)
        self._seen.append((time.monotonic(), rates))

    def _served(self, model: str, number: int, last: Tables) -> ServedModel:
        """Before anything was handed over, what was generated."""
        generated = self._fleet.manifest.model(model).served
        return generated if number == 0 else self._tables.get(number, last)[model]


def carried(
    seen: list[tuple[float, Mapping[str, float]]], from_s: float, to_s: float, rates: Mapping[str, float]
) -> float:
    """The share of `rates` that tables carried, each from when it was seen until the next was."""
    served = wanted = 0.0
    for (at_s, carries), (next_s, _) in pairwise([*seen, (float("inf"), {})]):
        seconds = max(0.0, min(to_s, next_s) - max(from_s, at_s))
        served += seconds * sum(min(rate, carries.get(model, 0.0)) for model, rate in rates.items())
        wanted += seconds * sum(rates.values())
    return served / wanted if wanted else 1.0
