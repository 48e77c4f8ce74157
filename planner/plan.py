"""Planner output: pipelines of stages over pools of workers, with the bound that says how good the plan is.

Recomputed and checked by planner.feasibility; drawn by ppipe; turned into servers by planner.placing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.placement import Placement


@dataclass(frozen=True)
class BlockRange:
    """Blocks [start, end)."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"block range [{self.start}, {self.end}) is empty or negative")


@dataclass(frozen=True)
class Stage:
    """A contiguous range of blocks run by one pool of `workers` slices of GPU class `gpu`.

    latency_us is for a whole batch of batch_size on one worker, overheads included.
    """

    blocks: BlockRange
    gpu: str
    slices_per_gpu: int
    batch_size: int
    workers: int
    latency_us: float


@dataclass(frozen=True)
class Pipeline:
    """Ordered stages of one model. transfer_us[k]: the hop after stage k, a whole batch."""

    stages: tuple[Stage, ...]
    transfer_us: tuple[float, ...]
    throughput_rps: float

    @property
    def latency_us(self) -> float:
        """Service time of one batch, queueing and batch building excluded."""
        return sum(stage.latency_us for stage in self.stages) + sum(self.transfer_us)


@dataclass(frozen=True)
class ModelPlan:
    """The pipelines of one model and what binds them: any of 'gpus', 'links', 'slo', or '' with a reason in
    `note`.
    """

    model: str
    slo_us: int
    slo_margin: float
    pipelines: tuple[Pipeline, ...]
    throughput_rps: float
    bound_by: tuple[str, ...] = ()
    note: str = ""
    batch_build_rps: float | None = None
    """Rate at which batches were assumed to fill; None: no time was planned for it."""


@dataclass(frozen=True)
class Plan:
    """A whole plan. upper_bound bounds the objective of every plan of the problem; gap = (bound - objective)
    / objective.

    gpu_price: objective gained by one more GPU of a class (LP dual). utilisation: busy share of a class at
    planned rates.
    """

    planner: str
    objective: float
    upper_bound: float
    gap: float
    solver: str
    models: tuple[ModelPlan, ...]
    gpu_price: Mapping[str, float] = field(default_factory=dict)
    utilisation: Mapping[str, float] = field(default_factory=dict)
    gpus_used: Mapping[str, int] = field(default_factory=dict)
    placement: Placement | None = None
    problem_hash: str = ""
    latency_sources: Mapping[str, str] = field(default_factory=dict)
    """Per GPU class where its latencies come from: 'measured', 'stated', 'estimated, +-20%'."""

    def model(self, name: str) -> ModelPlan:
        """The plan of model `name`. Raises KeyError."""
        for model in self.models:
            if model.model == name:
                return model
        raise KeyError(f"no plan of model {name!r}; planned: {', '.join(m.model for m in self.models)}")
