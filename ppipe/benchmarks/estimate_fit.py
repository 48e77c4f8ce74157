"""Fit the roofline's constants to measured latencies, and see how they do on what they were not fitted to.

The loss is the mean |log(estimate / measurement)| of whole models over networks, classes and batch sizes.
It is lowered one constant at a time, each by a factor that shrinks: no derivatives, no random starts, the
same answer every time.

Held out: one network at a time, everything fitted to the others; or one class at a time, whose `sustained`
is then that of the others (geometric mean; of those with matrix units of the same kind if there are any).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from planner.profiling.gpus import Gpu, find_gpu
from planner.profiling.kernels import Kind
from planner.profiling.roofline import FITTED, Constants, Floats, Work

STEPS = (0.3, 0.15, 0.07, 0.03, 0.01)
ROUNDS = 12
"""At most so many sweeps over all constants per step."""


@dataclass(frozen=True)
class Sample:
    """One network on one class: microseconds per batch size."""

    network: str
    gpu: str
    work: Work
    batch_sizes: tuple[int, ...]
    measured_us: Floats


@dataclass(frozen=True)
class Fit:
    """All that is fitted: the constants of every class, and each class's `sustained`."""

    constants: Constants
    sustained: Mapping[str, float]

    def estimate(self, sample: Sample) -> Floats:
        """Microseconds per batch size."""
        gpu = dataclasses.replace(find_gpu(sample.gpu), sustained=self.sustained[sample.gpu])
        return sample.work.us(gpu, 1, sample.batch_sizes, self.constants)


def catalogued(gpus: Iterable[str]) -> Fit:
    """The constants that the package uses."""
    return Fit(constants=FITTED, sustained={name: find_gpu(name).sustained for name in gpus})


def fitted(samples: Sequence[Sample], start: Fit) -> Fit:
    """The constants that suit `samples`, looked for from `start`."""
    gpus = sorted({sample.gpu for sample in samples})
    names = [*_scales(start.constants), *gpus]
    best, least = start, loss(samples, start)
    for step in STEPS:
        for _ in range(ROUNDS):
            before = least
            for name in names:
                for factor in (math.exp(step), math.exp(-step)):
                    tried = _scaled(best, name, factor)
                    value = loss(samples, tried)
                    if value < least:
                        best, least = tried, value
                        break
            if before - least < 1e-5:
                break
    return best


def loss(samples: Sequence[Sample], fit: Fit) -> float:
    """Mean |log(estimate / measurement)|."""
    logs = [np.abs(np.log(fit.estimate(sample) / sample.measured_us)) for sample in samples]
    return float(np.concatenate(logs).mean())


def without_each_network(samples: Sequence[Sample], start: Fit) -> dict[str, Fit]:
    """For each network the constants fitted to all others."""
    networks = sorted({sample.network for sample in samples})
    return {
        left: fitted([sample for sample in samples if sample.network != left], start) for left in networks
    }


def without_each_class(samples: Sequence[Sample], start: Fit) -> dict[str, Fit]:
    """For each class the constants fitted to all others, its `sustained` guessed from theirs."""
    fits = {}
    for left in sorted({sample.gpu for sample in samples}):
        fit = fitted([sample for sample in samples if sample.gpu != left], start)
        others = {name: value for name, value in fit.sustained.items() if name != left}
        fits[left] = Fit(constants=fit.constants, sustained={**others, left: _guess(left, others)})
    return fits


def _guess(name: str, others: Mapping[str, float]) -> float:
    """`sustained` of a class that nobody measured."""
    alike = [value for other, value in others.items() if _tf32(find_gpu(other)) == _tf32(find_gpu(name))]
    return statistics.geometric_mean(alike or others.values())


def _tf32(gpu: Gpu) -> bool:
    return gpu.tf32 is not None


def _scales(constants: Constants) -> dict[str, Callable[[Constants, float], Constants]]:
    """Every constant that may move; dense convolutions are what the others are compared with."""
    replace = dataclasses.replace
    scales: dict[str, Callable[[Constants, float], Constants]] = {
        "bandwidth": lambda old, by: replace(old, bandwidth=min(old.bandwidth * by, 1.0)),
        "fill": lambda old, by: replace(old, fill=old.fill * by),
        "launch": lambda old, by: replace(old, launch_us=old.launch_us * by),
    }
    for kind in constants.efficiency:
        if kind is not Kind.CONVOLUTION:
            scales[f"efficiency {kind.value}"] = lambda old, by, kind=kind: replace(  # type: ignore[misc]
                old, efficiency={**old.efficiency, kind: old.efficiency[kind] * by}
            )
    for kind in constants.passes:
        scales[f"passes {kind.value}"] = lambda old, by, kind=kind: replace(  # type: ignore[misc]
            old, passes={**old.passes, kind: old.passes[kind] * by}
        )
    return scales


def _scaled(fit: Fit, name: str, factor: float) -> Fit:
    if name in fit.sustained:
        return dataclasses.replace(
            fit, sustained={**fit.sustained, name: min(fit.sustained[name] * factor, 1.0)}
        )
    return dataclasses.replace(fit, constants=_scales(fit.constants)[name](fit.constants, factor))
