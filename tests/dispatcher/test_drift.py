"""When a stage that takes other than its profiled time is logged: when the median of its window is off."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from python_backend.dispatcher.metrics.drift import Drift
from tests.dispatcher.test_driver import manifest

SERVED = manifest().models[0].served
(PROFILED_US,) = {stage.latency_us[0] for stage in SERVED.pipelines[0].stages}
WINDOW, ENOUGH, TOLERATED, REPEAT_US = 256, 64, 0.2, 60_000_000
TIMES = st.lists(
    st.tuples(st.integers(1, 400), st.sampled_from([0.5, 0.79, 0.8, 0.81, 1.0, 1.19, 1.2, 1.21, 2.0])),
    max_size=12,
)
"""So many batches at so many times the profiled latency, one after the other."""


@given(TIMES)
def test_it_is_logged_when_the_median_is_off(times: list[tuple[int, float]]) -> None:
    said: list[str] = []
    drift = Drift(SERVED, said.append)
    window: deque[float] = deque(maxlen=WINDOW)
    at_us = said_us = 0
    for batches, factor in times:
        for _ in range(batches):
            at_us += REPEAT_US // 50
            busy_us = round(factor * PROFILED_US)
            window.append(busy_us / PROFILED_US)
            off = abs(sorted(window)[round(0.5 * (len(window) - 1))] - 1) > TOLERATED
            due = len(window) >= ENOUGH and (not said or at_us - said_us > REPEAT_US)
            before = len(said)
            drift.saw(0, 0, 1, busy_us, at_us)
            assert len(said) - before == int(off and due)
            if len(said) > before:
                said_us = at_us
