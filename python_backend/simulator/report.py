"""One simulation and what came of it.

Use:
    report = simulate(served, rate_rps=600.0, policy="adaptive", workload=Workload(seeds=(1,)))
    print(report.attainment, report.latency_p99_us)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from planner import serial
from planner.serving import ServedModel
from planner.streams import StreamPolicy
from python_backend.scheduler.actions import Action
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.event_log import EventLog, LogHeader
from python_backend.scheduler.events import Event
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.bound import Bound
from python_backend.simulator.capacity import Workload
from python_backend.simulator.counts import SimulatedCounts
from python_backend.simulator.driver import SimulatedDriver

Observer = Callable[[Event, int, list[Action]], None]


@dataclass(frozen=True)
class PoolUse:
    """One pool: how many workers it has and what share of the time with arrivals they were busy."""

    pipeline: int
    stage: int
    gpu: str
    slices_per_gpu: int
    workers: int
    utilisation: float


@dataclass(frozen=True)
class SimulationReport:
    """What one model served. Late frames and drops both count against attainment.

    batch_sizes: batches sent by size. utilisation: busy share of the GPUs that the plan gave the model, by
    class. decision_us: mean and 99th percentile of the wall time of one scheduling decision.
    frames_per_cpu_s: speed of the simulation. bound_in_time: what no schedule could exceed on these arrivals
    (None: not asked for, or latencies vary); share_of_bound: in_time over it.
    """

    model: str
    policy: str
    arrivals: str
    rate_rps: float
    seconds: float
    seed: int
    offered: int
    in_time: int
    late: int
    drops: Mapping[str, int]
    attainment: float
    goodput_rps: float
    latency_p50_us: float
    latency_p90_us: float
    latency_p99_us: float
    batch_sizes: Mapping[str, int]
    utilisation: Mapping[str, float]
    pools: tuple[PoolUse, ...]
    decision_mean_us: float
    decision_p99_us: float
    frames_per_cpu_s: float
    bound_in_time: int | None = None
    share_of_bound: float | None = None
    streams: int = 0
    superseded: int = 0
    """Frames that a newer one of their stream made worthless; attainment is of the others."""
    jain: float | None = None
    """Of goodput over weight of the streams; None without streams."""


def simulate(
    served: ServedModel,
    rate_rps: float,
    policy: str = "adaptive",
    workload: Workload | None = None,
    observe: Observer | None = None,
    progress: Callable[[int], None] | None = None,
    bound: bool = False,
    log: EventLog | None = None,
) -> SimulationReport:
    """Serve `rate_rps` frames/s with the workload's first seed. `progress(now_us)` is called now and then;
    with `bound` the most that any schedule could serve is found too. `observe` sees all that the core is told
    and answers; `log` writes it down, where there is no `observe`.

    Raises ArrivalError, ValueError (unknown policy, model without a pipeline).
    """
    workload = workload or Workload(seeds=(1,))
    seed = workload.seeds[0]
    core = SchedulerCore(served, policy)
    arrivals = parse_arrivals(workload.arrivals, rate_rps).times_us(workload.seconds, seed, served.model)
    if log is not None:
        log.begin(LogHeader(served.model, policy, 0, True, serial.to_plain(served)))
    driver = SimulatedDriver(
        served,
        core,
        workload.execution(served, seed),
        observe or log,
        progress,
        time_decisions=True,
        frame_bytes=workload.frame_bytes(served, seed),
        places=workload.places(),
    )
    started = time.process_time()
    counts = driver.run(arrivals)
    report = _report(served, policy, workload, rate_rps, counts, time.process_time() - started)
    if driver.streams is not None:
        weights = served.streams or StreamPolicy()
        report = replace(report, streams=len(driver.streams.streams), jain=driver.streams.jain(weights))
    if not (bound and workload.exact):
        return report
    process = parse_arrivals(workload.arrivals, rate_rps)
    most = Bound(served).most_in_time(lambda: process.times_us(workload.seconds, seed, served.model))
    return replace(report, bound_in_time=most, share_of_bound=report.in_time / most if most else 1.0)


def _report(
    served: ServedModel,
    policy: str,
    workload: Workload,
    rate_rps: float,
    counts: SimulatedCounts,
    cpu_s: float,
) -> SimulationReport:
    pools = tuple(_pools(served, counts, workload.seconds))
    return SimulationReport(
        model=served.model,
        policy=policy,
        arrivals=workload.arrivals,
        rate_rps=rate_rps,
        seconds=workload.seconds,
        seed=workload.seeds[0],
        offered=counts.offered,
        in_time=counts.in_time,
        late=counts.late,
        superseded=counts.superseded,
        drops={reason.value: count for reason, count in counts.drops.items() if count},
        attainment=counts.attainment(),
        goodput_rps=counts.in_time / workload.seconds,
        latency_p50_us=counts.latency_us(0.5),
        latency_p90_us=counts.latency_us(0.9),
        latency_p99_us=counts.latency_us(0.99),
        batch_sizes=_batch_sizes(counts),
        utilisation=_by_class(pools),
        pools=pools,
        decision_mean_us=counts.decision_ns / 1e3 / max(1, counts.decisions),
        decision_p99_us=counts.decision_quantile_us(0.99),
        frames_per_cpu_s=counts.offered / max(cpu_s, 1e-9),
    )


def _pools(served: ServedModel, counts: SimulatedCounts, seconds: float) -> Iterator[PoolUse]:
    for p, pipeline in enumerate(served.pipelines):
        for s, stage in enumerate(pipeline.stages):
            available_us = seconds * 1e6 * len(stage.workers)
            yield PoolUse(
                pipeline=p,
                stage=s,
                gpu=stage.gpu,
                slices_per_gpu=stage.slices_per_gpu,
                workers=len(stage.workers),
                utilisation=counts.busy_us[p][s] / available_us if available_us else 0.0,
            )


def _by_class(pools: Iterable[PoolUse]) -> dict[str, float]:
    gpus: dict[str, float] = {}
    busy: dict[str, float] = {}
    for pool in pools:
        share = pool.workers / pool.slices_per_gpu
        gpus[pool.gpu] = gpus.get(pool.gpu, 0.0) + share
        busy[pool.gpu] = busy.get(pool.gpu, 0.0) + share * pool.utilisation
    return {gpu: busy[gpu] / gpus[gpu] for gpu in sorted(gpus) if gpus[gpu] > 0}


def _batch_sizes(counts: SimulatedCounts) -> dict[str, int]:
    totals: dict[int, int] = {}
    for sizes in counts.batches:
        for size, count in enumerate(sizes):
            if count:
                totals[size] = totals.get(size, 0) + count
    return {str(size): totals[size] for size in sorted(totals)}
