"""Two ways to serve a stream of frames that nothing can beat: divisible work on several servers, and whole
frames on identical workers. bound.py says what they stand for.

Rules: frames come in order of arrival; a frame has the same windows as any other, moved by its arrival. So
taking frames in order is the best in both, and one pass does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapreplace


def divisible(frame_us: list[float], window_us: list[float], arrivals_us: Iterable[int]) -> float:
    """Most frames that servers p, working without a break or batches, could finish: each takes frame_us[p] of
    server p's time, or shares of several, within window_us[p] of its arrival. Parts of frames count.

    This is a matching of frames with moments of server time, and a moment t of server p is open to the frames
    that arrived in [t - window_us[p], t]. For such intervals it is best to take the frames in order and give
    each the moments that close first to later ones, which are the earliest (Glover 1967). `level[p]`: all
    that is left of server p is after it.
    """
    servers = range(len(frame_us))
    rate = [1.0 / time_us for time_us in frame_us]
    level = [0.0] * len(frame_us)
    served = 0.0
    for arrival in arrivals_us:
        arrival_us = float(arrival)
        need = 1.0
        while need > 0.0:
            # The servers whose earliest moments are the earliest of all, and until when they are.
            low_us, next_us, speed = 0.0, 0.0, 0.0
            for p in servers:
                from_us = max(level[p], arrival_us)
                end_us = arrival_us + window_us[p]
                if from_us >= end_us:
                    continue
                if speed == 0.0 or from_us < low_us:
                    next_us = end_us if speed == 0.0 else min(low_us, end_us)
                    low_us, speed = from_us, rate[p]
                elif from_us == low_us:
                    next_us = min(next_us, end_us)
                    speed += rate[p]
                else:
                    next_us = min(next_us, from_us)
            if speed == 0.0:
                break
            room = (next_us - low_us) * speed
            to_us = next_us if room <= need else low_us + need / speed
            for p in servers:
                if max(level[p], arrival_us) == low_us and low_us < arrival_us + window_us[p]:
                    level[p] = to_us
            need = 0.0 if room >= need else need - room
        served += 1.0 - need
    return served


def whole(workers: int, latency_us: int, window_us: int, arrivals_us: Iterable[int]) -> int:
    """Most frames that identical workers, each one frame of latency_us at a time, could start within
    window_us of their arrival.

    Each frame goes to the worker that is free first, and is left out when that is too late. By induction the
    j-th frame served so is no later than the j-th of any schedule: its worker has the (j - workers)-th frame
    behind it, which ended no later, and a frame that is left out here could not be the j-th there.
    """
    free_us = [-(1 << 62)] * workers
    served = 0
    for arrival_us in arrivals_us:
        start_us = max(free_us[0], arrival_us)
        if start_us <= arrival_us + window_us:
            heapreplace(free_us, start_us + latency_us)
            served += 1
    return served
