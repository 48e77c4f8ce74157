"""Each model's fixed share of each server's uplink and downlink: what it needs, and an equal part of
the rest.

Where the way in and out is counted, the entry's link has shares too. Its uplink is for frames to first
stages; what a model's answers to clients take is left out of its share, for they are not reserved one by
one. Its downlink is for answers from last stages; what clients send has come before anything is reserved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from planner.cluster import Cluster, EntryServer
from planner.placement import LinkShare, PlacedWorker
from planner.plan import ModelPlan, Plan
from planner.rates import wire_us


def link_shares(plan: Plan, workers: Sequence[PlacedWorker], cluster: Cluster) -> tuple[LinkShare, ...]:
    """Shares in (model, server) order of first use, the entry's last. Needs come from planned rates, at the
    plan's transfer times between stages, and at what the link carries before the first and after the last.
    """
    up: dict[str, dict[str, float]] = defaultdict(dict)
    down: dict[str, dict[str, float]] = defaultdict(dict)
    gbps = {server.name: server.bandwidth_gbps * cluster.carried_share for server in cluster.servers}
    for worker in workers:
        model = plan.model(worker.model)
        for table, need in (
            (up[worker.server], _need_out(model, worker, gbps[worker.server])),
            (down[worker.server], _need_in(model, worker, gbps[worker.server])),
        ):
            if need is not None:
                table[worker.model] = table.get(worker.model, 0.0) + need
    used = dict.fromkeys((worker.model, worker.server) for worker in workers)
    shares = [
        LinkShare(
            model=model, server=server, uplink=_share(up[server], model), downlink=_share(down[server], model)
        )
        for model, server in used
    ]
    return (*shares, *_entry_shares(plan, cluster))


def _need_out(model: ModelPlan, worker: PlacedWorker, gbps: float) -> float | None:
    """Busy share of its server's uplink that one worker's part of its pipeline's rate takes; None: it sends
    nothing that is counted.
    """
    pipeline = model.pipelines[worker.pipeline]
    if worker.stage < len(pipeline.transfer_us):
        return _need_of_hop(model, worker, worker.stage)
    return (
        None if pipeline.ends is None else _rate_rps(model, worker) * wire_us(model.answer_bytes, gbps) / 1e6
    )


def _need_in(model: ModelPlan, worker: PlacedWorker, gbps: float) -> float | None:
    """The same of its server's downlink."""
    if worker.stage:
        return _need_of_hop(model, worker, worker.stage - 1)
    return None if model.frame is None else _rate_rps(model, worker) * wire_us(model.frame.bytes, gbps) / 1e6


def _rate_rps(model: ModelPlan, worker: PlacedWorker) -> float:
    pipeline = model.pipelines[worker.pipeline]
    return pipeline.throughput_rps / pipeline.stages[worker.stage].workers


def _need_of_hop(model: ModelPlan, worker: PlacedWorker, hop: int) -> float:
    pipeline = model.pipelines[worker.pipeline]
    batches_per_s = pipeline.throughput_rps / pipeline.stages[hop].batch_size
    return batches_per_s / pipeline.stages[worker.stage].workers * pipeline.transfer_us[hop] / 1e6


def _entry_shares(plan: Plan, cluster: Cluster) -> list[LinkShare]:
    return [share for entry in cluster.entries for share in _shares_at(entry, plan, cluster)]


def _shares_at(entry: EntryServer, plan: Plan, cluster: Cluster) -> list[LinkShare]:
    """Of every model whose way in and out is counted, at one entry; of several, each has an equal part."""
    if entry.bandwidth_gbps is None:
        return []
    gbps = entry.bandwidth_gbps * cluster.carried_share
    shared_with_clients = entry.client_bandwidth_gbps is None
    up: dict[str, float] = {}
    down: dict[str, float] = {}
    frames: dict[str, float] = {}
    for model in plan.models:
        if model.frame is not None:
            to_clients = model.answer_bytes if shared_with_clients else 0
            rate_rps = model.throughput_rps / len(cluster.entries)
            up[model.model] = rate_rps * wire_us(model.frame.bytes + to_clients, gbps) / 1e6
            down[model.model] = rate_rps * wire_us(model.answer_bytes, gbps) / 1e6
            frames[model.model] = model.frame.bytes / (model.frame.bytes + to_clients)
    return [
        LinkShare(
            model=name, server=entry.name, uplink=_share(up, name) * frames[name], downlink=_share(down, name)
        )
        for name in up
    ]


def _share(needs: dict[str, float], model: str) -> float:
    if model not in needs:
        return 0.0
    if len(needs) == 1:
        return 1.0
    total = sum(needs.values())
    if total >= 1:
        return needs[model] / total
    return needs[model] + (1 - total) / len(needs)
