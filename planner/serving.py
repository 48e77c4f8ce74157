"""What the run time must know of one model's plan: integer tables of latency and transfer, workers and their
links.

The scheduler core, the simulator and the live dispatcher all start from a ServedModel, so what is simulated
is what
runs. All times are integer microseconds; tables are indexed by batch size - 1 and end at the largest usable
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple


class WorkerPlace(NamedTuple):
    """Which worker of a model: its pipeline, its stage there, and its number in that stage's pool."""

    pipeline: int
    stage: int
    worker: int


def worker_name(model: str, place: WorkerPlace) -> str:
    """The Triton model of a worker in the first revision of a plan."""
    return f"{model}.p{place.pipeline}.s{place.stage}.w{place.worker}"


@dataclass(frozen=True)
class ServedWorker:
    """One worker; `name` is its Triton model's name. Links with equal names are one link."""

    name: str
    server: str
    uplink: str
    downlink: str


@dataclass(frozen=True)
class ServedStage:
    """A pool of interchangeable workers. latency_us[b - 1]: a batch of b frames on one worker."""

    gpu: str
    slices_per_gpu: int
    latency_us: tuple[int, ...]
    workers: tuple[ServedWorker, ...]


@dataclass(frozen=True)
class ServedPipeline:
    """Ordered stages at one planned batch size. transfer_us[k][b - 1]: hop after stage k for b frames."""

    batch_size: int
    stages: tuple[ServedStage, ...]
    transfer_us: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.transfer_us) != len(self.stages) - 1:
            raise ValueError(
                f"{len(self.transfer_us)} transfer tables for {len(self.stages)} stages; one per hop belongs"
            )
        if min(len(stage.latency_us) for stage in self.stages) < self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} is past the end of a stage's latency table")


@dataclass(frozen=True)
class ServedModel:
    """One model as its dispatcher sees it."""

    model: str
    slo_us: int
    planned_rps: float
    pipelines: tuple[ServedPipeline, ...]

    def workers(self) -> Iterator[tuple[WorkerPlace, ServedWorker]]:
        """Every worker, in (pipeline, stage, worker) order."""
        for p, pipeline in enumerate(self.pipelines):
            for s, stage in enumerate(pipeline.stages):
                for w, worker in enumerate(stage.workers):
                    yield WorkerPlace(p, s, w), worker

    def renamed(self, name_of: Callable[[ServedWorker], str]) -> ServedModel:
        """The same model with other names of workers; they are asked for in the order of `workers`."""
        pipelines = []
        for pipeline in self.pipelines:
            stages = []
            for stage in pipeline.stages:
                workers = tuple(replace(worker, name=name_of(worker)) for worker in stage.workers)
                stages.append(replace(stage, workers=workers))
            pipelines.append(replace(pipeline, stages=tuple(stages)))
        return replace(self, pipelines=tuple(pipelines))
