"""What an entry's dispatcher schedules of a model: the workers of the shards that it owns, as one model.

Rules
- Shards are numbered as the manifest lists them; a shard's name is its number.
- Pipelines of which nothing is owned are left out, so programs and chains are numbered anew with the rest.
- Shards of a table between two plans may lack a stage in every pipeline; such a one has nothing to schedule.
- A chain is kept where all of its workers are owned.
- A part without a worker knows what a frame takes its owner, so frames wait for one as long as helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple

from planner.manifest import Chain, ModelEntry
from planner.shards import Shard, shard_of

HOP_US = 1_500
"""Of a call to another entry beside half the round trip of a word: two servers take and give the frame."""


class Fence(NamedTuple):
    """With which term of which shard a worker is used: it refuses who comes with a lower one."""

    shard: str
    term: int


NO_FENCES: Final[Mapping[str, Fence]] = MappingProxyType({})
"""Of a deployment with one entry."""


class OwnedPart(NamedTuple):
    """entry: of the workers that are owned alone, perhaps none. fences: by worker."""

    entry: ModelEntry
    fences: Mapping[str, Fence]


def shard_orders(entry: ModelEntry) -> dict[str, tuple[str, ...]]:
    """By the name of each of its shards, the entries in the order in which they may own it."""
    return {str(number): shard.order for number, shard in enumerate(entry.shards)}


def owned_part(entry: ModelEntry, owned: Mapping[str, int]) -> OwnedPart:
    """`owned`: terms by shard; shards that the model has not are left alone."""
    fences: dict[str, Fence] = {}
    mine: list[Shard] = []
    for number, shard in enumerate(entry.shards):
        term = owned.get(str(number))
        if term is None:
            continue
        mine.append(shard)
        for p, stages in enumerate(shard.workers):
            for s, workers in enumerate(stages):
                pool = entry.served.pipelines[p].stages[s].workers
                fences.update((pool[worker].name, Fence(str(number), term)) for worker in workers)
    if len(mine) == len(entry.shards):
        return OwnedPart(entry, fences)
    whole = _together(mine) if mine else None
    kept = [p for p, stages in enumerate(whole.workers) if all(stages)] if whole else []
    if whole is None or not kept:
        unowned_us = entry.served.fastest_us()
        served = replace(entry.served, planned_rps=0.0, pipelines=(), unowned_us=unowned_us)
        return OwnedPart(replace(entry, served=served, programs=(), chains=()), {})
    part = replace(
        entry,
        served=shard_of(entry.served, whole),
        programs=tuple(entry.programs[p] for p in kept),
        chains=_chains(entry.chains, kept, fences),
    )
    return OwnedPart(part, fences)


def _together(shards: Sequence[Shard]) -> Shard:
    """All of them as one."""
    first, *others = shards
    workers = [[list(numbers) for numbers in stages] for stages in first.workers]
    for shard in others:
        for mine, stages in zip(workers, shard.workers, strict=True):
            for numbers, more in zip(mine, stages, strict=True):
                numbers += more
    return Shard(
        order=first.order,
        throughput_rps=sum(shard.throughput_rps for shard in shards),
        workers=tuple(tuple(tuple(sorted(numbers)) for numbers in stages) for stages in workers),
    )


def _chains(chains: Sequence[Chain], kept: Sequence[int], fences: Mapping[str, Fence]) -> tuple[Chain, ...]:
    return tuple(
        replace(chain, pipeline=kept.index(chain.pipeline))
        for chain in chains
        if chain.pipeline in kept and all(worker in fences for worker in chain.workers)
    )
