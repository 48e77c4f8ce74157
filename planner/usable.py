"""What share of a pool of workers, or of a link, random arrivals can use: the closed form, in one place.

Let a server of throughput X with room for K waiting frames be offered u X, and let the number of arrivals in
a stretch of time have V times its mean for variance. By the diffusion approximation of a buffer with two
walls (reflected Brownian motion, drift (u - 1) X, variance u V X) it loses

    loss = w / (exp(2 w K / V) - 1),   w = (1 - u) / u          of what is offered

V is the c_a^2 + c_s^2 of Kingman's and Allen and Cunneen's formulas: 1 for Poisson arrivals, cv^2 for gaps of
coefficient of variation cv, the index of dispersion for others.

A link is such a server: what is sent takes a fixed time t of it, and waits at most as long as the SLO leaves.
Frames that may wait W find room for K = W / t before them. Where frames of unlike sizes meet, t is their mean
and V is E[t^2] / E[t]^2 times that of their arrivals (a compound process).

Rules
- Half of what may be late is lost to links, so that the other half is left for workers: frames wait for both,
  and a link that is nearly full sends them on so evenly that they hardly wait again.
- A link's room is what the margin leaves (rates.link_wait_us), no matter how fast a pipeline is, so that what
  an entry carries does not depend on which pipelines are chosen.
"""

from __future__ import annotations

import functools
import math

EXTRA_FRAMES, BURST_FRAMES = 1.0, 0.4
"""Room beside slack, found by simulation: frames that workers about to be free will take; less what the end
of a burst, which comes at once, takes of it, for each unit of dispersion above 1."""
LEAST_ROOM = 0.1
LINK_LOSS_PART = 0.5
"""Of the share that may be late, what links may lose."""
ENDLESS_FRAMES = 1_000.0
"""Room of which more changes nothing."""


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


def usable_of_link(wait_us: float, frame_us: float, loss: float, dispersion: float = 1.0) -> float:
    """The share of a link that may be used where frames take `frame_us` of it and may wait `wait_us`."""
    if frame_us * ENDLESS_FRAMES <= wait_us:
        return 1.0
    # Rounded, so that many like questions have one answer.
    return usable_share(round(wait_us / frame_us, 2), loss * LINK_LOSS_PART, round(dispersion, 2))
