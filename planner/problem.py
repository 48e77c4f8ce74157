"""A planning problem: cluster, profiles, what is wanted of each model, and options. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from planner.cascades.data import Cascade
from planner.cluster import Cluster
from planner.expectation import Expectation
from planner.frames import FrameSize
from planner.profile import Profile
from planner.serial import LATER
from planner.streams import StreamPolicy


class Objective(Enum):
    """What the planner optimises."""

    MAX_RATE = "max-rate"
    """Largest z with every model's throughput >= weight * z (the paper's)."""
    MIN_COST = "min-cost"
    """Cheapest GPUs that serve each model's rate_rps."""


@dataclass(frozen=True)
class InnerFlow:
    """How the frames of a cascade's member come.

    bunch: of how many that come at once a frame is one, E[N^2] / E[N]. dispersion: variance over mean of
    their number in a stretch of time; None: the options'. loss_part: of the options' loss_share, what this
    model may lose. inside: they are made at the entry, and no client sends them. passed_us: of the SLO, what
    a frame loses that is passed on to another entry and back, where that is to be counted.
    """

    bunch: float = 1.0
    dispersion: float | None = None
    loss_part: float = 1.0
    inside: bool = False
    passed_us: int = field(default=0, metadata=LATER)


@dataclass(frozen=True)
class Demand:
    """What is wanted of one model. `weight` for MAX_RATE, `rate_rps` for MIN_COST; a rate alone is also used
    as the weight.
    """

    model: str
    slo_us: int
    weight: float | None = None
    rate_rps: float | None = None
    slo_margin: float | None = None
    """Overrides the options' margin for this model."""
    batch_build_rps: float | None = None
    """Rate at which a batch is assumed to fill (the paper's estimated_rps); None: NP's throughput without
    that term.
    """
    frame: FrameSize | None = None
    """What clients send for one frame."""
    answer_bytes: int | None = None
    """What goes back for one frame; None: the network's outputs."""
    streams: StreamPolicy | None = None
    """Of the run time: a plan does not depend on it."""
    flow: InnerFlow = field(default=InnerFlow(), metadata=LATER)
    batch_room: float = field(default=0.0, metadata=LATER)
    """With the options' loss_share: of a batch that idle workers take from a burst at once, the share that
    counts as room for frames that wait (planner.queueing).
    """

    @property
    def own_us(self) -> int:
        """What pipelines and waiting have of the SLO."""
        return self.slo_us - self.flow.passed_us


def weight_of(demand: Demand) -> float:
    """Weight for max-rate: its own, or its rate where only that is given."""
    weight = demand.weight if demand.weight is not None else demand.rate_rps
    if weight is None:
        raise ValueError(f"demand for {demand.model}: neither weight nor rate_rps is given; give one above 0")
    return weight


@dataclass(frozen=True)
class PlanOptions:
    """Knobs of the planner; defaults are the paper's, but for the number of pipelines."""

    objective: Objective = Objective.MAX_RATE
    max_stages: int = 2
    slo_margin: float = 0.4
    batch_build_factor: float = 1.3
    pipelines_per_class_pair: int | None = None
    """At most this many pipelines of a model per ordered tuple of GPU classes; None: any number. The paper:
    1.
    """
    per_stage_batch: bool = False
    loss_share: float | None = None
    """Plan for random arrivals of which at most this share is lost (see planner.queueing), on stages whose
    latencies vary as expected; None: for throughput alone.
    """
    dispersion: float = 1.0
    """With loss_share: how bursty arrivals are, as variance over mean of their number in a stretch of time.
    Poisson: 1.
    """
    expect: Expectation = field(default_factory=Expectation)
    """What the plan is to hold under."""
    survive_servers: int = 0
    """So many servers may be lost, whichever they are: a plan promises what it then still serves."""
    least_gives: float = 0.05
    """With loss_share: the share of what the least served model could get that it may give for a better
    mean of all models. 0: max-min.
    """
    count_ends: bool = False
    """Plan the first hop and the last too: frames from the entry to first stages, preparing them there,
    answers back, and the entry's and all servers' links and cores. The paper counts none of it.
    """
    gpu_cost: Mapping[str, float] = field(default_factory=dict)
    """Cost of one GPU per class, for MIN_COST; 1.0 where absent."""


def wanted_of(demand: Demand, options: PlanOptions) -> float:
    """What the model's rate is measured by: its weight for max-rate, its rate for min-cost."""
    if options.objective is Objective.MIN_COST:
        if demand.rate_rps is None:
            raise ValueError(f"demand for {demand.model}: rate_rps is missing; min-cost needs one")
        return demand.rate_rps
    return weight_of(demand)


@dataclass(frozen=True)
class Problem:
    """Everything a planner needs. Every demand has a profile; planner.explain checks and explains."""

    cluster: Cluster
    profile: Profile
    demands: tuple[Demand, ...]
    options: PlanOptions = PlanOptions()
    cascades: tuple[Cascade, ...] = field(default=(), metadata=LATER)
    """Of these models. Their SLO, weight and rate count in place of their members' (planner.cascades)."""
