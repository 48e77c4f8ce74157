"""Divides a plan's pools into shards, one for each dispatcher that a model needs.

How many: as many as carry the planned rate, and two at least where there are two entries, so that no one end
of a dispatcher stops the model; at most one for each entry, and no more than the pools allow, for a shard has
a worker of every stage of a pipeline.

How: part after part is cut off, each of about an equal part of the throughput that is left. Of a pipeline of
pools n_s with workers of r_s frames/s, a part (a_s) and the rest give

    min_s a_s r_s + min_s (n_s - a_s) r_s  <=  min_s n_s r_s

and what whole workers lose of it is weighed against parts that are not equal. A pipeline with a pool of one
goes to one shard as it is.

Rules
- Workers of a shard are near each other and near its home: servers of the home's host first, then server by
  server, in the same order in every pool.
- Homes go round, so that every entry has about as many shards.
- What dividing costs is what planner.queueing says of the parts, as if no frame were ever passed on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.addresses import same_host
from planner.cluster import Cluster, EntryServer
from planner.plan import ModelPlan, Pipeline, Plan
from planner.pools import by_pool, plan_by_pool
from planner.problem import Demand, Problem
from planner.rates import ends_of, frame_of, worker_rates_rps
from planner.shards import ModelShards, Shard
from planner.surviving import usable_rps

DISPATCHER_LOAD = 0.8
"""The share of what a dispatcher carries at most that is planned with."""
UNEVEN = 0.3
"""What a part that is off its share costs, over the throughput that is lost by cutting."""
MOST_CUTS, _MOST_TOGETHER = 8, 1_000

Sizes = tuple[int, ...]
"""Workers of each pool of a pipeline."""


@dataclass(frozen=True)
class Pools:
    """A pipeline's pools: workers, and frames/s of one of each."""

    sizes: Sizes
    rates: tuple[float, ...]

    def rps(self, sizes: Sizes) -> float:
        """What so many workers give together."""
        return min(size * rate for size, rate in zip(sizes, self.rates, strict=True))

    @property
    def units(self) -> int:
        """Shards that could have a part."""
        return min(self.sizes)


@dataclass(frozen=True)
class _Cut:
    """A part of a pipeline, and what part and rest give."""

    sizes: Sizes
    part_rps: float
    rest_rps: float


def plan_shards(plan: Plan, problem: Problem) -> tuple[ModelShards, ...]:
    """Of every model of a placed plan; none where there is one entry."""
    if len(problem.cluster.entries) == 1:
        return ()
    plan, _ = plan_by_pool(plan, problem.cluster)
    problem = by_pool(problem)
    found: list[ModelShards] = []
    first = 0
    for model, demand in zip(plan.models, problem.demands, strict=True):
        made = _model_shards(plan, model, demand, problem, first)
        first += len(made.shards)
        found.append(made)
    return tuple(found)


def _model_shards(plan: Plan, model: ModelPlan, demand: Demand, problem: Problem, first: int) -> ModelShards:
    profile, entries = problem.profile.model(model.model), problem.cluster.entries
    ends = ends_of(profile, demand, problem.options)
    pools = [
        Pools(
            tuple(stage.workers for stage in pipeline.stages),
            worker_rates_rps(problem.cluster, pipeline.stages, pipeline.transfer_us, ends),
        )
        for pipeline in model.pipelines
    ]
    frame = frame_of(profile, demand) if ends is not None else None
    one_us = 0.0 if frame is None else profile.overheads.dispatch.us(frame.pixels, frame.bytes)
    carried_rps = DISPATCHER_LOAD * 1e6 / one_us if one_us else None
    for_rate = 1 if carried_rps is None else max(1, math.ceil(model.throughput_rps / carried_rps))
    count = min(max(for_rate, 2), len(entries), sum(one.units for one in pools))
    parts = divide(pools, count)
    homes = [entries[(first + number) % len(entries)] for number in range(count)]
    workers = _choose_workers(plan, model, problem.cluster, parts, homes)
    slowed = model.throughput_rps / math.fsum(one.rps(one.sizes) for one in pools)
    shards = tuple(
        Shard(_order(entries, home), slowed * _rps(pools, part), chosen)
        for home, part, chosen in zip(homes, parts, workers, strict=True)
    )
    return ModelShards(
        model=model.model,
        shards=shards,
        for_rate=for_rate,
        dispatcher_rps=carried_rps,
        whole_rps=usable_rps(model, problem),
        divided_rps=math.fsum(usable_rps(_as_model(model, pools, part, slowed), problem) for part in parts),
        assumed=carried_rps is not None and profile.overheads.dispatch.assumed,
    )


def _order(entries: Sequence[EntryServer], home: EntryServer) -> tuple[str, ...]:
    """The entries from the home on, round."""
    at = entries.index(home)
    return tuple(entry.name for entry in (*entries[at:], *entries[:at]))


def _rps(pools: Sequence[Pools], part: Sequence[Sizes]) -> float:
    return math.fsum(one.rps(sizes) for one, sizes in zip(pools, part, strict=True))


def _as_model(model: ModelPlan, pools: Sequence[Pools], part: Sequence[Sizes], slowed: float) -> ModelPlan:
    """The model as if it had these workers alone."""
    pipelines = [
        _with_workers(pipeline, sizes, slowed * one.rps(sizes))
        for pipeline, one, sizes in zip(model.pipelines, pools, part, strict=True)
        if one.rps(sizes) > 0
    ]
    total = math.fsum(pipeline.throughput_rps for pipeline in pipelines)
    return replace(model, pipelines=tuple(pipelines), throughput_rps=total)


def _with_workers(pipeline: Pipeline, sizes: Sizes, rps: float) -> Pipeline:
    stages = [replace(stage, workers=size) for stage, size in zip(pipeline.stages, sizes, strict=True)]
    return replace(pipeline, stages=tuple(stages), throughput_rps=rps)


def divide(pools: Sequence[Pools], count: int) -> list[tuple[Sizes, ...]]:
    """Workers by shard, pipeline and stage. `count` at most the sum of the pipelines' units."""
    left = [one.sizes for one in pools]
    parts = []
    for after in range(count - 1, 0, -1):
        part = _best_part([replace(one, sizes=sizes) for one, sizes in zip(pools, left, strict=True)], after)
        parts.append(part)
        left = [_less(sizes, taken) for sizes, taken in zip(left, part, strict=True)]
    return [*parts, tuple(left)]


def _less(sizes: Sizes, taken: Sizes) -> Sizes:
    return tuple(size - part for size, part in zip(sizes, taken, strict=True))


def _best_part(pools: Sequence[Pools], after: int) -> tuple[Sizes, ...]:
    """The part to cut off where `after` more shards are to be made of the rest."""
    total = _rps(pools, [one.sizes for one in pools])
    share = 1 / (after + 1)
    cuts = [_cuts(one, share) for one in pools]
    while math.prod(map(len, cuts)) > _MOST_TOGETHER:
        longest = max(range(len(cuts)), key=lambda index: len(cuts[index]))
        cuts[longest] = cuts[longest][:-1]
    best = min(
        (chosen for chosen in itertools.product(*cuts) if _leaves_enough(pools, chosen, after)),
        key=lambda chosen: _badness(chosen, total, share),
    )
    return tuple(cut.sizes for cut in best)


def _leaves_enough(pools: Sequence[Pools], chosen: Sequence[_Cut], after: int) -> bool:
    rest = sum(min(_less(one.sizes, cut.sizes)) for one, cut in zip(pools, chosen, strict=True))
    return any(min(cut.sizes) for cut in chosen) and rest >= after


def _badness(chosen: Sequence[_Cut], total: float, share: float) -> float:
    part = math.fsum(cut.part_rps for cut in chosen)
    both = part + math.fsum(cut.rest_rps for cut in chosen)
    return (total - both) / total + UNEVEN * abs(part / total - share)


def _cuts(pools: Pools, share: float) -> list[_Cut]:
    """Nothing, all, one worker of every pool, and what loses least and is nearest to the share."""
    whole = pools.rps(pools.sizes)
    nothing = _Cut(tuple(0 for _ in pools.sizes), 0.0, whole)
    if pools.units == 0:
        return [nothing]
    found = {
        sizes: _Cut(sizes, pools.rps(sizes), pools.rps(_less(pools.sizes, sizes))) for sizes in _levels(pools)
    }
    least = tuple(1 for _ in pools.sizes)

    def badness(cut: _Cut) -> float:
        return (whole - cut.part_rps - cut.rest_rps) / whole + UNEVEN * abs(cut.part_rps / whole - share)

    near = sorted(found.values(), key=badness)[:MOST_CUTS]
    smallest = [found[least]] if least in found and found[least] not in near else []
    return [nothing, _Cut(pools.sizes, whole, 0.0), *near, *smallest]


def _levels(pools: Pools) -> Iterator[Sizes]:
    """The fewest workers of every pool for each rate that one pool can give, one left of each at least."""
    for size, rate in zip(pools.sizes, pools.rates, strict=True):
        for count in range(1, size):
            sizes = tuple(max(1, math.ceil(count * rate / other - 1e-9)) for other in pools.rates)
            if all(part < there for part, there in zip(sizes, pools.sizes, strict=True)):
                yield sizes


def _choose_workers(
    plan: Plan,
    model: ModelPlan,
    cluster: Cluster,
    parts: Sequence[Sequence[Sizes]],
    homes: Sequence[EntryServer],
) -> list[tuple[tuple[tuple[int, ...], ...], ...]]:
    """By shard, pipeline and stage: which workers."""
    place = _Places(plan, model.model, cluster)
    chosen: list[list[list[tuple[int, ...]]]] = [[] for _ in parts]
    for p, pipeline in enumerate(model.pipelines):
        for mine in chosen:
            mine.append([])
        for s, stage in enumerate(pipeline.stages):
            left = list(range(stage.workers))
            for mine, part, home in zip(chosen, parts, homes, strict=True):
                near = sorted(left, key=lambda worker, at=home: place.far(p, s, worker, at, homes))  # type: ignore[misc]
                taken = sorted(near[: part[p][s]])
                mine[p].append(tuple(taken))
                left = [worker for worker in left if worker not in set(taken)]
    return [tuple(tuple(stages) for stages in mine) for mine in chosen]


class _Places:
    """Where a model's workers are."""

    def __init__(self, plan: Plan, model: str, cluster: Cluster) -> None:
        order = {server.name: number for number, server in enumerate(cluster.servers)}
        host = {server.name: same_host(server.host) for server in cluster.servers}
        placed = () if plan.placement is None else plan.placement.workers
        self._at = {
            (one.pipeline, one.stage, one.worker): (order[one.server], host[one.server])
            for one in placed
            if one.model == model
        }

    def far(
        self, pipeline: int, stage: int, worker: int, home: EntryServer, homes: Sequence[EntryServer]
    ) -> tuple[int, int, int]:
        """Smaller for workers that suit this home better."""
        number, host = self._at.get((pipeline, stage, worker), (0, ""))
        mine = same_host(home.host)
        others = {same_host(other.host) for other in homes} - {mine}
        return 0 if host == mine else 2 if host in others else 1, number, worker
