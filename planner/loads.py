"""How busy a placed plan keeps each server's link in, link out and cores, at the planned rates.

A pool's rate is shared by its workers alike. Links are counted in bytes, against what they carry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from planner.placement import PlacedWorker, Placement
from planner.plan import Plan
from planner.problem import Problem
from planner.rates import ends_of, wire_us

LINK_IN, LINK_OUT, CORES = "link in", "link out", "cores"


def server_loads(plan: Plan, placement: Placement, problem: Problem) -> Mapping[str, Mapping[str, float]]:
    """Share in use, by server and resource; 1 is all of it. Cores that are not modelled are left out."""
    loads: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    servers = {server.name: server for server in problem.cluster.servers}
    for worker in placement.workers:
        server = servers[worker.server]
        gbps = server.bandwidth_gbps * problem.cluster.carried_share
        bytes_in, bytes_out, core_us = _per_frame(plan, problem, worker)
        pipeline = plan.model(worker.model).pipelines[worker.pipeline]
        rate_rps = pipeline.throughput_rps / pipeline.stages[worker.stage].workers
        mine = loads[worker.server]
        mine[LINK_IN] += rate_rps * wire_us(bytes_in, gbps) / 1e6
        mine[LINK_OUT] += rate_rps * wire_us(bytes_out, gbps) / 1e6
        if server.cores is not None:
            mine[CORES] += rate_rps * core_us / 1e6 / server.cores
    return loads


def _per_frame(plan: Plan, problem: Problem, worker: PlacedWorker) -> tuple[int, int, float]:
    """Bytes in, bytes out, and time on a core, of one frame at this worker's stage."""
    profile = problem.profile.model(worker.model)
    demand = next(demand for demand in problem.demands if demand.model == worker.model)
    ends = ends_of(profile, demand, problem.options)
    stages = plan.model(worker.model).pipelines[worker.pipeline].stages
    blocks = stages[worker.stage].blocks
    first, last = worker.stage == 0, worker.stage == len(stages) - 1
    bytes_in = 0 if first else profile.cut_bytes[blocks.start - 1]
    bytes_out = 0 if last else profile.cut_bytes[blocks.end - 1]
    if ends is None:
        return bytes_in, bytes_out, 0.0
    core_us = ends.prepare_us * first + ends.finish_us * last
    return bytes_in + ends.frame_bytes * first, bytes_out + ends.answer_bytes * last, core_us
