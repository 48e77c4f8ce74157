"""Pools: the servers of one GPU class that are alike, where not all of the class are. Each is planned as a
class of its own, so that large servers are not planned with the slow links of small ones.

Rules
- A pool is planned with its slowest link, its most GPUs on a server and its fewest cores: never with what
  is not there. Servers are of one pool where that takes less than NEAR from all but FEW of their class.
- The planner sees at most MOST_POOLS pools and classes in all: beyond, those become one that lose least.
- A class whose servers are alike is its own pool, of its own name. Others are `T4-x1` and `T4-x4`, by the
  GPUs of a server, or `T4-x1-10gbps` where that does not tell them apart.
- Only the planner takes pools for classes: outside, a stage's `gpu` is a class and its `pool` says which of
  the servers.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.cluster import Cluster, Server
from planner.plan import ModelPlan, Plan, Stage
from planner.problem import Problem
from planner.profile import ModelProfile

NEAR = 1.2
"""Largest ratio of what a server has to what its pool is planned with."""
FEW = 0.2
"""Of a class's GPUs: for so few a pool is not worth its while, such as a last server that is half full."""
MOST_POOLS = 8
"""The MILP grows with the square of the number of classes."""
_Resources = tuple[float, float, float]


@dataclass(frozen=True)
class AlikeServers:
    """Servers of GPU class `gpu` that are planned alike."""

    name: str
    gpu: str
    servers: tuple[Server, ...]


def pools_of(cluster: Cluster) -> tuple[AlikeServers, ...]:
    """Every server's pool, class by class; a class without servers has one empty pool."""
    groups = {one.name: _kinds(cluster.servers_of(one.name)) for one in cluster.gpu_classes}
    while (pair := _to_merge(groups)) is not None:
        gpu, index = pair
        kinds = groups[gpu]
        groups[gpu] = [*kinds[:index], kinds[index] + kinds[index + 1], *kinds[index + 2 :]]
    order = {server.name: index for index, server in enumerate(cluster.servers)}
    found: list[AlikeServers] = []
    for gpu, kinds in groups.items():
        members = [sorted(kind, key=lambda server: order[server.name]) for kind in kinds]
        members.sort(key=lambda kind: [order[server.name] for server in kind[:1]])
        taken = {*groups, *(pool.name for pool in found)}
        names = _names(gpu, members, taken) if len(members) > 1 else [gpu]
        found += [AlikeServers(name, gpu, tuple(group)) for name, group in zip(names, members, strict=True)]
    return tuple(found)


def by_pool(problem: Problem) -> Problem:
    """The problem with a class for each pool; itself where every class is one pool."""
    pools = pools_of(problem.cluster)
    if all(pool.name == pool.gpu for pool in pools):
        return problem
    models = tuple(_profile_by_pool(model, pools) for model in problem.profile.models)
    options = problem.options

    def by_pool_of(stated: Mapping[str, float]) -> Mapping[str, float]:
        return {pool.name: stated[pool.gpu] for pool in pools if pool.gpu in stated}

    return replace(
        problem,
        cluster=_cluster_by_pool(problem.cluster, pools),
        profile=replace(problem.profile, models=models),
        options=replace(
            options, gpu_cost=by_pool_of(options.gpu_cost), expect=options.expect.by_class(by_pool_of)
        ),
    )


def with_classes(plan: Plan, cluster: Cluster) -> Plan:
    """A plan of `by_pool`'s problem with stages of the cluster's classes. Prices and counts stay per pool."""
    gpu_of = {pool.name: pool.gpu for pool in pools_of(cluster)}
    return _restaged(plan, lambda stage: _of_class(stage, gpu_of))


def plan_by_pool(plan: Plan, cluster: Cluster) -> tuple[Plan, Cluster]:
    """The way back: a plan whose stages' `gpu` is a pool, and a cluster with a class for each.

    As they are where a stage's pool is none of this cluster's: a fleet may have changed since, and then the
    plan's classes are all that is left.
    """
    pools = pools_of(cluster)
    known = {pool.name for pool in pools}
    stages = [stage for model in plan.models for pipeline in model.pipelines for stage in pipeline.stages]
    if not any(stage.pool for stage in stages) or any(stage.at not in known for stage in stages):
        return plan, cluster
    return _restaged(plan, lambda stage: replace(stage, gpu=stage.at, pool="")), _cluster_by_pool(
        cluster, pools
    )


def _kinds(servers: Sequence[Server]) -> list[list[Server]]:
    """Servers that are the same in all that is planned with, so that neighbours are near each other."""
    found: dict[_Resources, list[Server]] = {}
    for server in servers:
        found.setdefault(_resources([server]), []).append(server)
    return [found[kind] for kind in sorted(found)] or [[]]


def _to_merge(groups: Mapping[str, Sequence[Sequence[Server]]]) -> tuple[str, int] | None:
    """Class and position of the next pool to become one with its neighbour: the pair that loses least. None
    where each would lose more than FEW, and pools are few enough.
    """
    pairs = [
        (_lost(first, second) / sum(server.gpu_count for kind in members for server in kind), gpu, index)
        for gpu, members in groups.items()
        for index, (first, second) in enumerate(itertools.pairwise(members))
    ]
    if not pairs:
        return None
    share, gpu, index = min(pairs)
    return (gpu, index) if share <= FEW or sum(map(len, groups.values())) > MOST_POOLS else None


def _lost(first: Sequence[Server], second: Sequence[Server]) -> int:
    """GPUs that would be planned with less than what they have, if both were one pool."""
    one = _resources([*first, *second])
    return sum(
        server.gpu_count
        for server in (*first, *second)
        if any(has > NEAR * of_pool for has, of_pool in zip(_resources([server]), one, strict=True))
    )


def _resources(servers: Sequence[Server]) -> _Resources:
    """What a pool is planned with: Gbit/s for each GPU, Gbit/s, cores for each GPU."""
    gbps = min(server.bandwidth_gbps for server in servers)
    gpus = max(server.gpu_count for server in servers)
    cores = min((server.cores for server in servers if server.cores is not None), default=math.inf)
    return gbps / gpus, gbps, cores / gpus


def _names(gpu: str, members: Sequence[Sequence[Server]], taken: set[str]) -> list[str]:
    """The shortest that tell the pools apart, and that nothing else has."""
    sizes = [f"{gpu}-x{max(server.gpu_count for server in group)}" for group in members]
    again = Counter(sizes)
    links = [f"-{min(server.bandwidth_gbps for server in group):g}gbps" for group in members]
    names = [size + (link if again[size] > 1 else "") for size, link in zip(sizes, links, strict=True)]
    if len(set(names)) == len(names) and not taken.intersection(names):
        return names
    numbered = (f"{gpu}-pool{number}" for number in itertools.count(1))
    free = (name for name in numbered if name not in taken)
    return list(itertools.islice(free, len(members)))


def _cluster_by_pool(cluster: Cluster, pools: Sequence[AlikeServers]) -> Cluster:
    pool_of = {server.name: pool.name for pool in pools for server in pool.servers}
    return replace(
        cluster,
        gpu_classes=tuple(replace(cluster.gpu_class(pool.gpu), name=pool.name) for pool in pools),
        servers=tuple(replace(server, gpu=pool_of[server.name]) for server in cluster.servers),
    )


def _profile_by_pool(profile: ModelProfile, pools: Sequence[AlikeServers]) -> ModelProfile:
    tables = [
        replace(table, gpu=pool.name) for pool in pools for table in profile.tables if table.gpu == pool.gpu
    ]
    return replace(profile, tables=tuple(tables))


def _of_class(stage: Stage, gpu_of: Mapping[str, str]) -> Stage:
    gpu = gpu_of[stage.gpu]
    return replace(stage, gpu=gpu, pool="" if gpu == stage.gpu else stage.gpu)


def _restaged(plan: Plan, change: Callable[[Stage], Stage]) -> Plan:
    models: list[ModelPlan] = []
    for model in plan.models:
        pipelines = tuple(
            replace(pipeline, stages=tuple(map(change, pipeline.stages))) for pipeline in model.pipelines
        )
        models.append(replace(model, pipelines=pipelines))
    return replace(plan, models=tuple(models))
