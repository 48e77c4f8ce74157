"""Drops pipelines that no plan needs. Lossless for whole workers, not only for the relaxation.

Rule: p is dominated by q when both run the same stages on the same GPU classes, every slice count of q is a
multiple f of p's, and f of q's workers are at least as fast as one of p's, stage by stage. Then every worker
of p can be replaced by f workers of q in the same space. Slice counts that may not share a GPU
(planner.packing) are never compared, and with per-stage batches q must not split a batch into more parts than
p. Of equals the one with the smaller latency stays, then the first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from planner.packing import MIXED_SLICES
from planner.pipelines import Columns, Ints

BLOCK = 256
TOLERANCE = 1e-12
Flags = npt.NDArray[np.bool_]


def undominated(columns: Columns, by_latency: bool = False) -> Ints:
    """Row numbers of the pipelines to keep, ascending. `by_latency`: slack counts too."""
    keys, group = np.unique(columns.gpu, axis=0, return_inverse=True)
    kept = [
        _front(columns, np.nonzero(group.ravel() == number)[0], by_latency) for number in range(len(keys))
    ]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))


def _front(columns: Columns, rows: Ints, by_latency: bool) -> Ints:
    """Undominated rows of one group of equal class tuples: the largest first, compared block by block."""
    stages = int((columns.gpu[rows[0]] >= 0).sum())
    capacity = np.zeros(len(rows))
    for stage in range(stages):
        capacity += np.log(columns.rate_rps[rows, stage] * columns.slices[rows, stage])
    # A dominating row never has a smaller capacity, so it comes first; then by the rule for equals.
    fineness = columns.slices[rows, :stages].prod(axis=1)
    order = rows[np.lexsort((rows, columns.latency_us[rows], -fineness, -np.round(capacity, 9)))]
    kept = np.zeros(0, np.int64)
    for low in range(0, len(order), BLOCK):
        block = order[low : low + BLOCK]
        if len(kept):
            block = block[~_dominates(columns, kept, block, stages, by_latency).any(axis=0)]
        within = _dominates(columns, block, block, stages, by_latency)
        earlier = np.triu(within, k=1)
        kept = np.concatenate([kept, block[~earlier.any(axis=0)]])
    return kept


def _dominates(columns: Columns, better: Ints, worse: Ints, stages: int, by_latency: bool) -> Flags:
    """[i, j]: does row better[i] dominate row worse[j]?"""
    result: Flags = np.ones((len(better), len(worse)), dtype=bool)
    if by_latency:
        result &= columns.latency_us[better][:, None] <= columns.latency_us[worse][None, :]
        result &= columns.batch[better, 0][:, None] <= columns.batch[worse, 0][None, :]
    for stage in range(stages):
        slices = columns.slices[better, stage][:, None]
        others = columns.slices[worse, stage][None, :]
        factor = slices // others
        faster = columns.rate_rps[better, stage][:, None] * factor >= columns.rate_rps[worse, stage] * (
            1 - TOLERANCE
        )
        mixable = (slices == others) | ((slices <= MIXED_SLICES) & (others <= MIXED_SLICES))
        parts = columns.batch[better, 0] // columns.batch[better, stage]
        fewer = parts[:, None] <= (columns.batch[worse, 0] // columns.batch[worse, stage])[None, :]
        result &= (slices % others == 0) & faster & mixable & fewer
    return result
