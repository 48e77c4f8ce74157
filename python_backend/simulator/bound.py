"""How many frames of a trace any schedule could serve in time, however clever and knowing the future: a
yardstick.

The relaxation: work is divisible, any worker may take any part of any frame, links and all stages but each
pipeline's slowest are free. Of each pipeline only its slowest pool counts: c workers finish at most c * b /
latency(b) frames/s, with the best b. All pools together are one fluid server of the summed rate. A frame's
work there must lie between its arrival plus the least time before, and its deadline less the least time
after, over all pipelines. Windows are in order of arrival, so serving each frame that still fits, in order,
is the best: no schedule serves more.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.serving import ServedModel, ServedPipeline


def most_in_time(served: ServedModel, arrivals_us: Iterable[int]) -> int:
    """An upper bound on the frames of these ascending arrivals that end within the SLO."""
    if not served.pipelines:
        return 0
    ways = [_around(pipeline, stage) for pipeline in served.pipelines for stage in [_slowest(pipeline)]]
    before_us = min(before for before, _, _ in ways)
    after_us = min(after for _, after, _ in ways)
    least_us = min(_path_us(pipeline) for pipeline in served.pipelines)
    frame_us = 1.0 / sum(rate for _, _, rate in ways)
    if least_us > served.slo_us:
        return 0
    count, free_us = 0, 0.0
    for arrival_us in arrivals_us:
        end_us = max(free_us, float(arrival_us + before_us)) + frame_us
        if end_us <= arrival_us + served.slo_us - after_us:
            count, free_us = count + 1, end_us
    return count


def _rate(pipeline: ServedPipeline, stage: int) -> float:
    """Frames per microsecond of a pool at its best batch size."""
    pool = pipeline.stages[stage]
    return max(len(pool.workers) * size / us for size, us in enumerate(pool.latency_us, start=1))


def _slowest(pipeline: ServedPipeline) -> int:
    return min(range(len(pipeline.stages)), key=lambda stage: _rate(pipeline, stage))


def _around(pipeline: ServedPipeline, stage: int) -> tuple[int, int, float]:
    """Least time before and after one stage, and its rate."""
    before = sum(min(pool.latency_us) for pool in pipeline.stages[:stage])
    before += sum(min(hop) for hop in pipeline.transfer_us[:stage])
    after = sum(min(pool.latency_us) for pool in pipeline.stages[stage + 1 :])
    after += sum(min(hop) for hop in pipeline.transfer_us[stage:])
    return before, after, _rate(pipeline, stage)


def _path_us(pipeline: ServedPipeline) -> int:
    return sum(min(pool.latency_us) for pool in pipeline.stages) + sum(
        min(hop) for hop in pipeline.transfer_us
    )
