"""Workers loaded and unloaded again and again, by rollouts there and back: whether servers and /dev/shm hold
more of anything each time.

Looked at is always the first revision, at rest. What a process takes once and keeps, as allocators do, shows
in the first rounds; what it loses each time shows as a slope over the later half.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.helpers.heal.fleet import MEMORY_GIB, HealFleet, weighted
from benchmarks.helpers.heal.turns import MIXES, served_fleet
from benchmarks.helpers.machines.leaks import held_by, own_shm_files
from planner.planning import plan as make_plan
from planner.rollout.steps import Step, StepKind
from ppipe.rollout.preparing import prepare
from ppipe.rollout.rollout import perform
from ppipe.serving.guard import SHM
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.processes import stubs_of

_REST_S = 1.0


@dataclass(frozen=True)
class LoadsLook:
    """After so many loads: of all servers and the entry's dispatchers together."""

    loads: int
    rss_mib: float
    threads: int
    files: int
    shm_files: int
    shm_mib: float


@dataclass(frozen=True)
class LoadsTurn:
    """loads: as many workers were unloaded. *_per_100: slopes over the later half of the looks.
    shm_files, shm_mib: more at the end than at the first look.
    """

    loads: int
    seconds: float
    rss_mib_per_100: float
    threads_per_100: float
    files_per_100: float
    shm_files: int
    shm_mib: float
    looks: tuple[LoadsLook, ...]


def load_and_unload(loads: int) -> LoadsTurn:
    """Rollouts between two plans until so many workers were loaded."""
    with served_fleet(MEMORY_GIB) as (fleet, served):
        other = make_plan(weighted(fleet.problem, MIXES[1]), mode="fast")
        there = prepare(fleet.deployed, other, fleet.deployed.kept.next_number(1))
        fleet.deployed.kept.keep(fleet.manifest, fleet.plan)
        began_s, looks = time.monotonic(), [_look(fleet, served, 0)]
        while looks[-1].loads < loads:
            made: list[Step] = []
            for target in (there, fleet.manifest):
                perform(
                    fleet.deployed,
                    target,
                    "rollout",
                    "measured",
                    progress=lambda done, steps: made.append(steps[done - 1]) if done else None,  # noqa: B023
                    before={},
                )
            loaded = sum(len(step.workers) for step in made if step.kind is StepKind.LOAD)
            if loaded == 0:
                raise RuntimeError("the two plans use the same workers: nothing was loaded")
            looks.append(_look(fleet, served, looks[-1].loads + loaded))
        return turn_of(looks, time.monotonic() - began_s)


def turn_of(looks: Sequence[LoadsLook], seconds: float) -> LoadsTurn:
    """What the looks say."""
    later = looks[len(looks) // 2 :]
    return LoadsTurn(
        loads=looks[-1].loads,
        seconds=round(seconds, 1),
        rss_mib_per_100=_slope(later, [look.rss_mib for look in later]),
        threads_per_100=_slope(later, [look.threads for look in later]),
        files_per_100=_slope(later, [look.files for look in later]),
        shm_files=looks[-1].shm_files - looks[0].shm_files,
        shm_mib=round(looks[-1].shm_mib - looks[0].shm_mib, 3),
        looks=tuple(looks),
    )


def _slope(looks: Sequence[LoadsLook], values: Sequence[float]) -> float:
    if len(looks) < 2:
        return 0.0
    return round(100 * statistics.linear_regression([look.loads for look in looks], values).slope, 3)


def _look(fleet: HealFleet, served: ServedDeployment, loads: int) -> LoadsLook:
    time.sleep(_REST_S)
    servers = {status.name: status.pid for status in served.statuses if status.pid is not None}
    entry = stubs_of(servers[fleet.manifest.entry.name])
    pids = [*servers.values(), *(stub.pid for stub in entry.values())]
    held = [one for pid in pids if (one := held_by(pid)) is not None]
    files = [status for name in own_shm_files() if (status := (SHM / name).stat())]
    return LoadsLook(
        loads=loads,
        rss_mib=round(sum(one.rss_bytes for one in held) / 2**20, 2),
        threads=sum(one.threads for one in held),
        files=sum(one.files for one in held),
        shm_files=len(files),
        shm_mib=round(sum(status.st_blocks * 512 for status in files) / 2**20, 3),
    )
