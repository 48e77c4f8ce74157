"""Discounts pipelines for the queueing that their slack cannot absorb, so that the search prefers those
with slack.

A pool of c workers with service time s at utilisation u makes a frame wait longer than t with probability
about exp(-2 (1 - u) c t / s): the share of a pool that can be used falls with s / t. Linear in it, as the
rates enter the MILP: usable rate = rate * (1 - factor * s / t), t the SLO less the pipeline's latency. The
factor is found by simulation (ppipe.margin); 0 is the paper's formulation.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.pipelines import Columns

LEAST_SHARE = 0.3
"""Pipelines of which less is usable are left out."""


def discounted(columns: Columns, slo_us: int, factor: float) -> Columns:
    """The columns with the rates that can be used of them; those that lose too much left out."""
    slack_us = np.maximum(1.0, slo_us - columns.latency_us)[:, None]
    finite = np.isfinite(columns.rate_rps)
    # Where a link sets the rate, this is the link's time per batch.
    service_us = np.where(finite, 1e6 * columns.batch / np.where(finite, columns.rate_rps, 1.0), 0.0)
    share = 1.0 - factor * service_us / slack_us
    keep = np.nonzero((share >= LEAST_SHARE).all(axis=1))[0]
    return replace(columns, rate_rps=columns.rate_rps * np.maximum(share, LEAST_SHARE)).select(keep)
