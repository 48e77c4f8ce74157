"""Fit the roofline's constants to measured latencies, and see how they do on what they were not fitted to.

The loss, mean over networks: how far estimates are off, log(estimate / measurement), and how far each class
is off from the mean of the classes, because plans turn on ratios; |x| of both, but smooth below SMOOTH_BELOW,
and not squared, so that one network whose reference was built differently does not bend all constants.
Added to it: PENALTY times the mean squared distance of the constants from what is known of GPUs beforehand
(roofline.PRIOR, and `sustained` per kind of unit), in units of SPREAD, as logarithms. A few networks do not
say enough about eleven constants: without the penalty, networks left out of the fit are estimated worse by
half.

It is lowered one constant at a time, each by a factor that shrinks: no derivatives, no random starts, the
same answer every time. Every fit starts at the prior.

Held out: one network at a time, everything fitted to the others; or one class at a time, whose `sustained`
is then that of the others with matrix units of the same kind (geometric mean), or the prior's.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.profiling.gpus import CUDA_CORES_SUSTAIN, TENSOR_CORES_SUSTAIN, find_gpu
from planner.profiling.network import KernelKind
from planner.profiling.roofline import FITTED, PRIOR, Constants, Floats, Work

STEPS = (0.3, 0.15, 0.07, 0.03, 0.01)
ROUNDS = 12
"""At most so many sweeps over all constants per step."""
PENALTY = 0.1
SMOOTH_BELOW = 0.1
SPREAD = 0.5
"""How far a constant may well be from its prior, as a logarithm."""
SPREAD_OF: Mapping[str, float] = {"fill": 0.7, "efficiency depthwise": 0.7}
SPREAD_OF_SUSTAINED = 1.0
"""Kernels differ by class, and no data sheet says how."""


@dataclass(frozen=True)
class Sample:
    """One network on one class, or on one of so many slices of it: microseconds per batch size."""

    network: str
    gpu: str
    work: Work
    batch_sizes: tuple[int, ...]
    measured_us: Floats
    slices: int = 1


@dataclass(frozen=True)
class Fit:
    """All that is fitted: the constants of every class, and each class's `sustained`."""

    constants: Constants
    sustained: Mapping[str, float]

    def estimate(self, sample: Sample) -> Floats:
        """Microseconds per batch size."""
        gpu = dataclasses.replace(find_gpu(sample.gpu), sustained=self.sustained[sample.gpu])
        return sample.work.us(gpu, sample.slices, sample.batch_sizes, self.constants)


def catalogued(gpus: Iterable[str]) -> Fit:
    """The constants that the package uses."""
    return Fit(constants=FITTED, sustained={name: find_gpu(name).sustained for name in gpus})


def prior(gpus: Iterable[str]) -> Fit:
    """What is known without these measurements."""
    return Fit(constants=PRIOR, sustained={name: _prior_sustained(name) for name in gpus})


def fitted(samples: Sequence[Sample]) -> Fit:
    """The constants that suit `samples`."""
    known = prior(sorted({sample.gpu for sample in samples}))
    best, least = known, _penalised(samples, known, known)
    for step in STEPS:
        for _ in range(ROUNDS):
            before = least
            for name, value in values(best).items():
                for factor in (math.exp(step), math.exp(-step)):
                    tried = changed(best, name, value * factor)
                    cost = _penalised(samples, tried, known)
                    if cost < least:
                        best, least = tried, cost
                        break
            if before - least < 1e-5:
                break
    return best


def loss(samples: Sequence[Sample], fit: Fit) -> float:
    """How far estimates, and ratios between classes, are off; mean over networks."""
    by_network: dict[str, list[Floats]] = {}
    for sample in samples:
        by_network.setdefault(sample.network, []).append(np.log(fit.estimate(sample) / sample.measured_us))
    return statistics.fmean(_misfit(logs) for logs in by_network.values())


def without_each_network(samples: Sequence[Sample]) -> dict[str, Fit]:
    """For each network the constants fitted to all others."""
    networks = sorted({sample.network for sample in samples})
    return {left: fitted([sample for sample in samples if sample.network != left]) for left in networks}


def without_each_class(samples: Sequence[Sample]) -> dict[str, Fit]:
    """For each class the constants fitted to all others, its `sustained` guessed from theirs."""
    fits = {}
    for left in sorted({sample.gpu for sample in samples}):
        fit = fitted([sample for sample in samples if sample.gpu != left])
        fits[left] = Fit(fit.constants, {**fit.sustained, left: _guess(left, fit.sustained)})
    return fits


def values(fit: Fit) -> dict[str, float]:
    """All that may move, by name; dense convolutions are what the other kinds are compared with."""
    constants = fit.constants
    return {
        "fill": constants.fill,
        "tile": constants.tile,
        "launch": constants.launch_us,
        **{
            f"efficiency {kind.value}": value
            for kind, value in constants.efficiency.items()
            if kind is not KernelKind.CONVOLUTION
        },
        **{f"passes {kind.value}": value for kind, value in constants.passes.items()},
        **{f"sustained {gpu}": value for gpu, value in fit.sustained.items()},
    }


def changed(fit: Fit, name: str, value: float) -> Fit:
    """The fit with one of `values` changed."""
    what, _, which = name.partition(" ")
    if what == "sustained":
        return dataclasses.replace(fit, sustained={**fit.sustained, which: value})
    constants = fit.constants
    if which:
        change: dict[str, Any] = {what: {**getattr(constants, what), KernelKind(which): value}}
    else:
        change = {{"launch": "launch_us"}.get(what, what): value}
    return dataclasses.replace(fit, constants=dataclasses.replace(constants, **change))


def _misfit(logs: Sequence[Floats]) -> float:
    """Of one network. logs: per class, by batch size; classes may have been measured to different ones."""
    common = np.array([each[: min(map(len, logs))] for each in logs])
    return float(_size(np.concatenate(logs)).mean() + _size(common - common.mean(axis=0)).mean())


def _size(errors: Floats) -> Floats:
    sizes: Floats = np.sqrt(SMOOTH_BELOW**2 + errors**2) - SMOOTH_BELOW
    return sizes


def _penalised(samples: Sequence[Sample], fit: Fit, known: Fit) -> float:
    expected = values(known)
    squares = [(math.log(value / expected[name]) / _spread(name)) ** 2 for name, value in values(fit).items()]
    return loss(samples, fit) + PENALTY * statistics.fmean(squares)


def _spread(name: str) -> float:
    return SPREAD_OF_SUSTAINED if name.startswith("sustained") else SPREAD_OF.get(name, SPREAD)


def _guess(name: str, others: Mapping[str, float]) -> float:
    """`sustained` of a class that nobody measured."""
    alike = [value for other, value in others.items() if _tensor_cores(other) == _tensor_cores(name)]
    return statistics.geometric_mean(alike) if alike else _prior_sustained(name)


def _prior_sustained(gpu: str) -> float:
    return TENSOR_CORES_SUSTAIN if _tensor_cores(gpu) else CUDA_CORES_SUSTAIN


def _tensor_cores(gpu: str) -> bool:
    return find_gpu(gpu).matrix_unit().tensor_cores
