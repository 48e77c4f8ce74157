"""Group a model's layers into blocks of balanced time with small cuts, before anything is planned.

Problem. Layers 0 .. L-1 in order; layer l takes time t[g][l] on GPU class g; a cut after layer l carries c[l]
bytes. Choose N - 1 cuts so that
    (1)  lower * T[g] / N <= time of block n on g <= upper * T[g] / N    for every block n and class g
    (2)  the cut bytes are minimal; of equals, the blocks' times deviate least (sum over classes of squares)
The bounds are widened step by step until (1) can hold; the result says which bounds held.

Blocks are intervals, so the MILP with one binary per cut is a shortest path over (blocks so far, last cut),
and dynamic programming solves it exactly: no solver, no tolerance, and the same answer on every machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# (lower, upper) as multiples of the average; the last always holds.
BOUNDS: tuple[tuple[float, float], ...] = (
    (0.8, 1.2), (0.7, 1.3), (0.6, 1.4), (0.5, 1.5), (0.4, 1.6), (0.3, 1.8), (0.2, 2.0), (0.1, 2.5),
    (0.0, 3.0), (0.0, 4.0), (0.0, 6.0), (0.0, float("inf")),
)  # fmt: skip
ROUNDING = 1e-9


@dataclass(frozen=True)
class Blocks:
    """`cuts[k]`: the layer that ends block k, the last block left out; `lower`, `upper`: bounds that held."""

    cuts: tuple[int, ...]
    lower: float
    upper: float
    cut_bytes: int


def group_layers(times: Sequence[Sequence[float]], cut_bytes: Sequence[int], block_count: int) -> Blocks:
    """Group layers into `block_count` blocks, or as many as there are layers if that is fewer.

    times[g][l]: time of layer l on class g; cut_bytes[l]: bytes across the cut after layer l, one less than
    layers.
    Raises ValueError for input that does not fit together.
    """
    layer_count = len(cut_bytes) + 1
    if block_count < 1:
        raise ValueError(f"block_count {block_count} must be at least 1")
    if not times:
        raise ValueError("times: at least one GPU class is needed")
    for index, row in enumerate(times):
        if len(row) != layer_count:
            raise ValueError(
                f"times[{index}]: {len(row)} layers where {len(cut_bytes)} cuts make {layer_count}"
            )
        if any(not value >= 0 or value == float("inf") for value in row):
            raise ValueError(f"times[{index}]: {min(row)} .. {max(row)}: expected finite times >= 0")
    block_count = min(block_count, layer_count)
    for lower, upper in BOUNDS:
        found = _cheapest(times, cut_bytes, block_count, lower, upper)
        if found is not None:
            return Blocks(cuts=found, lower=lower, upper=upper, cut_bytes=sum(cut_bytes[k] for k in found))
    raise AssertionError("the last bounds hold for any blocks")


def _cheapest(
    times: Sequence[Sequence[float]], cut_bytes: Sequence[int], block_count: int, lower: float, upper: float
) -> tuple[int, ...] | None:
    """Exact dynamic programme over (number of blocks, layers covered); None where the bounds cannot hold."""
    layer_count = len(cut_bytes) + 1
    sums = [[0.0, *itertools.accumulate(row)] for row in times]
    averages = [row[-1] / block_count for row in sums]
    # best[end]: (cut bytes, deviation, cuts) of the first blocks, which cover layers [0, end)
    best: dict[int, tuple[int, float, tuple[int, ...]]] = {0: (0, 0.0, ())}
    for block in range(1, block_count + 1):
        longer: dict[int, tuple[int, float, tuple[int, ...]]] = {}
        last = block == block_count
        for start, (spent, deviation, cuts) in best.items():
            for end in _ends(sums, averages, start, lower, upper):
                if last != (end == layer_count):
                    continue
                candidate = (
                    spent + (0 if last else cut_bytes[end - 1]),
                    deviation + _deviation(sums, averages, start, end),
                    cuts if last else (*cuts, end - 1),
                )
                if end not in longer or candidate < longer[end]:
                    longer[end] = candidate
        best = longer
    return best[layer_count][2] if layer_count in best else None


def _ends(
    sums: Sequence[Sequence[float]], averages: Sequence[float], start: int, lower: float, upper: float
) -> Iterator[int]:
    """Ends of blocks from `start` whose time is within the bounds on every class."""
    for end in range(start + 1, len(sums[0])):
        above = [row[end] - row[start] - upper * mean for row, mean in zip(sums, averages, strict=True)]
        if any(excess > ROUNDING * row[-1] for excess, row in zip(above, sums, strict=True)):
            return
        below = [lower * mean - (row[end] - row[start]) for row, mean in zip(sums, averages, strict=True)]
        if all(lack <= ROUNDING * row[-1] for lack, row in zip(below, sums, strict=True)):
            yield end


def _deviation(sums: Sequence[Sequence[float]], averages: Sequence[float], start: int, end: int) -> float:
    return sum(
        ((row[end] - row[start]) / mean - 1) ** 2 if mean else 0.0
        for row, mean in zip(sums, averages, strict=True)
    )
