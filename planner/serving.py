"""What the run time must know of one model's plan: integer tables of latency and transfer, workers and their
links.

The scheduler core, the simulator and the live dispatcher all start from a ServedModel, so what is simulated
is what
runs. All times are integer microseconds; tables are indexed by batch size - 1 and end at the largest usable
batch.
"""

from __future__ import annotations

from dataclasses import dataclass


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
