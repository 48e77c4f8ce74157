"""Which part of a model's workers each entry's dispatcher schedules. Data only; planner.sharding makes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.cluster import EntryServer
from planner.serving import ServedEntry, ServedHost, ServedLink, ServedModel, ServedPipeline


@dataclass(frozen=True)
class Shard:
    """workers[pipeline][stage]: the numbers, in their pool, of the workers that this shard has; none of a
    pipeline that it has no part of. order: the entries in the order in which they may own it; the first is
    its home. throughput_rps: what its pools give of the planned rate.
    """

    order: tuple[str, ...]
    throughput_rps: float
    workers: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class ModelShards:
    """One model's shards.

    dispatcher_rps: frames/s that one dispatcher carries; None: not modelled. for_rate: how many shards that
    takes. whole_rps, divided_rps: what random arrivals can use of the pools undivided, and of the shards
    where no frame is ever passed on (planner.queueing).
    """

    model: str
    shards: tuple[Shard, ...]
    for_rate: int
    dispatcher_rps: float | None
    whole_rps: float
    divided_rps: float
    assumed: bool = False
    """Whether nobody measured what a dispatcher carries."""

    @property
    def cost(self) -> float:
        """The share of what arrivals could use that dividing takes at most."""
        return max(0.0, 1 - self.divided_rps / self.whole_rps) if self.whole_rps else 0.0

    @property
    def too_few(self) -> bool:
        """Whether its dispatchers do not carry its planned rate."""
        return len(self.shards) < self.for_rate


def owned_shares(shards: Sequence[ModelShards], entries: Sequence[EntryServer]) -> dict[str, list[float]]:
    """By entry: the share of each model's throughput that its own shards have, while every entry serves."""
    return {
        entry.name: [
            math.fsum(shard.throughput_rps for shard in one.shards if shard.order[0] == entry.name)
            / math.fsum(shard.throughput_rps for shard in one.shards)
            for one in shards
        ]
        for entry in entries
    }


class NoShard(ValueError):
    """A shard that could serve nothing; the message says what it lacks."""


def shard_faults(shards: ModelShards, pools: tuple[tuple[int, ...], ...]) -> list[str]:
    """A line for each worker that no shard or several have, and for each shard that lacks a worker of a
    stage. pools[pipeline][stage]: how many workers there are.
    """
    faults = []
    for number, shard in enumerate(shards.shards):
        where = f"{shards.model}, shard {number} of entry {shard.order[0]!r}"
        for p, stages in enumerate(shard.workers):
            lacking = [s for s, workers in enumerate(stages) if not workers]
            if lacking and len(lacking) < len(stages):
                faults.append(
                    f"{where}: no worker of stage {lacking[0]} of pipeline {p}, and workers of its other "
                    "stages; expected one of every stage, or of none"
                )
        if not any(all(stages) for stages in shard.workers):
            faults.append(f"{where}: no worker of every stage of any pipeline; it could serve nothing")
    for p, sizes in enumerate(pools):
        for s, size in enumerate(sizes):
            owned = sorted(worker for shard in shards.shards for worker in shard.workers[p][s])
            if owned != list(range(size)):
                faults.append(
                    f"{shards.model}, pipeline {p}, stage {s}: its shards have workers {owned}; "
                    f"expected each of {size} once"
                )
    return faults


def shard_of(served: ServedModel, shard: Shard) -> ServedModel:
    """What the owner of a shard schedules: its workers alone, and its part of the links that it shares.

    Raises NoShard.
    """
    pipelines = []
    for p, pipeline in enumerate(served.pipelines):
        if all(shard.workers[p]):
            pipelines.append(_part(pipeline, shard.workers[p]))
    if not pipelines:
        raise NoShard(f"model {served.model!r}: a shard without a worker of every stage")
    made = replace(served, planned_rps=shard.throughput_rps, pipelines=tuple(pipelines))
    return replace(made, links=tuple(_links(served, made)), entry=_entry(served, made))


def _part(pipeline: ServedPipeline, workers: tuple[tuple[int, ...], ...]) -> ServedPipeline:
    stages = tuple(
        replace(stage, workers=tuple(stage.workers[number] for number in numbers))
        for stage, numbers in zip(pipeline.stages, workers, strict=True)
    )
    return replace(pipeline, stages=stages)


def _entry(whole: ServedModel, part: ServedModel) -> ServedEntry | None:
    """With the shard's part of the cores that prepare, by its workers over all of the model's there."""
    if whole.entry is None:
        return None
    all_there, mine = _first_at_servers(whole), _first_at_servers(part)
    hosts = [
        ServedHost(host.server, max(1, host.cores * mine[host.server] // all_there[host.server]))
        for host in whole.entry.hosts
        if host.server in mine
    ]
    return replace(whole.entry, hosts=tuple(hosts))


def _first_at_servers(served: ServedModel) -> Counter[str]:
    """Workers of first stages at each server."""
    return Counter(worker.server for one in served.pipelines for worker in one.stages[0].workers)


def _links(whole: ServedModel, part: ServedModel) -> list[ServedLink]:
    """Of each link what the shard's workers there need at most, and an equal part of the rest: any shard of
    the model with workers there may have as much.
    """
    shares = {link.name: link.share for link in whole.links}
    all_there, mine = _needs(whole), _needs(part)
    at_entry = () if whole.entry is None else (whole.entry.uplink, whole.entry.downlink)
    found = [link for link in whole.links if link.name in at_entry]
    for name, need in mine.items():
        there, share = all_there[name], shares.get(name, 1.0)
        if need.workers < there.workers:
            rest = max(0.0, share - there.busy)
            part_of_needs = need.busy if there.busy <= share else share * need.busy / there.busy
            share = max(part_of_needs + rest * need.workers / there.workers, _LEAST_SHARE)
        if share < 1:
            found.append(ServedLink(name, share))
    return found


_LEAST_SHARE = 1e-3


@dataclass
class _Need:
    """What a model's workers at one link can keep busy of it, and how many they are."""

    workers: int = 0
    busy: float = 0.0


def _needs(served: ServedModel) -> dict[str, _Need]:
    found: dict[str, _Need] = {}
    frame_bytes = 0 if served.entry is None else served.entry.frame_bytes
    for pipeline in served.pipelines:
        at, ends, last = pipeline.batch_size - 1, pipeline.ends, len(pipeline.stages) - 1
        for s, stage in enumerate(pipeline.stages):
            down_us = 0.0 if s == 0 else float(pipeline.transfer_us[s - 1][at])
            up_us = 0.0 if s == last else float(pipeline.transfer_us[s][at])
            if ends is not None and s == 0:
                down_us = ends.server_us_per_byte * frame_bytes * pipeline.batch_size
            if ends is not None and s == last:
                up_us = float(ends.answer_server_us[at])
            for worker in stage.workers:
                for name, wire_us in ((worker.uplink, up_us), (worker.downlink, down_us)):
                    need = found.setdefault(name, _Need())
                    need.workers += 1
                    need.busy += wire_us / max(1, stage.latency_us[at])
    return found
