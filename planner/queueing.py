"""How much of a plan's throughput random arrivals can use, and the same as linear rows of the plan's MILP.

Frames that wait are the buffer between a random stream and workers that must not idle. Pipeline p may start
a frame until it is s_p old, s_p the SLO less the pipeline's latency (of varying latencies a high quantile:
rates.variation_us), so at most

    K = sum_p x_p s_p                              (x_p the rate of p; Little's law)

frames can wait of which none is late. Let a server of throughput X with room for K frames be offered u X,
and let the number of arrivals in a stretch of time have V times its mean for variance. By the diffusion
approximation of a buffer with two walls (reflected Brownian motion, drift (u - 1) X, variance u V X) it loses

    loss = w / (exp(2 w K / V) - 1),   w = (1 - u) / u          of what is offered

V is the c_a^2 + c_s^2 of Kingman's and Allen and Cunneen's formulas: 1 for Poisson arrivals, cv^2 for gaps of
coefficient of variation cv, the index of dispersion for others. The c_s^2 of a stage's latency counts b times
for batches of b frames, which come and go together, and is too small to matter: a jitter of 10 % on batches
of 8 adds 0.08. What jitter takes is slack, and that is in s_p.

So for the loss that a plan may have u(K) is known, rising and concave: X u(K) of the plan is usable. A few
tangents of u, with an estimate R of X where K multiplies it, make that linear in x, for every tangent j

    usable <= sum_p x_p (u_j - u'_j K_j + u'_j R s_p)

More than X is never counted as usable. How near simulated capacities come to this: docs/scheduler.md.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from planner.pipelines import Columns, Floats

EXTRA_FRAMES, BURST_FRAMES = 1.0, 0.4
"""Room beside slack, found by simulation: frames that workers about to be free will take; less what the end
of a burst, which comes at once, takes of it, for each unit of dispersion above 1."""
LEAST_ROOM = 0.1
TANGENTS_AT = (3.0, 5.0, 7.0, 9.0, 11.5, 14.0, 17.0, 20.0, 24.0, 29.0, 36.0, 45.0)
"""Frames, for Poisson arrivals; times the standard deviation for burstier ones."""
LEAST_GAIN = 0.05
"""A pipeline too tight to form its batch is worth this much, so that prices stay finite."""


@functools.cache
def usable_share(frames: float, loss: float, dispersion: float = 1.0) -> float:
    """u(K): the load, as a share of the throughput, of which `loss` is lost. At most 1."""
    extra = EXTRA_FRAMES - BURST_FRAMES * (dispersion - 1)
    room = max(LEAST_ROOM, frames + extra) / dispersion
    if 2 * room * loss >= 1:
        return 1.0
    low, high = 0.0, 1.0
    while _loss(high, room) > loss:
        high *= 2
    for _ in range(50):
        headroom = (low + high) / 2
        if _loss(headroom, room) > loss:
            low = headroom
        else:
            high = headroom
    return 1.0 / (1.0 + high)


def _loss(headroom: float, room: float) -> float:
    exponent = 2 * headroom * room
    if exponent < 1e-9:
        return 1 / (2 * room)
    return headroom / math.expm1(exponent) if exponent < 700 else 0.0


@dataclass(frozen=True)
class Reserve:
    """One tangent for one model: sum_p x_p gain_p >= its wanted rate.

    gain_p = constant + per_us * slack; a batch's frames come `frame_us` apart, `bunch` of them at once, and
    waiting for them is no slack.
    """

    constant: float = 1.0
    per_us: float = 0.0
    slo_us: float = 0.0
    frame_us: float = 0.0
    bunch: float = 1.0

    def gains(self, columns: Columns) -> Floats:
        """gain_p of every pipeline."""
        waited_for = np.maximum(0.0, columns.batch[:, 0] - self.bunch)
        slack_us = self.slo_us - columns.latency_us - waited_for * self.frame_us
        gains: Floats = np.maximum(LEAST_GAIN, self.constant + self.per_us * slack_us)
        return gains


def reserves(
    slo_us: int, rate_rps: float, loss: float, dispersion: float = 1.0, bunch: float = 1.0
) -> tuple[Reserve, ...]:
    """The tangents for a model of about this throughput, and that no more than its throughput is usable."""
    found = [Reserve()]
    for at in TANGENTS_AT:
        frames = at * math.sqrt(dispersion)
        share = usable_share(frames, loss, dispersion)
        below, above = (usable_share(frames * by, loss, dispersion) for by in (0.99, 1.01))
        slope = (above - below) / (0.02 * frames)
        found.append(
            Reserve(
                constant=share - slope * frames,
                per_us=rate_rps * slope / 1e6,
                slo_us=float(slo_us),
                frame_us=1e6 / rate_rps,
                bunch=bunch,
            )
        )
    return tuple(found)
