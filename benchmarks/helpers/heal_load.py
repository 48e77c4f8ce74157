"""Load on all models of a deployment at once, open loop, and what came of it second by second."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from benchmarks.helpers.tagged_load import TaggedFrame, TaggedLoad
from planner.manifest import DeploymentManifest
from python_backend.simulator.arrivals import Poisson


@dataclass(frozen=True)
class HealScore:
    """Of all models together."""

    frames: int
    unanswered: int
    wrong: int
    double: int


class FleetLoad:
    """A client for each model. `rates_rps`: stretches of (seconds, frames/s by model), one after the other. A
    context: leaving it ends the load.
    """

    def __init__(
        self, manifest: DeploymentManifest, stretches: Sequence[tuple[float, Mapping[str, float]]], seed: int
    ) -> None:
        self._slo_s = {entry.model: entry.served.slo_us / 1e6 for entry in manifest.models}
        self._loads = {
            entry.model: TaggedLoad(
                [(manifest.entry.grpc_address, entry.dispatcher)],
                entry.input,
                entry.outputs[0].name,
                entry.served.slo_us,
            )
            for entry in manifest.models
        }
        self._threads = [
            threading.Thread(target=load.run, args=(_arrivals(model, stretches, seed),))
            for model, load in self._loads.items()
        ]

    def __enter__(self) -> FleetLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more; returns when what was sent has ended, or is long overdue."""
        for load in self._loads.values():
            load.stop()
        self.join()
        for load in self._loads.values():
            load.close()

    def join(self) -> None:
        """Until the last stretch is over."""
        for thread in self._threads:
            thread.join()

    def score(self) -> HealScore:
        """Once it has ended."""
        frames = [frame for load in self._loads.values() for frame in load.frames]
        return HealScore(
            frames=len(frames),
            unanswered=sum(frame.answers == 0 for frame in frames),
            wrong=sum(frame.wrong for frame in frames),
            double=sum(frame.answers > 1 for frame in frames),
        )

    def attained(self, from_s: float, to_s: float, model: str = "") -> float:
        """The share in time of the frames that were due between; 1 where there were none."""
        found = [
            frame.in_time(self._slo_s[name]) for name, frame in self._due(from_s, to_s) if model in ("", name)
        ]
        return sum(found) / len(found) if found else 1.0

    def in_time_rps(self, from_s: float, to_s: float) -> dict[str, float]:
        """Frames/s that were answered in time, by model."""
        counts = dict.fromkeys(self._loads, 0)
        for name, frame in self._due(from_s, to_s):
            counts[name] += frame.in_time(self._slo_s[name])
        return {name: count / (to_s - from_s) for name, count in counts.items()}

    def _due(self, from_s: float, to_s: float) -> list[tuple[str, TaggedFrame]]:
        return [
            (name, frame)
            for name, load in self._loads.items()
            for frame in load.frames
            if from_s <= frame.due_s < to_s
        ]


def _arrivals(model: str, stretches: Sequence[tuple[float, Mapping[str, float]]], seed: int) -> list[int]:
    """Poisson, stretch after stretch."""
    found: list[int] = []
    began_us = 0
    for number, (seconds, rates) in enumerate(stretches):
        rate = rates.get(model, 0.0)
        if rate > 0:
            times = Poisson(rate).times_us(seconds, seed + number, model)
            found += [began_us + time_us for time_us in times]
        began_us += round(seconds * 1e6)
    return found
