"""Time and throughput of stages and hops: the one place that holds the paper's arithmetic.

Rules
- Latencies are microseconds for a whole batch; rates are frames/s.
- A stage takes the sum of its blocks plus the profile's per-stage overhead.
- A hop moves `batch` frames: bytes * 8 / bandwidth, plus the profile's per-hop and per-byte overhead.
- All workers of a server may send at once: one worker plans with 1 / (slices * GPUs per server) of the link.
- First input and last output are counted where PlanOptions.count_ends says so. A frame then comes over the
  entry's link and the first stage's server's, is prepared there, one frame on a core at a time, and answers
  are finished and go back alike. One worker plans with 1 / (slices * GPUs per server) of its server's link
  in, link out and cores; no transfer is stretched by that, only the rate is bounded.
- Links carry Cluster.carried_share of their bandwidth. A way in or out holds links for its bytes alone.
- Where the ends are counted, a link is planned with the share of it that random arrivals can use
  (planner.usable), the room for frames that wait being what the margin leaves. With a loss share it is so at
  the entry alone: what waits for workers and their servers' links is then a matter of planner.queueing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.cluster import Cluster
from planner.expectation import Expectation, jitter_of, slowdown_of
from planner.frames import NO_COST, FrameSize
from planner.plan import BlockRange, Pipeline, PlannedEnds, Stage
from planner.problem import Demand, PlanOptions
from planner.profile import LatencyTable, ModelProfile
from planner.usable import usable_of_link

KEPT_DEVIATIONS = 2.054
"""98 % of a normal distribution, the quantile of lateness that the scheduler's guard keeps free."""
LATE_SHARE = 0.01
"""Of frames that may be late, where options do not say so."""
LEAST_WAIT, LEFT_BY_PIPELINES = 0.1, 0.4
"""Of the SLO: what is left for links even without a margin, since few pipelines take all that they may; and
what pipelines leave with a loss share, whose margins are no measure of it."""
MIN_STAGE_US = 1.0
"""No stage is planned faster than this, so that a block measured as 0 us does not make its GPU
infinitely fast.
"""


def margin_of(demand: Demand, options: PlanOptions) -> float:
    """The share of the SLO that the plan leaves unused for this model."""
    return options.slo_margin if demand.slo_margin is None else demand.slo_margin


def budget_us(demand: Demand, options: PlanOptions) -> int:
    """Time that a frame may take: the SLO, less what being passed on takes of it, less the margin, which is
    rounded to a whole microsecond.
    """
    return demand.own_us - round(margin_of(demand, options) * demand.own_us)


def link_wait_us(demand: Demand, options: PlanOptions) -> float:
    """How long a frame may wait for links."""
    least = LEAST_WAIT if options.loss_share is None else LEFT_BY_PIPELINES
    return demand.slo_us * max(least, margin_of(demand, options))


def late_share(demand: Demand, options: PlanOptions) -> float:
    """Of a model's frames, how many may be late."""
    loss = LATE_SHARE if options.loss_share is None else options.loss_share
    return loss * demand.flow.loss_part


def batch_build_us(batch_size: int, factor: float, rate_rps: float | None, bunch: float = 1.0) -> float:
    """How long the first frame of a batch is assumed to wait for the others; 0 without a rate. Of frames that
    come in bunches only those beyond the bunch are waited for.
    """
    if batch_size <= bunch or not rate_rps:
        return 0.0
    return factor * 1e6 * (batch_size - bunch) / rate_rps


def bunch_us(batch_size: int, slowest_us: float, rate_rps: float | None, bunch: float) -> float:
    """How long the last frames of a bunch larger than a batch wait until those before them are served: at the
    model's rate, or by one worker of each stage, the slowest of which takes so long for a batch, if that is
    faster. 0 without a rate.
    """
    if batch_size >= bunch or not rate_rps:
        return 0.0
    return (bunch - batch_size) * min(slowest_us / batch_size, 1e6 / rate_rps)


def timed_stage(
    profile: ModelProfile, blocks: BlockRange, gpu: str, slices_per_gpu: int, batch_size: int, workers: int
) -> Stage:
    """A stage with the latency that the profile gives it."""
    return Stage(
        blocks=blocks,
        gpu=gpu,
        slices_per_gpu=slices_per_gpu,
        batch_size=batch_size,
        workers=workers,
        latency_us=stage_latency_us(profile, blocks.start, blocks.end, gpu, slices_per_gpu, batch_size),
    )


def stage_latency_us(
    profile: ModelProfile, start: int, end: int, gpu: str, slices_per_gpu: int, batch_size: int
) -> float:
    """A batch through blocks [start, end) on one worker. Raises KeyError where it was not profiled."""
    table = profile.table(gpu, slices_per_gpu)
    if table is None or batch_size not in table.batch_sizes:
        raise KeyError(
            f"{profile.model} is not profiled on {gpu} in {slices_per_gpu} slices at batch {batch_size}"
        )
    column = table.batch_sizes.index(batch_size)
    blocks_us = sum(row[column] for row in table.latency_us[start:end])
    return max(MIN_STAGE_US, profile.overheads.stage_us + blocks_us)


def block_deviations_us(table: LatencyTable, batch_size: int, expect: Expectation) -> list[float]:
    """Standard deviation of each block's latency. Blocks of a stage vary together: a stage's is their sum."""
    column = table.batch_sizes.index(batch_size)
    return [
        row[column] * jitter_of(table, block, batch_size, expect)
        for block, row in enumerate(table.latency_us)
    ]


def block_errors_us(table: LatencyTable, batch_size: int, expect: Expectation) -> list[float]:
    """Standard deviation of each block's error, anything up to Expectation's slowdown being as likely. Blocks
    err independently: a stage's variance is the sum of theirs.
    """
    column, most = table.batch_sizes.index(batch_size), slowdown_of(table, expect)
    return [row[column] * most / math.sqrt(3) for row in table.latency_us]


def variation_us(profile: ModelProfile, stages: Sequence[Stage], options: PlanOptions) -> float:
    """Kept of the SLO because stages do not always take what they take on average, nor what the profile says:
    KEPT_DEVIATIONS standard deviations of the sum of all stages', which vary independently. 0 without
    PlanOptions.loss_share.
    """
    if options.loss_share is None:
        return 0.0
    variance = 0.0
    for stage in stages:
        table = profile.table(stage.gpu, stage.slices_per_gpu)
        assert table is not None
        blocks = slice(stage.blocks.start, stage.blocks.end)
        variance += sum(block_deviations_us(table, stage.batch_size, options.expect)[blocks]) ** 2
        errors = block_errors_us(table, stage.batch_size, options.expect)[blocks]
        variance += sum(error**2 for error in errors)
    return KEPT_DEVIATIONS * math.sqrt(variance)


def transfer_us(profile: ModelProfile, cut: int, batch_size: int, bandwidth_gbps: float) -> float:
    """`batch_size` frames across the cut after block `cut` over a link of `bandwidth_gbps`."""
    bytes_moved = batch_size * profile.cut_bytes[cut]
    on_wire = wire_us(bytes_moved, bandwidth_gbps)
    return on_wire + profile.overheads.hop_us + bytes_moved * profile.overheads.hop_us_per_byte


def link_rate_rps(hop_us: float, batch_size: int, slices_per_gpu: int, gpus_per_server: int) -> float:
    """Frames/s that one worker's share of its server's link carries when a batch takes `hop_us`."""
    if hop_us <= 0:
        return float("inf")
    return 1e6 * batch_size / hop_us / slices_per_gpu / gpus_per_server


@dataclass(frozen=True)
class LinkRoom:
    """How long frames may wait for a server's link, and how many of them may be late."""

    wait_us: float
    loss: float

    def usable(self, frame_us: float, servers: int) -> float:
        """The share of its link that a server may use, frames taking `frame_us` of it. Frames wait for any of
        the class's servers; other models may have some of them, so room is counted as of their square root.
        """
        return usable_of_link(self.wait_us * math.sqrt(max(1, servers)), frame_us, self.loss)


@dataclass(frozen=True)
class FrameEnds:
    """One frame of a model outside the stages: bytes in and out; time on one core to prepare it, to finish
    its answer, and on the entry.
    """

    frame_bytes: int
    answer_bytes: int
    prepare_us: float
    finish_us: float
    entry_us: float
    hop_us: float
    hop_us_per_byte: float
    from_clients: bool = True
    """Not made at the entry of another model's answers."""
    room: LinkRoom | None = None
    """Of servers' links; None: all of a link counts."""

    def usable(self, cluster: Cluster, gpu: str, frame_us: float) -> float:
        """The share of a server's link that frames which take `frame_us` of it may use."""
        return 1.0 if self.room is None else self.room.usable(frame_us, len(cluster.servers_of(gpu)))


def ends_of(profile: ModelProfile, demand: Demand, options: PlanOptions) -> FrameEnds | None:
    """What the way in and out of a model's frames costs; None where it is not counted. Raises ValueError
    where nothing says what clients send.
    """
    if not options.count_ends:
        return None
    frame = frame_of(profile, demand)
    answer = demand.answer_bytes
    if answer is None:
        answer = sum(spec.bytes_per_frame for spec in profile.outputs)
    overheads = profile.overheads
    prepare = profile.prepare or NO_COST
    return FrameEnds(
        frame_bytes=frame.bytes,
        answer_bytes=answer,
        prepare_us=prepare.us(frame.pixels, frame.bytes),
        finish_us=profile.finish_us,
        entry_us=overheads.entry.us(frame.pixels, frame.bytes),
        hop_us=overheads.hop_us,
        hop_us_per_byte=overheads.hop_us_per_byte,
        from_clients=not demand.flow.inside,
        room=None
        if options.loss_share is not None
        else LinkRoom(link_wait_us(demand, options), late_share(demand, options)),
    )


def frame_of(profile: ModelProfile, demand: Demand) -> FrameSize:
    """What clients send: as demanded, else the network's inputs. Raises ValueError."""
    if demand.frame is not None:
        return demand.frame
    if not profile.inputs:
        where = f"demand for {demand.model}: frame is missing"
        raise ValueError(f"{where}, and the profile does not know the network's inputs; give its bytes")
    return FrameSize(0, 0, sum(spec.bytes_per_frame for spec in profile.inputs))


def wire_us(size: float, gbps: float) -> float:
    """So many bytes on a link that carries so much."""
    return size * 8 / (gbps * 1e9) * 1e6


def on_cores_us(frame_us: float, batch_size: int, cores: float) -> float:
    """A batch whose frames take `frame_us` of a core each, on idle cores."""
    return frame_us * max(1, math.ceil(batch_size / cores))


def planned_ends(
    cluster: Cluster, ends: FrameEnds, first: tuple[str, int], last: tuple[str, int]
) -> PlannedEnds:
    """What a batch takes on its way in and out. first, last: GPU class and batch size of these stages."""
    (first_gpu, frames), (last_gpu, answers) = first, last
    return PlannedEnds(
        ingress_us=end_us(ends, frames * ends.frame_bytes, cluster.entry_gbps(first_gpu)),
        prepare_us=on_cores_us(ends.prepare_us, frames, cluster.cores_per_server(first_gpu)),
        finish_us=on_cores_us(ends.finish_us, answers, cluster.cores_per_server(last_gpu)),
        egress_us=end_us(ends, answers * ends.answer_bytes, cluster.entry_gbps(last_gpu)),
    )


def end_us(ends: FrameEnds, size: int, gbps: float) -> float:
    """So many bytes over the entry's link and a server's."""
    return wire_us(size, gbps) + ends.hop_us + size * ends.hop_us_per_byte


def end_rate_rps(
    cluster: Cluster, ends: FrameEnds, gpu: str, slices_per_gpu: int, is_first: bool, is_last: bool
) -> float:
    """Frames/s of one worker by its share of its server's link in, link out and cores, of which only the
    way in and out of the model counts here.
    """
    sharing = slices_per_gpu * cluster.gpus_per_server(gpu)
    gbps = cluster.bandwidth_gbps(gpu, gpu)
    needs_us = [
        _planned_us(cluster, ends, gpu, wire_us(ends.frame_bytes, gbps)) if is_first else 0.0,
        _planned_us(cluster, ends, gpu, wire_us(ends.answer_bytes, gbps)) if is_last else 0.0,
        (ends.prepare_us * is_first + ends.finish_us * is_last) / cluster.cores_per_server(gpu),
    ]
    busy_us = max(needs_us)
    return 1e6 / busy_us / sharing if busy_us > 0 else math.inf


def _planned_us(cluster: Cluster, ends: FrameEnds, gpu: str, frame_us: float) -> float:
    """What a frame takes of a server's link, and its part of the time that must stay free."""
    return frame_us / ends.usable(cluster, gpu, frame_us)


def worker_rates_rps(
    cluster: Cluster, stages: Sequence[Stage], hops_us: Sequence[float], ends: FrameEnds | None = None
) -> tuple[float, ...]:
    """Frames/s of one worker of each stage: the least of its compute, its link in and its link out, and of
    its share of cores.
    """
    rates = []
    for index, stage in enumerate(stages):
        rate = 1e6 * stage.batch_size / max(MIN_STAGE_US, stage.latency_us)
        for hop in (index - 1, index):
            if 0 <= hop < len(hops_us):
                share = cluster.gpus_per_server(stage.gpu)
                # A hop carries the sender's batch.
                batch_size = stages[hop].batch_size
                carried = link_rate_rps(hops_us[hop], batch_size, stage.slices_per_gpu, share)
                if ends is not None:
                    carried *= ends.usable(cluster, stage.gpu, hops_us[hop] / batch_size)
                rate = min(rate, carried)
        if ends is not None:
            at = (index == 0, index == len(stages) - 1)
            rate = min(rate, end_rate_rps(cluster, ends, stage.gpu, stage.slices_per_gpu, *at))
        rates.append(rate)
    return tuple(rates)


def hops_us(profile: ModelProfile, cluster: Cluster, stages: Sequence[Stage]) -> tuple[float, ...]:
    """Transfer time after each stage but the last, for the sender's whole batch."""
    return tuple(
        transfer_us(
            profile,
            sender.blocks.end - 1,
            sender.batch_size,
            cluster.bandwidth_gbps(sender.gpu, receiver.gpu),
        )
        for sender, receiver in itertools.pairwise(stages)
    )


def assemble(
    profile: ModelProfile, cluster: Cluster, stages: Sequence[Stage], ends: FrameEnds | None = None
) -> Pipeline:
    """The pipeline of these stages, hops and throughput computed; the stages' latencies are taken as they
    are.
    """
    hops = hops_us(profile, cluster, stages)
    rates = worker_rates_rps(cluster, stages, hops, ends)
    throughput = min(stage.workers * rate for stage, rate in zip(stages, rates, strict=True))
    return Pipeline(
        stages=tuple(stages),
        transfer_us=hops,
        throughput_rps=throughput,
        ends=None if ends is None else _ends_of_stages(cluster, ends, stages),
    )


def _ends_of_stages(cluster: Cluster, ends: FrameEnds, stages: Sequence[Stage]) -> PlannedEnds:
    first, last = stages[0], stages[-1]
    return planned_ends(cluster, ends, (first.gpu, first.batch_size), (last.gpu, last.batch_size))
