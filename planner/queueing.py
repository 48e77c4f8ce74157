"""How much of a plan's throughput random arrivals can use, and the same as linear rows of the plan's MILP.

Frames that wait are the buffer between a random stream and workers that must not idle. Pipeline p may start
a frame until it is s_p old, s_p the SLO less the pipeline's latency (of varying latencies a high quantile:
rates.variation_us), so at most

    K = sum_p x_p s_p                              (x_p the rate of p; Little's law)

frames can wait of which none is late. What share u of a throughput X such room makes usable is the closed
form of planner.usable. The c_s^2 of a stage's latency counts b times for batches of b frames, which come and
go together, and is too small to matter: a jitter of 10 % on batches of 8 adds 0.08. What jitter takes is
slack, and that is in s_p.

So for the loss that a plan may have u(K) is known, rising and concave: X u(K) of the plan is usable. A few
tangents of u, with an estimate R of X where K multiplies it, make that linear in x, for every tangent j

    usable <= sum_p x_p (u_j - u'_j K_j + u'_j R s_p)

Bursts find workers idle, and these take a batch each at once: x_p t_p frames if all are, t_p what a batch
takes of the slowest stage. Of that the share that is idle is room beside K,

    K = sum_p x_p (s_p + c t_p)

c is about 1 - u: nothing for Poisson arrivals, half of a batch for gaps of CV 4. Without it short batches
seem best, which frames can wait for, though large ones take in more of a burst and serve more. How much of a
batch is worth counting depends on the fleet (workers that a burst made busy together become free together),
so c is the caller's (Demand.batch_room).

More than X is never counted as usable. How near simulated capacities come to this: docs/scheduler.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from planner.pipelines import Columns, Floats
from planner.usable import usable_share

TANGENTS_AT = (3.0, 5.0, 7.0, 9.0, 11.5, 14.0, 17.0, 20.0, 24.0, 29.0, 36.0, 45.0)
"""Frames, for Poisson arrivals; times the standard deviation for burstier ones."""
LEAST_GAIN = 0.05
"""A pipeline too tight to form its batch is worth this much, so that prices stay finite."""


@dataclass(frozen=True)
class Reserve:
    """One tangent for one model: sum_p x_p gain_p >= its wanted rate.

    gain_p = constant + per_us * slack; a batch's frames come `frame_us` apart, `bunch` of them at once, and
    waiting for them is no slack; `batch_room` (c) of what a batch takes of the slowest stage is.
    """

    constant: float = 1.0
    per_us: float = 0.0
    slo_us: float = 0.0
    frame_us: float = 0.0
    bunch: float = 1.0
    batch_room: float = 0.0

    def gains(self, columns: Columns) -> Floats:
        """gain_p of every pipeline."""
        waited_for = np.maximum(0.0, columns.batch[:, 0] - self.bunch)
        slack_us = self.slo_us - columns.latency_us - waited_for * self.frame_us
        if self.batch_room:
            slack_us = slack_us + self.batch_room * columns.slowest_us()
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
