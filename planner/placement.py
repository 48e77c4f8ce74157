"""Where the workers of a plan run, and each model's share of the links: made by planner.placing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlacedWorker:
    """One worker: `worker` counts within its stage; `slice_index` counts from 0 within the GPU."""

    model: str
    pipeline: int
    stage: int
    worker: int
    server: str
    gpu_id: int
    slice_index: int


@dataclass(frozen=True)
class LinkShare:
    """The part of one server's link that one model's dispatcher may reserve, per direction, each in [0,
    1].
    """

    model: str
    server: str
    uplink: float
    downlink: float


@dataclass(frozen=True)
class Placement:
    """Where every worker of a plan runs, in (model, pipeline, stage, worker) order."""

    workers: tuple[PlacedWorker, ...]
    link_shares: tuple[LinkShare, ...]
