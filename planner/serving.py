"""What the run time must know of one model's plan: integer tables of latency and transfer, workers and their
links.

The scheduler core, the simulator and the live dispatcher all start from a ServedModel, so what is simulated
is what
runs. All times are integer microseconds; tables are indexed by batch size - 1 and end at the largest usable
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from planner.frames import FrameCost
from planner.serial import LATER
from planner.streams import StreamPolicy


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
class ServedEnds:
    """The way of a batch from the entry to a pipeline's first stage, and of its answers back from the last.

    A batch is on its way ingress_us + ingress_us_per_byte * bytes, and is then prepared
    (ServedEntry.prepare). Of that time it holds the entry's uplink for entry_us_per_byte of its bytes, and
    the server's downlink for server_us_per_byte. Per batch size - 1: answers are finished after finish_us,
    and back answer_us later, for which they hold the server's uplink for answer_server_us and the entry's
    downlink for answer_entry_us.
    """

    entry_us_per_byte: float
    server_us_per_byte: float
    ingress_us: float
    ingress_us_per_byte: float
    finish_us: tuple[int, ...]
    answer_server_us: tuple[int, ...]
    answer_entry_us: tuple[int, ...]
    answer_us: tuple[int, ...]


@dataclass(frozen=True)
class ServedPipeline:
    """Ordered stages at one planned batch size. transfer_us[k][b - 1]: hop after stage k for b frames.

    ends: None where the first hop and the last are not counted.
    """

    batch_size: int
    stages: tuple[ServedStage, ...]
    transfer_us: tuple[tuple[int, ...], ...]
    ends: ServedEnds | None = None

    def __post_init__(self) -> None:
        if len(self.transfer_us) != len(self.stages) - 1:
            raise ValueError(
                f"{len(self.transfer_us)} transfer tables for {len(self.stages)} stages; expected one per hop"
            )
        if min(len(stage.latency_us) for stage in self.stages) < self.batch_size:
            raise ValueError(f"batch_size {self.batch_size} is past the end of a stage's latency table")
        if self.ends is not None:
            ends = self.ends
            tables = (ends.finish_us, ends.answer_server_us, ends.answer_entry_us, ends.answer_us)
            if min(map(len, tables)) < self.batch_size:
                raise ValueError(f"batch_size {self.batch_size} is past the end of a table of answers")

    def back_us(self, batch: int) -> int:
        """The way back of the answers of `batch` frames, finishing included; 0 where it is not counted."""
        return 0 if self.ends is None else self.ends.finish_us[batch - 1] + self.ends.answer_us[batch - 1]

    def rest_us(self, stage: int) -> tuple[int, ...]:
        """Per batch size: latency of `stage` and all later ones, with the transfers between and the way
        back."""
        tables = [each.latency_us for each in self.stages[stage:]] + list(self.transfer_us[stage:])
        if self.ends is not None:
            tables += [self.ends.finish_us, self.ends.answer_us]
        return tuple(sum(column) for column in zip(*tables, strict=False))


@dataclass(frozen=True)
class ServedHost:
    """A server whose cores prepare frames for this model."""

    server: str
    cores: int


@dataclass(frozen=True)
class ServedEntry:
    """The entry server's links, the frame planned with, and what preparing one takes of one core.

    hosts: the servers of first stages. A frame's own bytes and pixels, where they are known, count instead of
    the planned ones.
    """

    uplink: str
    downlink: str
    frame_bytes: int
    frame_pixels: int
    prepare: FrameCost
    hosts: tuple[ServedHost, ...]


@dataclass(frozen=True)
class ServedLink:
    """A link that other models use too. A transfer goes at full speed, but for long this model takes no
    more than `share` of the link's time.
    """

    name: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"link {self.name}: share {self.share} must be above 0 and at most 1")


@dataclass(frozen=True)
class ServedModel:
    """One model as its dispatcher sees it."""

    model: str
    slo_us: int
    planned_rps: float
    pipelines: tuple[ServedPipeline, ...]
    entry: ServedEntry | None = None
    """None where the first hop and the last are not counted."""
    links: tuple[ServedLink, ...] = ()
    """Those that are shared with other models."""
    streams: StreamPolicy | None = None
    """What is done with frames that name their stream; None: nothing."""
    unowned_us: int | None = field(default=None, metadata=LATER)
    """Of a part without a pipeline, while others own the workers: the least that serving a frame takes."""

    def __post_init__(self) -> None:
        counted = [pipeline.ends is not None for pipeline in self.pipelines]
        if counted != [self.entry is not None] * len(counted):
            raise ValueError(f"model {self.model}: 'entry' and every pipeline's 'ends' belong together")

    def workers(self) -> Iterator[tuple[WorkerPlace, ServedWorker]]:
        """Every worker, in (pipeline, stage, worker) order."""
        for p, pipeline in enumerate(self.pipelines):
            for s, stage in enumerate(pipeline.stages):
                for w, worker in enumerate(stage.workers):
                    yield WorkerPlace(p, s, w), worker

    def fastest_us(self) -> int:
        """One frame through the fastest pipeline, without waiting; where there is no pipeline, what it
        takes its owner, or 0."""
        return min((pipeline.rest_us(0)[0] for pipeline in self.pipelines), default=self.unowned_us or 0)

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


def without_ends(served: ServedModel) -> ServedModel:
    """The same model with its way in and out uncounted."""
    if served.entry is None:
        return served
    pipelines = tuple(replace(pipeline, ends=None) for pipeline in served.pipelines)
    return replace(served, pipelines=pipelines, entry=None)
