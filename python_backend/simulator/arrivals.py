"""When frames arrive. Every process is seeded: the same seed gives the same times, in whole microseconds
from 0.

Times come in chunks, so that ten million frames need no more memory than ten thousand. Formulas: Poisson
and Gamma are renewal processes of mean gap 1 / rate; a Gamma gap of shape 1 / cv^2 has coefficient of
variation cv.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from python_backend.simulator.errors import ArrivalError
from python_backend.simulator.traces import read_trace

__all__ = [
    "ArrivalError",
    "Arrivals",
    "Cameras",
    "Gamma",
    "ModulatedPoisson",
    "Poisson",
    "Trace",
    "parse_arrivals",
    "read_trace",
]

_CHUNK = 65_536


@dataclass(frozen=True)
class Arrivals:
    """Base of all arrival processes; this one is Poisson. `rate_rps` is the mean rate in frames/s."""

    rate_rps: float

    def __post_init__(self) -> None:
        _require_positive("rate_rps", self.rate_rps)

    def times_us(self, seconds: float, seed: int, stream: str = "") -> Iterator[int]:
        """Arrival times below `seconds`, ascending. Streams of different names (models) are independent."""
        _require_positive("seconds", seconds)
        if seed < 0:
            raise ArrivalError(f"seed {seed} must be at least 0")
        return self._generate(seconds, np.random.default_rng([seed, zlib.crc32(stream.encode())]))

    def _generate(self, seconds: float, rng: np.random.Generator) -> Iterator[int]:
        return _renewal(seconds, lambda: rng.exponential(1e6 / self.rate_rps, _CHUNK))


Poisson = Arrivals


@dataclass(frozen=True)
class Gamma(Arrivals):
    """Gamma gaps with coefficient of variation `cv`: above 1 frames come in bursts, below 1 evenly."""

    cv: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("cv", self.cv)

    def _generate(self, seconds: float, rng: np.random.Generator) -> Iterator[int]:
        shape = 1.0 / self.cv**2
        scale = 1e6 / self.rate_rps / shape
        return _renewal(seconds, lambda: rng.gamma(shape, scale, _CHUNK))


@dataclass(frozen=True)
class ModulatedPoisson(Arrivals):
    """Poisson that switches between two rates: `burst` times the quiet one for a share `busy_share` of the
    time.

    Stays are exponential; a busy one lasts `busy_seconds` on average.
    """

    burst: float = 3.0
    busy_share: float = 0.2
    busy_seconds: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("burst", self.burst)
        _require_positive("busy_seconds", self.busy_seconds)
        if not 0 < self.busy_share < 1:
            raise ArrivalError(f"busy_share {self.busy_share} must lie between 0 and 1")

    def _generate(self, seconds: float, rng: np.random.Generator) -> Iterator[int]:
        quiet_rps = self.rate_rps / (1 - self.busy_share + self.busy_share * self.burst)
        quiet_seconds = self.busy_seconds * (1 - self.busy_share) / self.busy_share
        now, busy = 0.0, bool(rng.random() < self.busy_share)
        while now < seconds:
            stay = rng.exponential(self.busy_seconds if busy else quiet_seconds)
            end = min(now + stay, seconds)
            count = rng.poisson((end - now) * quiet_rps * (self.burst if busy else 1.0))
            yield from np.sort(rng.uniform(now * 1e6, end * 1e6, count)).astype(np.int64).tolist()
            now, busy = end, not busy


@dataclass(frozen=True)
class Cameras(Arrivals):
    """rate_rps / fps cameras, each with a phase of its own and Gaussian jitter of `jitter_us` on every frame.

    A last camera that makes up the rate may be slower than the others.
    """

    fps: float = 30.0
    jitter_us: float = 1_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_positive("fps", self.fps)
        if not (math.isfinite(self.jitter_us) and self.jitter_us >= 0):
            raise ArrivalError(f"jitter_us {self.jitter_us} must be a finite number of at least 0")

    def _generate(self, seconds: float, rng: np.random.Generator) -> Iterator[int]:
        whole = int(self.rate_rps / self.fps)
        rest = self.rate_rps - whole * self.fps
        speeds = np.array([self.fps] * whole + ([rest] if rest > 1e-9 else []))
        phases = rng.uniform(0.0, 1.0, len(speeds)) / speeds
        # A window at a time keeps memory bounded; a frame that jitters over a window's end is sorted into
        # the next.
        window = max(1.0, _CHUNK / self.rate_rps)
        now, late = 0.0, np.empty(0)
        while now < seconds:
            end = min(now + window, seconds)
            firsts = np.ceil((now - phases) * speeds).clip(0)
            nominal = [
                np.arange(first, math.ceil((end - phase) * speed)) / speed + phase
                for first, phase, speed in zip(firsts, phases, speeds, strict=True)
            ]
            times = np.concatenate(nominal)
            times = np.concatenate([late, times * 1e6 + rng.normal(0.0, self.jitter_us, len(times))])
            times = np.sort(times.clip(now * 1e6, seconds * 1e6 - 1))
            ready = times < end * 1e6
            late = times[~ready]
            yield from times[ready].astype(np.int64).tolist()
            now = end


@dataclass(frozen=True)
class Trace(Arrivals):
    """Times of a file, scaled in time so that the mean rate is `rate_rps`, and repeated when they run out."""

    path: str = ""

    def _generate(self, seconds: float, rng: np.random.Generator) -> Iterator[int]:
        del rng
        stamps = read_trace(Path(self.path))
        span = float(stamps[-1] - stamps[0]) * len(stamps) / max(1, len(stamps) - 1)
        if not span > 0:
            raise ArrivalError(
                f"{self.path}: all {len(stamps)} timestamps are equal; a trace needs two different ones"
            )
        scaled = (stamps - stamps[0]) * (len(stamps) * 1e6 / self.rate_rps / span)
        return self._repeat(scaled, seconds)

    def _repeat(self, scaled: Any, seconds: float) -> Iterator[int]:
        period_us = len(scaled) * 1e6 / self.rate_rps
        lap = 0
        while lap * period_us < seconds * 1e6:
            times = scaled + lap * period_us
            yield from times[times < seconds * 1e6].astype(np.int64).tolist()
            lap += 1


_KINDS: dict[str, type[Arrivals]] = {
    "poisson": Arrivals,
    "gamma": Gamma,
    "mmpp": ModulatedPoisson,
    "cameras": Cameras,
    "trace": Trace,
}


def parse_arrivals(text: str, rate_rps: float) -> Arrivals:
    """The process written as `kind` or `kind:field=value,...`: poisson, gamma:cv=2, mmpp:burst=3,
    cameras:fps=30, trace:path=FILE. Raises ArrivalError."""
    kind, _, rest = text.partition(":")
    if kind not in _KINDS:
        raise ArrivalError(f"unknown arrivals {kind!r}; known: {', '.join(_KINDS)}")
    values: dict[str, Any] = {}
    fields = [name for name in _KINDS[kind].__dataclass_fields__ if name != "rate_rps"]
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if name not in fields or not equals:
            wanted = ", ".join(f"{field}=..." for field in fields) or "nothing"
            raise ArrivalError(f"arrivals {kind}: {part!r}; expected {wanted}")
        try:
            values[name] = value if name == "path" else float(value)
        except ValueError:
            raise ArrivalError(f"arrivals {kind}: {name} {value!r} is not a number") from None
    return _KINDS[kind](rate_rps, **values)


def frame_bytes(planned: int, spread: float, seed: int, stream: str = "") -> Iterator[int]:
    """Bytes of one frame after another without end: log-normal, of mean `planned` and coefficient of
    variation `spread`. JPEGs of one camera are about so distributed, by how much there is to see.
    """
    if not (math.isfinite(spread) and spread >= 0):
        raise ArrivalError(f"frame spread {spread} must be a finite number of at least 0")
    rng = np.random.default_rng([seed, zlib.crc32(stream.encode()), 1])
    variance = math.log1p(spread**2)
    while True:
        drawn = planned * rng.lognormal(-variance / 2, math.sqrt(variance), _CHUNK)
        yield from np.maximum(1, np.rint(drawn)).astype(np.int64).tolist()


def _renewal(seconds: float, gaps: Any) -> Iterator[int]:
    """Times whose gaps come from `gaps()`, a chunk at a time."""
    start, end = 0.0, seconds * 1e6
    while True:
        times = start + np.cumsum(gaps())
        yield from times[times < end].astype(np.int64).tolist()
        start = float(times[-1])
        if start >= end:
            return


def _require_positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ArrivalError(f"{field} {value} must be a finite number above 0")
