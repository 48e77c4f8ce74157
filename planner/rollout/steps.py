"""The steps from a fleet as it is to a revision, with what each takes and what is served meanwhile.

Rules
- A worker that the revision wants and that is loaded stays as it is.
- Make before break: where a GPU's memory holds what is on it and what comes, the new workers are loaded
  while the old ones serve, and the old ones go last. Nothing is lost.
- Break before make: elsewhere dispatchers first leave a GPU's old workers out, which then make room. Such
  GPUs go in waves, in the order that loses least of what is wanted (planner.rollout.waves).
- What no dispatcher uses and the revision does not want goes first where it is in the way, else last. What
  serves more of what is loaded is handed over before that: a rollout may have been killed after a load. Where
  dispatchers have not all taken the last tables, nothing is known to be unused before they have taken others.
- A worker that is loading, as a rollout that was killed leaves it, is waited for by a step that loads it.
- Nothing is remembered from step to step but what the fleet itself shows, so steps that are made anew after
  any of them, for this revision or for the one before, end where they should.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from planner.rollout.fleet import FleetRevision, Gpu, Situation, Tables, named_in
from planner.rollout.tables import Mixes, capacities
from planner.rollout.waves import Cost, Counts, cheapest_waves


class StepKind(Enum):
    """What a step does."""

    LOAD = "load"
    HAND_OVER = "hand over"
    """Dispatchers get new tables, and the batches on workers that these leave out end."""
    UNLOAD = "unload"


@dataclass(frozen=True)
class Times:
    """How long steps take beside loading. notice_us: until a server sees that it is to load or unload."""

    notice_us: int = 1_000_000
    hand_over_us: int = 200_000


@dataclass(frozen=True)
class Step:
    """One step. workers: loaded or unloaded by it. tables: of a hand-over. capacity_rps: by model, while it
    lasts. breaks: whether workers that serve were taken out for it.
    """

    kind: StepKind
    workers: tuple[str, ...]
    duration_us: int
    capacity_rps: Mapping[str, float]
    tables: Tables | None = None
    breaks: bool = False


def steps_to(
    revision: FleetRevision,
    now: Situation,
    wanted_rps: Mapping[str, float] | None = None,
    times: Times | None = None,
) -> tuple[Step, ...]:
    """What is to be done, in order; nothing where the revision is what is served and loaded.

    wanted_rps: what comes, by model; without it what both the tables of now and the revision's carry. The
    revision must have passed check.check_rollout.
    """
    return tuple(_Way(revision, now, wanted_rps, times or Times()).steps())


def after_step(now: Situation, step: Step) -> Situation:
    """The fleet once a step has been made."""
    if step.kind is StepKind.LOAD:
        made = set(step.workers)
        return replace(now, loaded=now.loaded | made, loading=now.loading - made)
    if step.kind is StepKind.UNLOAD:
        gone = set(step.workers)
        return replace(now, loaded=now.loaded - gone, loading=now.loading - gone)
    assert step.tables is not None
    return replace(now, tables=step.tables, settled=True)


_Lasts = Callable[[Collection[str]], int]
"""How long a step with these workers lasts, in microseconds."""


def _carried_by_both(now: Situation, revision: FleetRevision) -> dict[str, float]:
    """Frames/s that a model gets before and after. Of a rollout that was stopped, before it was begun."""
    befores = [capacities(now.tables, now.usable)]
    befores += [capacities(tables, set(named_in(tables))) for tables in now.known]
    after = capacities(revision.tables, revision.workers.keys())
    return {
        model: min(rate, max(before.get(model, 0.0 if now.known else rate) for before in befores))
        for model, rate in after.items()
    }


def _role(tables: Tables, name: str) -> object:
    """Which pool a worker is of; None: of none."""
    for model, table in tables.items():
        for place, worker in table.workers():
            if worker.name == name:
                return model, place.pipeline, place.stage
    return None


def _as_gpus(members: Sequence[Sequence[Gpu]], waves: Sequence[Counts]) -> Iterator[list[Gpu]]:
    """The GPUs of each wave, those of a kind in their order."""
    done = [0] * len(members)
    for wave in waves:
        yield [
            gpu
            for gpus, begun, count in zip(members, done, wave, strict=True)
            for gpu in gpus[begun : begun + count]
        ]
        done = [begun + count for begun, count in zip(done, wave, strict=True)]


class _Way:
    """See the module. One use."""

    def __init__(
        self, revision: FleetRevision, now: Situation, wanted_rps: Mapping[str, float] | None, times: Times
    ) -> None:
        self._new = revision
        self._now = replace(now, workers={**now.workers, **revision.workers})
        self._times = times
        self._wanted = wanted_rps if wanted_rps is not None else _carried_by_both(now, revision)
        self._old_tables = now.tables
        self._mixes = {
            model: Mixes([tables[model] for tables in (now.tables, *now.known) if model in tables], new)
            for model, new in revision.tables.items()
        }

    def steps(self) -> Iterator[Step]:
        yield from self._unload_idle(self._tight_gpus())
        tight = self._tight_gpus()
        yield from self._load(name for name in self._missing() if self._gpu(name) not in tight)
        for gpus in self._waves_of(tight):
            yield from self._change_over(gpus)
        yield from self._hand_over(self._new.tables, breaks=False)
        yield from self._unload(self._now.loaded - self._new.workers.keys(), breaks=False)

    def _unload_idle(self, tight: Collection[Gpu]) -> Iterator[Step]:
        """What is in the way on these GPUs and used by nobody. What is loaded may serve more than it does, as
        where a rollout was killed after a load: then dispatchers have that first.
        """
        if not self._now.settled:
            return
        idle = [name for name in self._going(tight) if name not in set(named_in(self._now.tables))]
        better = self._tables_without(idle, self._now.usable)
        if idle and self._lost(better) < self._lost(self._now.tables):
            yield from self._hand_over(better, breaks=False)
        yield from self._unload(idle, breaks=False)

    def _lost(self, tables: Tables) -> float:
        """Of what is wanted, as shares of each model's, with these tables and what is loaded."""
        rates = capacities(tables, self._now.usable)
        return sum(
            max(0.0, 1 - rates[model] / wanted)
            for model, wanted in self._wanted.items()
            if wanted > 0 and model in rates
        )

    def _missing(self) -> list[str]:
        """Wanted workers that do not answer, on servers that do."""
        there = self._now.loaded - self._now.loading
        return [
            name
            for name, worker in self._new.workers.items()
            if name not in there and worker.gpu.server not in self._now.out
        ]

    def _tight_gpus(self) -> list[Gpu]:
        """Where what is loaded and what comes do not fit together."""
        gpus = dict.fromkeys(self._gpu(name) for name in self._missing())
        both = self._now.loaded | set(self._missing())
        return [gpu for gpu in gpus if not self._now.fits(gpu, both)]

    def _gpu(self, name: str) -> Gpu:
        return self._now.workers[name].gpu

    # Break before make

    def _change_over(self, gpus: Sequence[Gpu]) -> Iterator[Step]:
        """Take out what these GPUs have and the revision does not want, then load what it wants there."""
        going, coming = self._going(gpus), self._coming(gpus)
        yield from self._hand_over(self._tables_without(going, self._now.usable), breaks=True)
        yield from self._unload(going, breaks=True)
        yield from self._load(coming, breaks=True)

    def _going(self, gpus: Collection[Gpu]) -> list[str]:
        found = self._now.loaded - self._new.workers.keys()
        return sorted(name for name in found if self._gpu(name) in gpus)

    def _coming(self, gpus: Collection[Gpu]) -> list[str]:
        return [name for name in self._missing() if self._gpu(name) in gpus]

    def _tables_without(self, going: Collection[str], usable: Collection[str]) -> Tables:
        """Of both revisions what most is served with. A model that nothing is left of keeps its table."""
        left = set(usable) - set(going)
        kept = {**self._new.tables, **self._old_tables}
        return {model: mixes.best(left) or kept[model] for model, mixes in self._mixes.items()}

    def _waves_of(self, tight: Sequence[Gpu]) -> list[list[Gpu]]:
        """The GPUs of each wave, in the cheapest order."""
        if not tight:
            return []
        kinds: dict[object, list[Gpu]] = {}
        for gpu in tight:
            kinds.setdefault(self._kind(gpu), []).append(gpu)
        members = list(kinds.values())
        counts = tuple(map(len, members))
        waves = cheapest_waves(counts, lambda done, wave: self._cost(members, done, wave))
        return list(_as_gpus(members, waves))

    def _kind(self, gpu: Gpu) -> object:
        """GPUs of one kind lose the same and gain the same."""
        going = Counter(_role(self._old_tables, name) for name in self._going([gpu]))
        coming = Counter(_role(self._new.tables, name) for name in self._coming([gpu]))
        load_us = sum(self._now.workers[name].load_us for name in self._coming([gpu]))
        return frozenset(going.items()), frozenset(coming.items()), load_us

    def _cost(self, members: Sequence[Sequence[Gpu]], done: Counts, wave: Counts) -> Cost:
        """What a wave loses of what is wanted, as shares of each model's, and how long it takes."""
        changed = [gpu for gpus, count in zip(members, done, strict=True) for gpu in gpus[:count]]
        going_now = [
            gpu
            for gpus, count, more in zip(members, done, wave, strict=True)
            for gpu in gpus[count : count + more]
        ]
        usable = (self._now.usable - set(self._going(changed))) | set(self._coming(changed))
        left = usable - set(self._going(going_now))
        time_us = self._hand_over_us() + self._times.notice_us + self._load_us(self._coming(going_now))
        lost = sum(
            max(0.0, 1 - self._mixes[model].best_rps(left) / wanted)
            for model, wanted in self._wanted.items()
            if wanted > 0 and model in self._mixes
        )
        return lost * time_us / 1e6, time_us / 1e6

    # Single steps, which also say what the fleet is after them

    def _load(self, workers: Iterable[str], breaks: bool = False) -> Iterator[Step]:
        yield from self._step(StepKind.LOAD, workers, breaks, self._load_us)

    def _unload(self, workers: Iterable[str], breaks: bool) -> Iterator[Step]:
        yield from self._step(StepKind.UNLOAD, workers, breaks, lambda names: self._times.notice_us)

    def _step(self, kind: StepKind, workers: Iterable[str], breaks: bool, lasts: _Lasts) -> Iterator[Step]:
        names = tuple(sorted(workers))
        if names:
            gone = set(names) if kind is StepKind.UNLOAD else set()
            capacity = capacities(self._now.tables, self._now.usable - gone)
            yield self._made(Step(kind, names, lasts(names), capacity, breaks=breaks))

    def _hand_over(self, tables: Tables, breaks: bool) -> Iterator[Step]:
        if not self._now.settled or dict(tables) != dict(self._now.tables):
            capacity = capacities(tables, self._now.usable)
            yield self._made(
                Step(StepKind.HAND_OVER, (), self._hand_over_us(), capacity, tables=tables, breaks=breaks)
            )

    def _made(self, step: Step) -> Step:
        self._now = after_step(self._now, step)
        return step

    def _hand_over_us(self) -> int:
        """Old batches end by their deadlines."""
        return self._times.hand_over_us + max(
            (table.slo_us for table in self._new.tables.values()), default=0
        )

    def _load_us(self, workers: Collection[str]) -> int:
        """GPUs load at the same time, each one worker after the other."""
        by_gpu: Counter[Gpu] = Counter()
        for name in workers:
            by_gpu[self._gpu(name)] += self._now.workers[name].load_us
        return self._times.notice_us + max(by_gpu.values(), default=0)
