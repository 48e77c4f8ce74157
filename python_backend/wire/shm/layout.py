"""Who has which range of a server's shared-memory file: computed from the manifest alone, so that every
process of the server comes to the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from planner.manifest import DeploymentManifest, ModelEntry, StageProgram
from python_backend.wire.shm.arena import share_of
from python_backend.wire.shm.file import Share

SMALLEST_BYTES: Final = 65_536
"""Below this a message body is as fast."""
_BATCHES_PER_WORKER: Final = 4
"""Of a first stage, under way anywhere in its pipeline; a batch that finds no place goes over gRPC."""
_MOST_BATCHES: Final = 16


@dataclass(frozen=True)
class MemoryLayout:
    """The file of one server. `shares`: by the Triton model that sends; without those that need none."""

    name: str
    size: int
    shares: dict[str, Share]


def layout_of(manifest: DeploymentManifest, server: str, table: int = 0) -> MemoryLayout:
    """The file that the models of `server` send through. table: the number of the hand-over that brought the
    manifest: two tables of a dispatcher are in use side by side for a while.
    """
    shares: dict[str, Share] = {}
    size = 0
    for sender, sizes, batches in sorted(_senders(manifest, server)):
        if sum(sizes) >= SMALLEST_BYTES:
            shares[sender] = share_of(size, sizes, batches)
            size = shares[sender].end
    name = f"hops_{server}_{manifest.epoch}" + (f"_{table}" if table else "")
    return MemoryLayout(name=name, size=size, shares=shares)


def depth_of(entry: ModelEntry, pipeline: int, stage: int) -> int:
    """Batches that a worker of `stage` can have under way further on: what is left of the pipeline, in its
    own batch times, and some for queues.
    """
    served = entry.served.pipelines[pipeline]
    last = served.batch_size - 1
    own_us = max(1, served.stages[stage].latency_us[last])
    rest_us = sum(table.latency_us[last] for table in served.stages[stage + 1 :])
    return min(_MOST_BATCHES, 3 + -(-2 * rest_us // own_us))


def _senders(manifest: DeploymentManifest, server: str) -> Iterator[tuple[str, Sequence[int], int]]:
    """(Triton model, bytes of each tensor or frame of its largest batch within this host, batches)."""
    for entry in manifest.models:
        if server == manifest.entry.name:
            yield entry.dispatcher, *_of_dispatcher(manifest, entry)
        for index, pipeline in enumerate(entry.served.pipelines):
            following = entry.programs[index][1:]
            for position, program in enumerate(following):
                batches = depth_of(entry, index, position)
                for worker in pipeline.stages[position].workers:
                    if worker.server == server:
                        near = _is_near(manifest, entry, server, index, position + 1)
                        yield worker.name, _sizes(program) if near else (), batches


def _of_dispatcher(manifest: DeploymentManifest, entry: ModelEntry) -> tuple[Sequence[int], int]:
    near = [
        index
        for index in range(len(entry.programs))
        if _is_near(manifest, entry, manifest.entry.name, index, 0)
    ]
    workers = sum(len(entry.served.pipelines[index].stages[0].workers) for index in near)
    if entry.prepare is not None:
        frames = max((entry.programs[index][0].max_batch_size for index in near), default=0)
        return (entry.prepare.planned.bytes,) * frames, _BATCHES_PER_WORKER * workers
    sizes = max((_sizes(entry.programs[index][0]) for index in near), key=sum, default=())
    return sizes, _BATCHES_PER_WORKER * workers


def _is_near(manifest: DeploymentManifest, entry: ModelEntry, server: str, pipeline: int, stage: int) -> bool:
    """Whether any worker of a stage is on this server's host."""
    host = manifest.server(server).host
    workers = entry.served.pipelines[pipeline].stages[stage].workers
    return any(manifest.server(worker.server).host == host for worker in workers)


def _sizes(program: StageProgram) -> tuple[int, ...]:
    return tuple(spec.bytes_per_frame * program.max_batch_size for spec in program.inputs)
