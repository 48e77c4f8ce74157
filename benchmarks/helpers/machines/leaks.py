"""What the processes of a served deployment hold: threads, file descriptors, memory, arenas, /dev/shm files.

Compare two snapshots of a quiet deployment: what a process that is in both holds more of, it has leaked.

Rules
- A server one of whose stubs was killed is told apart: Triton 2.51 never lets go of what that stub still had
  to answer (a memory region, about 35 threads, 2 files), until the server ends.
- A tritonserver's gRPC library starts and ends a thread now and then: so many more are no leak.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ppipe.serving import live_metrics
from ppipe.serving.guard import SHM
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.processes import stubs_of

_ARENA = "ppipe_arena_bytes"
_SPARE_SERVER_THREADS = 2
Process = tuple[str, int]


@dataclass(frozen=True)
class Held:
    """By one process."""

    threads: int
    files: int
    rss_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """Processes are (name of server or model, process id). `stubs`: of each server. `arena_taken`: by sender,
    taken or in quarantine. `shm_files`: ours; `regions`: Triton's, one for each stub that it knows.
    """

    held: Mapping[Process, Held]
    stubs: Mapping[Process, frozenset[Process]]
    arena_taken: Mapping[str, int]
    shm_files: int
    regions: int


@dataclass(frozen=True)
class Growth:
    """Largest growth of any process, and what is not given back. `grown`: lines about it."""

    processes: int
    threads: int
    files: int
    rss_bytes: int
    arena_bytes: int
    shm_files: int
    grown: tuple[str, ...]
    left_by_dead_stubs: tuple[str, ...]

    @property
    def leaked(self) -> int:
        """Things that should have been given back. Memory is not counted here: allocators keep some."""
        return sum(max(0, more) for more in (self.threads, self.files, self.arena_bytes, self.shm_files))


def snapshot(deployment: ServedDeployment) -> Snapshot:
    """As it is now."""
    stubs = {
        (status.name, status.pid): frozenset(
            (model, stub.pid) for model, stub in stubs_of(status.pid).items()
        )
        for status in deployment.statuses
        if status.pid is not None
    }
    processes = [*stubs, *(stub for each in stubs.values() for stub in each)]
    hops = [name for name in own_shm_files() if "_hops_" in name]
    return Snapshot(
        held={process: one for process in processes if (one := held_by(process[1])) is not None},
        stubs=stubs,
        arena_taken=arena_taken(deployment),
        shm_files=len(hops),
        regions=len(own_shm_files()) - len(hops),
    )


def growth(before: Snapshot, after: Snapshot) -> Growth:
    """Of processes that are in both."""
    both = before.held.keys() & after.held.keys()
    bereft = {server for server in both & before.stubs.keys() if before.stubs[server] != after.stubs[server]}
    pairs = [(before.held[one], after.held[one]) for one in both - bereft]
    spare = [_SPARE_SERVER_THREADS if one in before.stubs else 0 for one in both - bereft]
    more_threads = [new.threads - old.threads - free for (old, new), free in zip(pairs, spare, strict=True)]
    more_regions = after.regions - before.regions
    return Growth(
        processes=len(pairs),
        threads=max([0, *more_threads]),
        files=max((new.files - old.files for old, new in pairs), default=0),
        rss_bytes=max((new.rss_bytes - old.rss_bytes for old, new in pairs), default=0),
        arena_bytes=sum(after.arena_taken.values()),
        shm_files=after.shm_files - before.shm_files,
        grown=(
            *(line for one in sorted(both - bereft) if (line := _line(one, before, after))),
            *(
                f"{sender}: {taken} bytes of shared memory not given back"
                for sender, taken in after.arena_taken.items()
                if taken
            ),
        ),
        left_by_dead_stubs=(
            *(line for one in sorted(bereft) if (line := _line(one, before, after))),
            *([f"{more_regions} memory regions"] if more_regions > 0 else []),
        ),
    )


def _line(process: Process, before: Snapshot, after: Snapshot) -> str:
    """What a process holds more of; '' if nothing."""
    old, new = before.held[process], after.held[process]
    if new.threads <= old.threads and new.files <= old.files:
        return ""
    return f"{process[0]}: {old.threads} to {new.threads} threads, {old.files} to {new.files} files"


def held_by(pid: int) -> Held | None:
    """None when the process has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        return Held(
            threads=len(os.listdir(folder / "task")),
            files=sum(not _is_hop_file(path) for path in (folder / "fd").iterdir()),
            rss_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        )
    except (OSError, IndexError):
        return None


def _is_hop_file(descriptor: Path) -> bool:
    """Whether it is a living sender's file: a stage opens each when the first batch comes from there."""
    try:
        target = os.readlink(descriptor)
    except OSError:
        return False
    return target.startswith(f"{SHM}/ppipe_") and "_hops_" in target and not target.endswith("(deleted)")


def arena_taken(deployment: ServedDeployment) -> dict[str, int]:
    """From the dispatchers' metrics: by sender, slots that are not free."""
    taken: dict[str, int] = {}
    for entry in deployment.manifest.models:
        for labels, value in live_metrics.read(deployment.manifest, entry).series.get(_ARENA, ()):
            if labels["state"] != "free":
                taken[labels["sender"]] = taken.get(labels["sender"], 0) + int(value)
    return taken


def own_shm_files() -> list[str]:
    """Names of the shared-memory files of servers that this process has started."""
    return [path.name for path in SHM.glob(f"ppipe_{os.getpid()}_*")]
