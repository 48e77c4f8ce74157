"""Shards of a table between two plans, which is neither of them whole (planner.rollout.tables).

Rules
- A worker stays in the shard that the new plan puts it in; one that only the old plan has, in that one's.
- Of a pipeline a shard has a worker of every stage, or none. Workers of shards that would lack one go to a
  shard that has all: to the one with fewest there.
- Where no shard has all, one gets the pipeline: that which has most of it.
- There are as many shards as the new plan has. Some may have nothing for a while; their entries pass on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.serving import ServedModel, ServedPipeline
from planner.shards import Shard

_Taken = list[list[tuple[int, ...]]]
"""Workers by shard and stage."""


def shards_between(
    table: ServedModel,
    wanted: tuple[ServedModel, Sequence[Shard]],
    older: tuple[ServedModel, Sequence[Shard]],
) -> tuple[Shard, ...]:
    """Of `table`, whose workers are of one or the other; none where the new plan has none."""
    model, shards = wanted
    if table == model or not shards:
        return tuple(shards)
    home = {worker: shard % len(shards) for worker, shard in _homes(*older).items()} | _homes(*wanted)
    parts = [_divided(pipeline, home, len(shards)) for pipeline in table.pipelines]
    rates = [
        math.fsum(_rps(one, part[shard]) for one, part in zip(table.pipelines, parts, strict=True))
        for shard in range(len(shards))
    ]
    scale = table.planned_rps / math.fsum(rates)
    return tuple(
        replace(
            shard,
            throughput_rps=rates[number] * scale,
            workers=tuple(tuple(part[number]) for part in parts),
        )
        for number, shard in enumerate(shards)
    )


def _homes(model: ServedModel, shards: Sequence[Shard]) -> dict[str, int]:
    """By worker: its shard's number."""
    return {
        model.pipelines[p].stages[s].workers[worker].name: number
        for number, shard in enumerate(shards)
        for p, stages in enumerate(shard.workers)
        for s, workers in enumerate(stages)
        for worker in workers
    }


def _divided(pipeline: ServedPipeline, home: Mapping[str, int], count: int) -> _Taken:
    taken = [
        [
            tuple(n for n, worker in enumerate(stage.workers) if home.get(worker.name, 0) == shard)
            for stage in pipeline.stages
        ]
        for shard in range(count)
    ]
    whole = [shard for shard in range(count) if all(taken[shard])]
    if not whole:
        whole = [max(range(count), key=lambda shard: sum(map(bool, taken[shard])))]
    for shard in set(range(count)) - set(whole):
        for s, workers in enumerate(taken[shard]):
            for worker in workers:
                to = min(whole, key=lambda other: len(taken[other][s]))
                taken[to][s] = tuple(sorted((*taken[to][s], worker)))
        taken[shard] = [() for _ in pipeline.stages]
    return taken


def _rps(pipeline: ServedPipeline, stages: Sequence[Sequence[int]]) -> float:
    """Frames/s of these workers at the planned batch."""
    batch = pipeline.batch_size
    return min(
        len(workers) * batch * 1e6 / stage.latency_us[batch - 1]
        for workers, stage in zip(stages, pipeline.stages, strict=True)
    )
