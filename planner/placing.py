"""Counts of a plan -> server, GPU id, slice of every worker, and each model's fixed share of each link
direction.

Rules
- A GPU serves one (model, stage position).
- A pool spans two servers where it can: where its class has two servers with room and its workers two GPUs.
- Models keep to as few servers as that allows, because models on one server split its links.
- Shares of one link direction sum to at most 1: every model gets what its planned rate needs and an equal
  part of the rest. A model that sends or receives nothing there has share 0.
- Deterministic: largest first, ties in the order of plan and cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from planner.cluster import Cluster, Server
from planner.link_shares import link_shares
from planner.packing import WorkerId, pack, workers_at
from planner.placement import PlacedWorker, Placement
from planner.plan import ModelPlan, Plan
from planner.pools import plan_by_pool


def place(plan: Plan, cluster: Cluster, deal: bool = False) -> Placement:
    """A placement of the plan's workers on the cluster's servers, pool by pool. `deal`: every pool over as
    many servers as it has GPUs for, so that the loss of one takes as little of each as can be. Raises
    ValueError where they do not fit.
    """
    workers: list[PlacedWorker] = []
    plan, cluster = plan_by_pool(plan, cluster)
    for gpu_class in cluster.gpu_classes:
        servers = cluster.servers_of(gpu_class.name)
        workers += (_deal_class if deal else _place_class)(plan, gpu_class.name, servers)
    order = {model.model: index for index, model in enumerate(plan.models)}
    workers.sort(key=lambda w: (order[w.model], w.pipeline, w.stage, w.worker))
    return Placement(workers=tuple(workers), link_shares=link_shares(plan, workers, cluster))


def _place_class(plan: Plan, gpu: str, servers: Sequence[Server]) -> list[PlacedWorker]:
    """Model by model, largest first: give it servers, spread its positions and pools over them."""
    packed = {model.model: _pack_positions(model, gpu) for model in plan.models}
    needs = {model: sum(map(len, positions)) for model, positions in packed.items()}
    there = sum(server.gpu_count for server in servers)
    if sum(needs.values()) > there:
        raise ValueError(f"the plan uses {sum(needs.values())} GPUs of {gpu}; the cluster has {there}")
    free = {server.name: list(range(server.gpu_count)) for server in servers}
    placed: list[PlacedWorker] = []
    for model in sorted(needs, key=lambda name: -needs[name]):
        taken = {
            name: [free[name].pop(0) for _ in range(count)]
            for name, count in _choose_servers(needs[model], free).items()
        }
        for gpus, bins in zip(_spread(list(map(len, packed[model])), taken), packed[model], strict=True):
            placed += _fill(model, _swap_to_span(bins, [server for server, _ in gpus]), gpus)
    return placed


def _deal_class(plan: Plan, gpu: str, servers: Sequence[Server]) -> list[PlacedWorker]:
    """GPU after GPU, pool after pool, each to the server that has most left."""
    packed = [(model.model, bins) for model in plan.models for bins in _pack_positions(model, gpu)]
    dealt = [(model, members) for model, bins in packed for members in sorted(bins)]
    free = {server.name: list(range(server.gpu_count)) for server in servers}
    if len(dealt) > sum(map(len, free.values())):
        raise ValueError(
            f"the plan uses {len(dealt)} GPUs of {gpu}; the cluster has {sum(map(len, free.values()))}"
        )
    placed: list[PlacedWorker] = []
    for model, members in dealt:
        name = max(free, key=lambda server: len(free[server]))
        placed += _fill(model, [members], [(name, free[name].pop(0))])
    return placed


def _pack_positions(model: ModelPlan, gpu: str) -> list[list[list[WorkerId]]]:
    """Per stage position of this class: the workers of each GPU."""
    depth = max((len(pipeline.stages) for pipeline in model.pipelines), default=0)
    return [pack(workers) for stage in range(depth) if (workers := workers_at(model, stage, gpu))]


def _choose_servers(need: int, free: dict[str, list[int]]) -> dict[str, int]:
    """GPUs to take per server: whole servers while they are needed, then the tightest fit; two servers
    at least.
    """
    room = {name: len(ids) for name, ids in free.items() if ids}
    if need >= 2 and len(room) >= 2 and max(room.values()) >= need:
        first = min((name for name in room if room[name] >= need - 1), key=lambda name: room[name])
        second = min((name for name in room if name != first), key=lambda name: room[name])
        return {first: need - 1, second: 1}
    chosen: dict[str, int] = {}
    while need:
        fitting = [name for name in room if room[name] >= need]
        name = min(fitting, key=lambda n: room[n]) if fitting else max(room, key=lambda n: room[n])
        chosen[name] = min(need, room.pop(name))
        need -= chosen[name]
    return chosen


def _spread(sizes: Sequence[int], taken: dict[str, list[int]]) -> list[list[tuple[str, int]]]:
    """(server, GPU id) per GPU of each position: first two servers for each that has two GPUs, then the
    rest.
    """
    left = {name: list(ids) for name, ids in taken.items()}
    given: list[list[tuple[str, int]]] = [[] for _ in sizes]

    def take(position: int, avoid: Iterable[str]) -> None:
        names = [name for name in left if left[name]]
        other = [name for name in names if name not in set(avoid)]
        name = max(other or names, key=lambda n: len(left[n]))
        given[position].append((name, left[name].pop(0)))

    for position, size in enumerate(sizes):
        if size >= 2:
            take(position, ())
            take(position, [given[position][0][0]])
    for position, size in enumerate(sizes):
        while len(given[position]) < size:
            take(position, [server for server, _ in given[position][-1:]])
    return given


def _swap_to_span(bins: list[list[WorkerId]], servers: Sequence[str]) -> list[list[WorkerId]]:
    """Exchange workers of equal size so that pools of several workers do not sit on one server."""
    bins = [list(members) for members in bins]
    for pool in sorted({worker.pipeline for members in bins for worker in members}):
        if len(_servers_of(pool, bins, servers)) > 1 or _pool_size(pool, bins) < 2:
            continue
        exchange = _find_exchange(pool, bins, servers)
        if exchange is not None:
            (a, i), (b, j) = exchange
            bins[a][i], bins[b][j] = bins[b][j], bins[a][i]
    return bins


def _find_exchange(
    pool: int, bins: list[list[WorkerId]], servers: Sequence[str]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The first exchange that makes `pool` span two servers and leaves no other pool on fewer than before."""
    mine = [
        (a, i)
        for a, members in enumerate(bins)
        for i, worker in enumerate(members)
        if worker.pipeline == pool
    ]
    for a, i in mine:
        for b, members in enumerate(bins):
            for j, other in enumerate(members):
                if servers[b] == servers[a] or other.slices_per_gpu != bins[a][i].slices_per_gpu:
                    continue
                trial = [list(group) for group in bins]
                trial[a][i], trial[b][j] = trial[b][j], trial[a][i]
                before = min(2, len(_servers_of(other.pipeline, bins, servers)))
                if len(_servers_of(other.pipeline, trial, servers)) >= before:
                    return (a, i), (b, j)
    return None


def _servers_of(pool: int, bins: list[list[WorkerId]], servers: Sequence[str]) -> set[str]:
    pairs = zip(bins, servers, strict=True)
    return {server for members, server in pairs if any(worker.pipeline == pool for worker in members)}


def _pool_size(pool: int, bins: list[list[WorkerId]]) -> int:
    return sum(worker.pipeline == pool for members in bins for worker in members)


def _fill(model: str, bins: list[list[WorkerId]], gpus: Sequence[tuple[str, int]]) -> list[PlacedWorker]:
    return [
        PlacedWorker(
            model=model,
            pipeline=worker.pipeline,
            stage=worker.stage,
            worker=worker.worker,
            server=server,
            gpu_id=gpu_id,
            slice_index=slice_index,
        )
        for members, (server, gpu_id) in zip(bins, gpus, strict=True)
        for slice_index, worker in enumerate(members)
    ]
