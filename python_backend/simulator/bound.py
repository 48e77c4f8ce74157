"""How many frames of a trace any schedule could serve in time, however clever and knowing the future: a
yardstick.

What a schedule may do here: form batches of any size in the latency tables anew at every stage, leave workers
idle, send each frame through any pipeline, drop any frame. Batches take what the tables say, a frame goes
through its stages and transfers in turn, a worker has one batch at a time and an uplink one transfer.
Downlinks are free, and so are links shared between pipelines: each pipeline has them to itself.

Why none beats the bound. Of pipeline p look at its resources r: the c_r workers of each stage, the c_r
uplinks that they send through. A frame answered in time is in a batch of b_r frames at r, so
(1) its latencies and transfers sum to at most the SLO: the sizes b_r are one of the pipeline's *modes*;
(2) it may be charged 1 / b_r of the batch's time t_r(b_r) there. Whatever is charged at a moment sums to at
most c_r, and lies at least before_r after the frame's arrival (least times of what comes before r) and
at least after_r before its deadline.
Give the resources prices q_r >= 0 that sum to 1. Setting the clock at r back by before_r, the frame costs
sum q_r t_r(b_r) / (b_r c_r) >= frame_us (the least over the modes), all of it within window_us = the largest
SLO - before_r - after_r of its arrival; and at any moment what is charged costs at most 1. So each
pipeline is one server that gives a frame frame_us of its time within window_us, and what such servers can do
at most with divisible work is fluid.divisible, exactly. Every choice of prices is a bound. Two are tried:
prices that make frame_us the largest, which is where the pipeline's fluid limit 1 / frame_us lies
(a linear programme's duals), and all on the narrowest resource, which may leave a shorter window.

The way in and out, where it is counted, takes a frame at least so long before its first stage and after its
last. The entry's uplink is one more server of divisible work: alone, it bounds what all pipelines together
serve.

Where there is one pipeline and no mode but one frame at a time, each stage alone bounds whole frames on whole
workers (fluid.whole), which is exact for one stage.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.serving import ServedModel, ServedPipeline, ServedStage
from python_backend.simulator.capacity import TARGET, Workload, highest_reached
from python_backend.simulator.fluid import divisible, whole

MOST_MODES = 50_000
"""Of one pipeline; with more, its frames are charged the least of every resource."""
PRICE_ROUNDS = 3_000
"""Of multiplicative updates of the prices."""
LEAST_PRICE = 1e-3
"""Lower prices are set to 0: their resource's window no longer counts."""
CAPACITY_GRID = 0.005
"""The bound's own capacity is found to this share of the fluid limit."""


@dataclass(frozen=True)
class Resource:
    """What a frame of a pipeline needs: `count` workers or links; the least time before and after them."""

    count: int
    before_us: int
    after_us: int


@dataclass(frozen=True)
class PipelineServer:
    """A pipeline as one server: the time that a frame costs it, within so long after the frame's arrival."""

    frame_us: float
    window_us: float


class Bound:
    """Upper bounds for one served model; what does not depend on the trace is worked out once."""

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        priced = [
            _servers(pipeline, served.slo_us, *_least_ends_us(served, pipeline))
            for pipeline in served.pipelines
        ]
        usable = [choices for choices in priced if choices]
        self._fluids: list[list[PipelineServer]] = [
            list(servers) for servers in dict.fromkeys(zip(*usable, strict=True))
        ]
        if self._fluids and (entry := _entry_server(served)) is not None:
            self._fluids.append([entry])
        self._whole = _whole_stages(served)

    @property
    def fluid_rps(self) -> float:
        """Frames/s that no schedule serves for long, whatever arrives."""
        return min(
            (sum(1e6 / server.frame_us for server in servers) for servers in self._fluids), default=0.0
        )

    def most_in_time(self, arrivals_us: Callable[[], Iterable[int]]) -> int:
        """An upper bound on the frames of these ascending arrivals that end within the SLO.

        `arrivals_us()` is called once for each way to bound.
        """
        bounds = [_whole_number(_fluid(servers, arrivals_us())) for servers in self._fluids]
        bounds += [
            whole(resource.count, latency_us, window_us, arrivals_us())
            for resource, latency_us, window_us in self._whole
        ]
        return min(bounds, default=0)

    def attainment(self, rate_rps: float, workload: Workload) -> float:
        """An upper bound on the mean attainment over the workload's seeds."""
        total = 0.0
        for seed in workload.seeds:
            times = workload.times_us(rate_rps, seed, self.served.model)
            total += self.most_in_time(lambda: times) / len(times) if times else 1.0  # noqa: B023
        return total / len(workload.seeds)

    def rates_rps(self) -> list[float]:
        """Steps of CAPACITY_GRID of the fluid limit, to twice that."""
        steps = round(2 / CAPACITY_GRID)
        return [self.fluid_rps * CAPACITY_GRID * step for step in range(1, steps + 1)]

    def capacity_rps(self, workload: Workload, target: float = TARGET) -> float:
        """The highest of rates_rps() at which even the bound reaches `target`; 0.0 when there is none."""
        if not self._fluids:
            return 0.0
        rates = self.rates_rps()
        index = highest_reached(
            rates, self.fluid_rps, lambda index: self.attainment(rates[index], workload) >= target
        )
        return rates[index] if index >= 0 else 0.0


def _fluid(servers: Sequence[PipelineServer], arrivals_us: Iterable[int]) -> float:
    return divisible(
        [server.frame_us for server in servers], [server.window_us for server in servers], arrivals_us
    )


def _whole_number(served: float) -> int:
    """Frames are whole. What the sums' rounding may have lost is given back first."""
    return math.floor(served * (1 + 1e-9) + 1e-6)


def _least_ends_us(served: ServedModel, pipeline: ServedPipeline) -> tuple[int, int]:
    """The least time of a planned frame before its first stage and after its last."""
    entry, ends = served.entry, pipeline.ends
    if entry is None or ends is None:
        return 0, 0
    prepare_us = entry.prepare.us(entry.frame_pixels, entry.frame_bytes)
    in_us = ends.ingress_us + ends.ingress_us_per_byte * entry.frame_bytes + prepare_us
    back_us = (finish + answer for finish, answer in zip(ends.finish_us, ends.answer_us, strict=True))
    return math.floor(in_us), min(back_us)


def _entry_server(served: ServedModel) -> PipelineServer | None:
    """The entry's uplink, with a window as wide as the fastest pipeline leaves."""
    if served.entry is None:
        return None
    rest_us, frame_us = served.slo_us, math.inf
    for pipeline in served.pipelines:
        assert pipeline.ends is not None
        in_us, back_us = _least_ends_us(served, pipeline)
        stages_us = sum(min(stage.latency_us) for stage in pipeline.stages)
        rest_us = min(rest_us, in_us + back_us + stages_us + sum(min(hop) for hop in pipeline.transfer_us))
        frame_us = min(frame_us, pipeline.ends.entry_us_per_byte * served.entry.frame_bytes)
    if frame_us <= 0:
        return None
    return PipelineServer(frame_us=frame_us, window_us=float(max(0, served.slo_us - rest_us)) + frame_us)


def _resources(pipeline: ServedPipeline, in_us: int = 0, back_us: int = 0) -> list[Resource]:
    """The workers of every stage, then the uplinks of every hop that takes time. in_us, back_us: the least
    time before the first stage and after the last.
    """
    stage_us = [min(stage.latency_us) for stage in pipeline.stages]
    hop_us = [min(hop) for hop in pipeline.transfer_us]
    found = [
        Resource(
            count=len(stage.workers),
            before_us=in_us + sum(stage_us[:s]) + sum(hop_us[:s]),
            after_us=back_us + sum(stage_us[s + 1 :]) + sum(hop_us[s:]),
        )
        for s, stage in enumerate(pipeline.stages)
    ]
    found += [
        Resource(
            count=len({worker.uplink for worker in pipeline.stages[h].workers}),
            before_us=in_us + sum(stage_us[: h + 1]) + sum(hop_us[:h]),
            after_us=back_us + sum(stage_us[h + 1 :]) + sum(hop_us[h + 1 :]),
        )
        for h in _timed_hops(pipeline)
    ]
    return found


def _timed_hops(pipeline: ServedPipeline) -> list[int]:
    return [h for h, hop in enumerate(pipeline.transfer_us) if min(hop) > 0]


def _modes(pipeline: ServedPipeline, slo_us: int) -> list[list[float]]:
    """Time per frame at every resource, for each way to choose batch sizes that the SLO allows."""
    options = [_sizes(stage) for stage in pipeline.stages]
    room_us = slo_us - sum(min(hop) for hop in pipeline.transfer_us)
    hops = [min(us / b for b, us in enumerate(pipeline.transfer_us[h], 1)) for h in _timed_hops(pipeline)]
    if sum(choices[0][0] for choices in options) > room_us:
        return []
    if math.prod(len(choices) for choices in options) > MOST_MODES:
        return [[choices[-1][1] for choices in options] + hops]
    return [
        [share_us for _, share_us in mode] + hops
        for mode in itertools.product(*options)
        if sum(latency_us for latency_us, _ in mode) <= room_us
    ]


def _sizes(stage: ServedStage) -> list[tuple[int, float]]:
    """(latency, latency per frame) of the batch sizes worth having: a longer one costs less per frame."""
    kept: list[tuple[int, float]] = []
    for latency_us, share_us in sorted((us, us / b) for b, us in enumerate(stage.latency_us, 1)):
        if not kept or share_us < kept[-1][1]:
            kept.append((latency_us, share_us))
    return kept


def _servers(pipeline: ServedPipeline, slo_us: int, in_us: int, back_us: int) -> tuple[PipelineServer, ...]:
    """The pipeline as one server at each choice of prices; none where no frame gets through in time."""
    modes = _modes(pipeline, slo_us - in_us - back_us)
    resources = _resources(pipeline, in_us, back_us)
    if not modes or any(resource.count == 0 for resource in resources):
        return ()
    costs = np.array(modes) / np.array([resource.count for resource in resources])
    narrowest = np.zeros(len(resources))
    narrowest[int(costs.min(axis=0).argmax())] = 1.0
    return tuple(_server(resources, costs, prices, slo_us) for prices in (_best_prices(costs), narrowest))


def _server(resources: Sequence[Resource], costs: Any, prices: Any, slo_us: int) -> PipelineServer:
    counted = [resource for resource, price in zip(resources, prices, strict=True) if price > 0]
    return PipelineServer(
        frame_us=float((costs @ prices).min()),
        window_us=float(max(slo_us - resource.before_us - resource.after_us for resource in counted)),
    )


def _best_prices(costs: Any) -> Any:
    """Prices (>= 0, sum 1) at which the cheapest mode costs nearly the most: a matrix game between prices and
    modes, by multiplicative updates."""
    prices = np.full(costs.shape[1], 1.0 / costs.shape[1])
    best, best_cost = prices, 0.0
    scale = 0.5 / costs.max()
    for turn in range(1, PRICE_ROUNDS + 1):
        by_mode = costs @ prices
        mode = int(by_mode.argmin())
        if by_mode[mode] > best_cost:
            best, best_cost = prices, float(by_mode[mode])
        prices = prices * np.exp(costs[mode] * (scale / math.sqrt(turn)))
        prices = prices / prices.sum()
    best = np.where(best < LEAST_PRICE, 0.0, best)
    return best / best.sum()


def _whole_stages(served: ServedModel) -> list[tuple[Resource, int, int]]:
    """(stage, latency, window of starts) of the only pipeline, where only single frames meet the SLO."""
    if len(served.pipelines) != 1:
        return []
    pipeline = served.pipelines[0]
    ends_us = sum(_least_ends_us(served, pipeline))
    least_us = [min(stage.latency_us) for stage in pipeline.stages]
    path_us = ends_us + sum(least_us) + sum(min(hop) for hop in pipeline.transfer_us)
    if path_us > served.slo_us:
        return []
    found = []
    stages = zip(_resources(pipeline), pipeline.stages, least_us, strict=False)
    for resource, stage, latency_us in stages:
        others_us = path_us - latency_us
        batches_fit = any(others_us + us <= served.slo_us for us in stage.latency_us[1:])
        if not batches_fit and resource.count:
            found.append((resource, stage.latency_us[0], served.slo_us - others_us - stage.latency_us[0]))
    return found
