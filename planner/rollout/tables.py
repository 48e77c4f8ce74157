"""Tables for the time between two revisions: which pipelines dispatchers use while some workers are missing.

Rules
- A worker is in one pipeline of a table: two reservations of it would not know of each other.
- Of what the old revision and the new one can still make of the usable workers, the table that serves most
  is taken: one of them alone, or both side by side, kept workers with either.
- A model never has an empty table: its dispatcher keeps the one that it has, and answers frames that nothing
  can serve.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import replace

from planner.rollout.fleet import Tables
from planner.serving import ServedEntry, ServedLink, ServedModel, ServedPipeline, ServedStage


def capacity_rps(table: ServedModel, usable: Collection[str]) -> float:
    """Frames/s of these workers at planned batch sizes, at most what the table was planned for: links and the
    entry may bound that.

    The sum over pipelines of their slowest stage's workers * batch / latency of a batch.
    """
    total = sum(_pipeline_rps(pipeline, usable) for pipeline in table.pipelines)
    return min(total, table.planned_rps)


def capacities(tables: Tables, usable: Collection[str]) -> dict[str, float]:
    """The same by model."""
    return {model: capacity_rps(table, usable) for model, table in tables.items()}


def _pipeline_rps(pipeline: ServedPipeline, usable: Collection[str]) -> float:
    batch = pipeline.batch_size
    return min(
        sum(worker.name in usable for worker in stage.workers) * batch * 1e6 / stage.latency_us[batch - 1]
        for stage in pipeline.stages
    )


def restricted(table: ServedModel, usable: Collection[str]) -> ServedModel | None:
    """The pipelines that have a usable worker in every stage, with those; None where there is none."""
    pipelines = []
    for pipeline in table.pipelines:
        stages = tuple(_stage_of(stage, usable) for stage in pipeline.stages)
        if all(stage.workers for stage in stages):
            pipelines.append(replace(pipeline, stages=stages))
    return replace(table, pipelines=tuple(pipelines)) if pipelines else None


class Mixes:
    """Of one model: what its new table and any one older one can serve with any of their workers."""

    def __init__(self, olds: Sequence[ServedModel], new: ServedModel) -> None:
        each = [old for number, old in enumerate(olds) if old not in olds[:number]]
        self._pairs = [_Pair(old, new) for old in each or [new]]

    def best_rps(self, usable: Set[str]) -> float:
        """Frames/s of the table that serves most."""
        return max(pair.best_rps(usable) for pair in self._pairs)

    def best(self, usable: Set[str]) -> ServedModel | None:
        """That table; None where nothing serves a frame. Of equal ones that with the first of the older."""
        return max(self._pairs, key=lambda pair: pair.best_rps(usable)).best(usable)


class _Pair:
    """One older table, and the new one."""

    def __init__(self, old: ServedModel, new: ServedModel) -> None:
        self._old, self._new = old, new
        self._shapes = _shape(old), _shape(new)

    def best_rps(self, usable: Set[str]) -> float:
        """Frames/s of the table that serves most."""
        return max(self._rates(usable))

    def best(self, usable: Set[str]) -> ServedModel | None:
        """That table; None where nothing serves a frame. Of equal ones, the nearest to the new revision's."""
        rates = self._rates(usable)
        which = rates.index(max(rates))
        first, second = (self._old, self._new) if which > 1 else (self._new, self._old)
        alone = restricted(first, usable)
        return alone if which in (0, 3) or alone is None else _beside(alone, second, usable, self._new)

    def _rates(self, usable: Set[str]) -> tuple[float, float, float, float]:
        """New alone; new, and the old one's rest beside it; old, and the new one's rest; old alone."""
        (old, old_used), (new, new_used) = (_kept(shape, usable) for shape in self._shapes)
        beside_new, _ = _kept(self._shapes[0], usable - new_used)
        beside_old, _ = _kept(self._shapes[1], usable - old_used)
        planned = self._old.planned_rps, self._new.planned_rps
        # What nothing is beside is the one alone, and two that count ends unlike cannot be one table.
        mixed = (self._old.entry is None) == (self._new.entry is None)
        return (
            min(new, planned[1]),
            min(new + beside_new, sum(planned)) if mixed and new and beside_new else 0.0,
            min(old + beside_old, sum(planned)) if mixed and old and beside_old else 0.0,
            min(old, planned[0]),
        )


def between(old: ServedModel, new: ServedModel, usable: Set[str]) -> ServedModel | None:
    """The table that serves most with these workers; None where nothing serves a frame."""
    return Mixes([old], new).best(usable)


_Shape = tuple[tuple[tuple[frozenset[str], float], ...], ...]
"""By pipeline and stage: the workers, and frames/s of each."""


def _shape(table: ServedModel) -> _Shape:
    return tuple(
        tuple(
            (
                frozenset(worker.name for worker in stage.workers),
                pipeline.batch_size * 1e6 / stage.latency_us[pipeline.batch_size - 1],
            )
            for stage in pipeline.stages
        )
        for pipeline in table.pipelines
    )


def _kept(shape: _Shape, usable: Set[str]) -> tuple[float, set[str]]:
    """Frames/s of the pipelines that have a usable worker in every stage, and those workers."""
    total, used = 0.0, set[str]()
    for stages in shape:
        left = [workers & usable for workers, _ in stages]
        if all(left):
            total += min(len(some) * rate for some, (_, rate) in zip(left, stages, strict=True))
            used.update(*left)
    return total, used


def _beside(
    first: ServedModel, other: ServedModel, usable: Set[str], newest: ServedModel
) -> ServedModel | None:
    """`first`, and beside it what the other revision makes of the workers that are left."""
    second = restricted(other, usable - {worker.name for _, worker in first.workers()})
    if second is None:
        return first
    return replace(
        newest,
        # A cascade's member may have another part of its SLO by either plan; each pipeline needs its own.
        slo_us=max(first.slo_us, second.slo_us),
        planned_rps=first.planned_rps + second.planned_rps,
        pipelines=first.pipelines + second.pipelines,
        entry=_entry_of(newest, first, second),
        links=_links_of(first, second),
    )


def _entry_of(newest: ServedModel, first: ServedModel, second: ServedModel) -> ServedEntry | None:
    """Frames are prepared on the hosts of either."""
    if newest.entry is None or first.entry is None or second.entry is None:
        return None
    hosts = {
        host.server: host for table in (second, first) for host in (table.entry.hosts if table.entry else ())
    }
    return replace(newest.entry, hosts=tuple(hosts.values()))


def _links_of(first: ServedModel, second: ServedModel) -> tuple[ServedLink, ...]:
    """The smaller share where both state one: no model takes more of a link than either plan gives it."""
    shares: dict[str, float] = {}
    for link in (*first.links, *second.links):
        shares[link.name] = min(link.share, shares.get(link.name, 1.0))
    return tuple(ServedLink(name, share) for name, share in shares.items())


def _stage_of(stage: ServedStage, usable: Collection[str]) -> ServedStage:
    return replace(stage, workers=tuple(worker for worker in stage.workers if worker.name in usable))
