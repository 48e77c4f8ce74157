"""Load on all models of a deployment at once, open loop, and what came of it second by second.

It is sent by a process of its own: what is measured beside it has its own interpreter lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType

from benchmarks.helpers.loads.tagged import TaggedFrame, TaggedLoad
from planner import serial
from planner.manifest import DeploymentManifest
from python_backend.simulator.arrivals import Poisson


@dataclass(frozen=True)
class HealScore:
    """Of all models together."""

    frames: int
    unanswered: int
    wrong: int
    double: int


Stretches = Sequence[tuple[float, Mapping[str, float]]]
"""(seconds, frames/s by model), one after the other."""


class FleetLoad:
    """A client for each model, all in one process. A context: leaving it ends the load, and then the frames
    are known.
    """

    def __init__(self, manifest: DeploymentManifest, stretches: Stretches, seed: int) -> None:
        self._slo_s = {entry.model: entry.served.slo_us / 1e6 for entry in manifest.models}
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_send, args=(serial.dumps(manifest), stretches, seed, theirs), name="load", daemon=True
        )
        self._frames: Mapping[str, list[TaggedFrame]] = {}
        self.start_s = 0.0
        """Of time.monotonic: times of frames are counted from then on."""

    def __enter__(self) -> FleetLoad:
        self._process.start()
        self.start_s = self._pipe.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.send("stop")
        self._frames = self._pipe.recv()
        self._process.join()

    @property
    def now_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start_s

    def score(self) -> HealScore:
        """Once it has ended."""
        frames = [frame for frames in self._frames.values() for frame in frames]
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

    def _due(self, from_s: float, to_s: float) -> list[tuple[str, TaggedFrame]]:
        return [
            (name, frame)
            for name, frames in self._frames.items()
            for frame in frames
            if from_s <= frame.due_s < to_s
        ]


def _send(manifest_text: str, stretches: Stretches, seed: int, pipe: Connection) -> None:
    """The process: says when it begins, sends until it is told to stop, and gives back all frames."""
    manifest = serial.loads(DeploymentManifest, manifest_text)
    loads = {
        entry.model: TaggedLoad(
            [(server.grpc_address, entry.dispatcher) for server in manifest.entries],
            entry.input,
            entry.outputs[0].name,
            entry.served.slo_us,
        )
        for entry in manifest.models
    }
    arrivals = {model: arrivals_us(model, stretches, seed) for model in loads}
    start_s = time.monotonic() + 0.1
    threads = [
        threading.Thread(target=load.run, args=(arrivals[model], start_s)) for model, load in loads.items()
    ]
    for thread in threads:
        thread.start()
    pipe.send(start_s)
    pipe.recv()
    for load in loads.values():
        load.stop()
    for thread in threads:
        thread.join()
    pipe.send({model: load.frames for model, load in loads.items()})
    for load in loads.values():
        load.close()


def arrivals_us(model: str, stretches: Stretches, seed: int) -> list[int]:
    """Of this model: Poisson, stretch after stretch, in microseconds since the start."""
    found: list[int] = []
    began_us = 0
    for number, (seconds, rates) in enumerate(stretches):
        rate = rates.get(model, 0.0)
        if rate > 0:
            times = Poisson(rate).times_us(seconds, seed + number, model)
            found += [began_us + time_us for time_us in times]
        began_us += round(seconds * 1e6)
    return found
