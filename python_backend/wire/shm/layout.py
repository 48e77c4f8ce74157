"""The shared-memory files through which batches leave a server, and who has which range of them.

Rules
- A worker has a file of its own, sized by what it gives and by its largest batch: it knows no plan.
- The dispatchers of an entry server share one, laid out from the manifest alone, so that every one of them
  comes to the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from planner.manifest import DeploymentManifest, ModelEntry, StageProgram
from python_backend.wire.shm.arena import share_of
from python_backend.wire.shm.file import Share

SMALLEST_BYTES: Final = 65_536
"""Below this a message body is as fast."""
BATCHES_OF_STAGE: Final = 8
"""Of the largest size, that a worker of a stage can have under way further on."""
_BATCHES_PER_WORKER: Final = 4
"""Of a first stage, under way anywhere in its pipeline; a batch that finds no place goes over gRPC."""


@dataclass(frozen=True)
class MemoryLayout:
    """One file. `shares`: by the Triton model that sends; without those that need none."""

    name: str
    size: int
    shares: dict[str, Share]


def layout_of_worker(worker: str, program: StageProgram) -> MemoryLayout:
    """The file of a worker whose batches go on to another stage."""
    sizes = tuple(spec.bytes_per_frame * program.max_batch_size for spec in program.outputs)
    share = share_of(0, sizes, BATCHES_OF_STAGE)
    if sum(sizes) < SMALLEST_BYTES:
        return MemoryLayout(f"hops_{worker}", 0, {})
    return MemoryLayout(f"hops_{worker}", share.end, {worker: share})


def layout_of_entry(manifest: DeploymentManifest, table: int = 0, part: int = 0) -> MemoryLayout:
    """The file that the dispatchers of the entry server send through. table: the number of the hand-over that
    brought the manifest, and part: how often what is owned of it has changed: two tables of a dispatcher are
    in use side by side for a while.
    """
    shares: dict[str, Share] = {}
    size = 0
    for entry in sorted(manifest.models, key=lambda each: each.dispatcher):
        sizes, batches = _of_dispatcher(manifest, entry)
        if sum(sizes) >= SMALLEST_BYTES:
            shares[entry.dispatcher] = share_of(size, sizes, batches)
            size = shares[entry.dispatcher].end
    name = f"hops_{manifest.entry.name}_{manifest.epoch}" + (f"_{table}" if table else "")
    name += f"_p{part}" if part else ""
    return MemoryLayout(name=name, size=size, shares=shares)


def sizes_of_server(manifest: DeploymentManifest, server: str) -> int:
    """Bytes of all files that the models of a server send through within its host."""
    entries = [entry.name for entry in manifest.entries]
    size = layout_of_entry(manifest.seen_from(server)).size if server in entries else 0
    for entry in manifest.models:
        for index, pipeline in enumerate(entry.served.pipelines):
            for position, stage in enumerate(pipeline.stages[:-1]):
                layouts = [
                    layout_of_worker(worker.name, entry.programs[index][position])
                    for worker in stage.workers
                    if worker.server == server
                ]
                if layouts and _is_near(manifest, entry, server, index, position + 1):
                    size += sum([layout.size for layout in layouts])
    return size


def _of_dispatcher(manifest: DeploymentManifest, entry: ModelEntry) -> tuple[Sequence[int], int]:
    """(bytes of each tensor or frame of its largest batch within this host, batches)."""
    near = [
        index
        for index in range(len(entry.programs))
        if _is_near(manifest, entry, manifest.entry.name, index, 0)
    ]
    workers = sum([len(entry.served.pipelines[index].stages[0].workers) for index in near])
    if entry.prepare is not None:
        frames = max((_largest(entry.programs[index]) for index in near), default=0)
        return (entry.prepare.planned.bytes,) * frames, _BATCHES_PER_WORKER * workers
    sizes = max((_sizes(entry.programs[index]) for index in near), key=sum, default=())
    return sizes, _BATCHES_PER_WORKER * workers


def _is_near(manifest: DeploymentManifest, entry: ModelEntry, server: str, pipeline: int, stage: int) -> bool:
    """Whether any worker of a stage is on this server's host."""
    host = manifest.server(server).host
    workers = entry.served.pipelines[pipeline].stages[stage].workers
    return any(manifest.server(worker.server).host == host for worker in workers)


def _largest(programs: Sequence[StageProgram]) -> int:
    """Batch that all stages of a pipeline take."""
    return min([program.max_batch_size for program in programs])


def _sizes(programs: Sequence[StageProgram]) -> tuple[int, ...]:
    return tuple(spec.bytes_per_frame * _largest(programs) for spec in programs[0].inputs)
