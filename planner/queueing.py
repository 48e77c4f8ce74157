"""How much of a plan's throughput random arrivals can use, and the same as linear rows of the plan's MILP.

Frames that wait are the buffer between a random stream and workers that must not idle. Pipeline p may start
a frame until it is s_p old, s_p the SLO less the pipeline's latency, so at most

    K = sum_p x_p s_p                              (x_p the rate of p; Little's law)

frames can wait of which none is late. A server of throughput X with room for K frames, frames leaving at
fixed intervals, loses of a Poisson stream of rate (1 + theta) X the share

    loss = theta / (1 - exp(-2 theta K))           (reflected Brownian motion of unit variance per frame)

So for the loss that a plan may have theta(K) is known, rising and concave: X (1 + theta(K)) of the plan is
usable. A few tangents of theta, with an estimate R of X, make that linear in x, for every tangent j

    usable <= sum_p x_p (1 + R theta'_j s_p) + R (theta_j - theta'_j K_j)

and R = usable in the last term lets both sides scale alike, as the relaxation's prices need it. More than X
is never counted as usable. How near simulated capacities come to this: docs/scheduler.md.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from planner.pipelines import Columns, Floats

EXTRA_FRAMES = 3.0
"""Room beside slack, found by simulation: frames that workers about to be free will take."""
TANGENTS_AT = (3.0, 5.0, 7.0, 9.0, 11.5, 14.0, 17.0, 20.0, 24.0, 29.0, 36.0, 45.0)
"""Frames."""


@functools.cache
def usable_share(frames: float, loss: float) -> float:
    """1 + theta(frames), at most 1: the load, as a share of the throughput, of which `loss` is lost."""
    room = frames + EXTRA_FRAMES
    low, high = -1.0, 0.0
    for _ in range(50):
        theta = (low + high) / 2
        if _loss(theta, room) < loss:
            low = theta
        else:
            high = theta
    return 1.0 + (low + high) / 2


def _loss(theta: float, room: float) -> float:
    exponent = -2 * theta * room
    if exponent < 1e-9:
        return 1 / (2 * room)
    return theta / -math.expm1(exponent) if exponent < 700 else 0.0


@dataclass(frozen=True)
class Reserve:
    """One tangent for one model: sum_p x_p gain_p >= share * its wanted rate.

    gain_p = 1 + per_us * slack; a batch's frames come `frame_us` apart, and waiting for them is no slack.
    """

    share: float
    per_us: float = 0.0
    slo_us: float = 0.0
    frame_us: float = 0.0

    def gains(self, columns: Columns) -> Floats:
        """gain_p of every pipeline."""
        slack_us = self.slo_us - columns.latency_us - (columns.batch[:, 0] - 1) * self.frame_us
        gains: Floats = 1.0 + self.per_us * slack_us
        return gains


def reserves(slo_us: int, rate_rps: float, loss: float) -> tuple[Reserve, ...]:
    """The tangents for a model of about this rate, and that no more than its throughput is usable."""
    found = [Reserve(share=1.0)]
    for frames in TANGENTS_AT:
        share = usable_share(frames, loss)
        slope = (usable_share(frames * 1.01, loss) - usable_share(frames * 0.99, loss)) / (0.02 * frames)
        found.append(
            Reserve(
                share=2.0 - share + slope * frames,
                per_us=rate_rps * slope / 1e6,
                slo_us=float(slo_us),
                frame_us=1e6 / rate_rps,
            )
        )
    return tuple(found)
