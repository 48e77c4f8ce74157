"""Counts of a plan -> server, GPU id, slice of every worker, and each model's fixed share of each link direction.

Rules: a GPU serves one (model, stage position); a pool spans two servers where it can; shares of one link direction sum
to at most 1.
"""

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
    """The part of one server's link that one model's dispatcher may reserve, per direction, each in [0, 1]."""

    model: str
    server: str
    uplink: float
    downlink: float


@dataclass(frozen=True)
class Placement:
    """Where every worker of a plan runs, in (model, pipeline, stage, worker) order."""

    workers: tuple[PlacedWorker, ...]
    link_shares: tuple[LinkShare, ...]
