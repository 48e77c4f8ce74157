"""Discounts pipelines for the queueing that their slack cannot absorb: the search then looks for slack too.

A pool of c workers with service time s at utilisation u makes a frame wait longer than t with probability
about exp(-2 (1 - u) c t / s). A pool that serves R frames/s in batches of b has c / s of about R / b, so the
share of it that must stay unused falls with b / (R t): usable rate = rate * (1 - factor * b / (R t)), t the
SLO less the pipeline's latency, R the rate that the model may get at most. Linear, as rates enter the MILP.
The factor is found by simulation (ppipe.margin); 0 is the paper's formulation.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.pipelines import Columns

LEAST_SHARE = 0.3
"""Pipelines of which less is usable are left out."""


def discounted(columns: Columns, slo_us: int, factor: float, rate_rps: float) -> Columns:
    """The columns with the rates that can be used of them; those that lose too much left out."""
    slack_us = np.maximum(1.0, slo_us - columns.latency_us)[:, None]
    gap_us = 1e6 * columns.batch / max(rate_rps, 1e-9)
    # Padding behind the last stage has batch 0, and loses nothing.
    share = 1.0 - factor * gap_us / slack_us
    keep = np.nonzero((share >= LEAST_SHARE).all(axis=1))[0]
    return replace(columns, rate_rps=columns.rate_rps * np.maximum(share, LEAST_SHARE)).select(keep)
