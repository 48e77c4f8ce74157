"""What is sent and when: a list of arrivals, made once, saved, and replayed on every system that is compared.

Rules: times are microseconds from the start of the run and ascend; the same seed gives the same workload. The
file is CSV with the columns timestamp (seconds), model and frame, and where frames name their streams stream
and place; the simulator reads the same file as a trace.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from python_backend.simulator.arrivals import parse_arrivals

_COLUMNS = ["timestamp", "model", "frame"]
_WITH_STREAMS = [*_COLUMNS, "stream", "place"]


class WorkloadError(ValueError):
    """A workload that cannot be sent; the message names the file's line and field, or the option."""


@dataclass(frozen=True)
class Arrival:
    """One frame: number `frame` of the pictures, for `model`, due at `due_us`; its stream, '' for none, and
    its place there.
    """

    due_us: int
    model: str
    frame: int
    stream: str = ""
    place: int = -1


@dataclass(frozen=True)
class RequestTrace:
    """Arrivals of all models. `seconds` is how long they take as a process, for rates in frames/s."""

    arrivals: tuple[Arrival, ...]
    seconds: float

    @property
    def models(self) -> tuple[str, ...]:
        """The models asked for, in order of their names."""
        return tuple(sorted({arrival.model for arrival in self.arrivals}))

    def count(self, model: str) -> int:
        """Frames for one model."""
        return sum(arrival.model == model for arrival in self.arrivals)


def make_workload(
    rates_rps: Mapping[str, float],
    *,
    seconds: float,
    seed: int,
    frames: int,
    process: str = "poisson",
    streams: int = 0,
) -> RequestTrace:
    """Every model at its own mean rate by `process` (see python_backend.simulator.arrivals), frames in turn.
    streams: so many of each model, whose frames come in turn; 0: frames name none.

    Raises ArrivalError.
    """
    arrivals = []
    for model, rate_rps in sorted(rates_rps.items()):
        times = parse_arrivals(process, rate_rps).times_us(seconds, seed, model)
        arrivals += [
            Arrival(due_us, model, number % frames, *_stream(number, streams))
            for number, due_us in enumerate(times)
        ]
    ordered = sorted(arrivals, key=lambda arrival: (arrival.due_us, arrival.model))
    return RequestTrace(arrivals=tuple(ordered), seconds=seconds)


def save_workload(workload: RequestTrace, path: Path) -> None:
    """Write the file that `load_workload` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        named = any(arrival.stream for arrival in workload.arrivals)
        writer.writerow(_WITH_STREAMS if named else _COLUMNS)
        for arrival in workload.arrivals:
            row = [f"{arrival.due_us / 1e6:.6f}", arrival.model, arrival.frame]
            writer.writerow([*row, arrival.stream, arrival.place] if named else row)


def load_workload(path: Path, seconds: float | None = None) -> RequestTrace:
    """A saved workload. `seconds` None: the time of the last arrival, rounded up. Raises WorkloadError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror or error}") from error
    if not rows or rows[0] not in (_COLUMNS, _WITH_STREAMS):
        raise WorkloadError(
            f"{path}: the first line must be {','.join(_COLUMNS)}, or {','.join(_WITH_STREAMS)}"
        )
    arrivals = tuple(_arrival(path, number, row) for number, row in enumerate(rows[1:], start=2))
    if not arrivals:
        raise WorkloadError(f"{path}: no arrivals in it; expected at least one")
    ordered = tuple(sorted(arrivals, key=lambda arrival: (arrival.due_us, arrival.model)))
    return RequestTrace(arrivals=ordered, seconds=seconds or math.ceil(ordered[-1].due_us / 1e6) or 1.0)


def _arrival(path: Path, number: int, row: list[str]) -> Arrival:
    try:
        timestamp, model, frame, *rest = row
        stream, place = rest or ("", "-1")
        due_us = round(float(timestamp) * 1e6)
        if due_us < 0 or int(frame) < 0:
            raise ValueError("a negative number")
        return Arrival(due_us, model, int(frame), stream, int(place))
    except (ValueError, OverflowError) as error:
        raise WorkloadError(f"{path}: line {number}: {error}; wanted {','.join(_COLUMNS)}") from None


def _stream(number: int, streams: int) -> tuple[str, int]:
    """Stream and place of a model's frame `number`."""
    return (f"camera-{number % streams}", number // streams) if streams else ("", -1)
