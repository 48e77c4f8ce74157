"""Planner output: pipelines of stages over pools of workers, with the bound that says how good the plan is.

Recomputed and checked by planner.feasibility; drawn by ppipe; turned into servers by planner.placing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.cascades.data import PlannedCascade
from planner.frames import FrameSize
from planner.placement import Placement
from planner.serial import LATER
from planner.shards import ModelShards


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

    latency_us is for a whole batch of batch_size on one worker, overheads included. pool: which of the
    class's servers, where they are unlike (planner.pools); '': any.
    """

    blocks: BlockRange
    gpu: str
    slices_per_gpu: int
    batch_size: int
    workers: int
    latency_us: float
    pool: str = ""

    @property
    def at(self) -> str:
        """What the plan's prices and counts call these servers: the pool, or the class."""
        return self.pool or self.gpu


@dataclass(frozen=True)
class PlannedEnds:
    """What a whole batch takes before its first stage and after its last: from the entry to the first stage's
    server, preparing there, finishing on the last one's, and the way of the answers back.
    """

    ingress_us: float
    prepare_us: float
    finish_us: float
    egress_us: float

    @property
    def total_us(self) -> float:
        """All of it."""
        return self.ingress_us + self.prepare_us + self.finish_us + self.egress_us


@dataclass(frozen=True)
class EntryUse:
    """One resource of the entry server: how much of it there is, the share that the planned rates take of
    what can be used of it, and the objective that one more unit brings.

    resource: 'link', 'client link' or 'cores'; unit: 'Gbit/s' or 'core'.
    """

    resource: str
    unit: str
    capacity: float
    busy: float
    price: float
    server: str = field(default="", metadata=LATER)
    """Which entry, where there are several."""
    usable: float = field(default=1.0, metadata=LATER)
    """Of a link: the share of what it carries that leaves room for frames that wait (planner.usable)."""


@dataclass(frozen=True)
class Pipeline:
    """Ordered stages of one model. transfer_us[k]: the hop after stage k, a whole batch.

    ends: the way in and out, where it is counted.
    """

    stages: tuple[Stage, ...]
    transfer_us: tuple[float, ...]
    throughput_rps: float
    ends: PlannedEnds | None = None

    @property
    def latency_us(self) -> float:
        """Service time of one batch, queueing and batch building excluded."""
        inside = sum(stage.latency_us for stage in self.stages) + sum(self.transfer_us)
        return inside if self.ends is None else inside + self.ends.total_us


@dataclass(frozen=True)
class Promise:
    """One model's loads at 99 % attainment, found by simulation.

    guaranteed_rps: what at least the share held_in of scenarios serve; nominal_rps: with latencies as
    profiled and Poisson arrivals; unguarded_rps: the same by a plan that promises no more.
    """

    guaranteed_rps: float
    nominal_rps: float
    unguarded_rps: float
    held_in: float

    @property
    def given_up(self) -> float:
        """What the guarantee takes: the share of the unguarded plan's nominal load that is not promised."""
        return 1.0 - self.guaranteed_rps / self.unguarded_rps if self.unguarded_rps else 0.0


@dataclass(frozen=True)
class ModelPlan:
    """The pipelines of one model and what binds them: any of 'gpus', 'links', 'cores', 'slo', 'entry link',
    'client link', 'entry cores', or '' with a reason in `note`.
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
    frame: FrameSize | None = None
    """What clients were assumed to send; None: the way in is not counted."""
    answer_bytes: int = 0
    """What goes back for one frame, where the way out is counted."""
    prepare_us: float = 0.0
    """Of a core, per frame."""
    prepare_assumed: bool = False
    promise: Promise | None = None
    """What is served when reality is not the profile; None: the margin was not searched."""


@dataclass(frozen=True)
class Survival:
    """What a plan still serves after the worst loss that it must survive, in units of the wanted rates.

    promised: by the closed form of planner.queueing. bound: of every plan's promise; gap = (bound - promised)
    / promised. binding: the loss that leaves least, of so many losses. without: what the plan without a
    promise serves while nothing is lost, counted alike.
    """

    promised: float
    bound: float
    gap: float
    binding: str
    losses: int
    without: float = 0.0

    @property
    def given_up(self) -> float:
        """The share of what could be served without a promise that is not promised."""
        return 1 - self.promised / self.without if self.without else 0.0


@dataclass(frozen=True)
class Plan:
    """A whole plan. upper_bound bounds the objective of every plan of the problem; gap = (bound - objective)
    / objective.

    gpu_price: objective gained by one more GPU of a class (LP dual). utilisation: busy share of a class at
    planned rates. These, gpus_used and latency_sources are by pool where servers of a class are unlike.
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
    unusable: Mapping[str, str] = field(default_factory=dict)
    """GPU classes that no pipeline can use, and why."""
    entry: tuple[EntryUse, ...] = ()
    """Of the entry server; none where the way in and out is not counted."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Per hour, of the GPUs in use of each class."""
    survival: Survival | None = None
    """Of a plan that must survive losses."""
    shards: tuple[ModelShards, ...] = field(default=(), metadata=LATER)
    """Of each model, where there are several entries."""
    cascades: tuple[PlannedCascade, ...] = field(default=(), metadata=LATER)
    """What their models' SLOs and rates are parts of."""
    asked_hash: str = field(default="", metadata=LATER)
    """Of what deployment and profile ask (planner.deployment.asked), which is less than the problem that was
    solved: that has hosts and ports, and margins that were searched or given on the command line.
    """

    @property
    def asked_for(self) -> str:
        """The hash of what deployment and profile asked."""
        return self.asked_hash or self.problem_hash

    def model(self, name: str) -> ModelPlan:
        """The plan of model `name`. Raises KeyError."""
        for model in self.models:
            if model.model == name:
                return model
        raise KeyError(f"no plan of model {name!r}; planned: {', '.join(m.model for m in self.models)}")
