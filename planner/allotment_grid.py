"""The small allotments of a cluster, layer by layer: all of 1 GPU, all of 2 GPUs, ...

Rule: the same on every machine, and one grid for all models of a cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.dominance import Flags
from planner.pipelines import Floats, Ints

MOST_LISTED = 800
"""Small allotments per cluster: with 3 classes all of up to 15 GPUs, with 4 up to 9, with 6 up to 5."""
LARGEST = 20
"""GPUs; larger allotments are not listed: settling them takes long, and prices alone are nearly exact."""
DIRECTIONS = 20
"""Prices per class in use that U starts from."""


@dataclass(frozen=True, eq=False)
class Alike:
    """Small allotments (rows of the grid) that have none, one or more GPUs of the same classes: pipelines
    mostly run on all of them or on none. directions: [direction, class], prices to bound them by; one table
    for all that have GPUs of the same classes.
    """

    rows: Ints
    up_to_two: Floats
    directions: Floats


@dataclass(frozen=True, eq=False)
class Grid:
    """The small allotments of a cluster. gpus: [allotment, class]; below[i, j]: is i within j (i <= j)?
    less: [allotment, class], the row with one GPU less of the class; -1 where it has none, or no other.
    """

    counts: tuple[int, ...]
    gpus: Floats
    below: Flags
    less: Ints
    largest: int
    """GPUs of the largest allotments listed; all of the cluster's where no allotment is large."""
    alike: tuple[Alike, ...]

    @staticmethod
    def of(gpu_counts: Sequence[int], most: int = LARGEST) -> Grid:
        """As many whole layers (1 GPU, 2 GPUs, ...) as MOST_LISTED allows, at least one, at most `most`."""
        rows: list[tuple[int, ...]] = []
        largest = 0
        for total in range(1, min(most, sum(gpu_counts)) + 1):
            layer = _layer(gpu_counts, total, MOST_LISTED - len(rows) if rows else len(gpu_counts))
            if layer is None:
                break
            rows, largest = rows + layer, total
        gpus = np.array(rows, dtype=np.float64).reshape(len(rows), len(gpu_counts))
        below = np.ones((len(rows), len(rows)), dtype=bool)
        for g in range(len(gpu_counts)):
            below &= gpus[:, None, g] <= gpus[None, :, g]
        patterns, number = np.unique(np.minimum(gpus, 2), axis=0, return_inverse=True)
        directions = {bytes(pattern > 0): _directions(pattern > 0) for pattern in patterns}
        alike = [
            Alike(np.nonzero(number.ravel() == index)[0], pattern, directions[bytes(pattern > 0)])
            for index, pattern in enumerate(patterns)
        ]
        return Grid(tuple(gpu_counts), gpus, below, _with_less(rows), largest, tuple(alike))

    @property
    def complete(self) -> bool:
        """Is every allotment of the cluster listed?"""
        return self.largest == sum(self.counts)


def _layer(gpu_counts: Sequence[int], total: int, room: int) -> list[tuple[int, ...]] | None:
    """All allotments of `total` GPUs, or None where there are more than `room`."""
    classes = [g for g, count in enumerate(gpu_counts) if count]
    layer: list[tuple[int, ...]] = []
    for chosen in itertools.combinations_with_replacement(classes, total):
        gpus = tuple(chosen.count(g) for g in range(len(gpu_counts)))
        if all(mine <= count for mine, count in zip(gpus, gpu_counts, strict=True)):
            if len(layer) >= room:
                return None
            layer.append(gpus)
    return layer


def _with_less(rows: Sequence[tuple[int, ...]]) -> Ints:
    number = {row: index for index, row in enumerate(rows)}
    return np.array(
        [[number.get((*row[:g], row[g] - 1, *row[g + 1 :]), -1) for g in range(len(row))] for row in rows],
        dtype=np.int64,
    )


def _directions(on: Flags) -> Floats:
    """[direction, class]: above 0 for the classes in use, 0 for others. The same on every machine."""
    classes = np.nonzero(on)[0]
    rng = np.random.default_rng(0)
    mixed = rng.dirichlet(np.ones(len(classes)), 1 if len(classes) == 1 else DIRECTIONS * len(classes))
    corners = np.eye(len(classes)) * 0.98 + 0.02 / len(classes)
    prices = np.zeros((len(mixed) + len(classes), len(on)))
    prices[:, classes] = np.concatenate([corners, mixed])
    return prices


def priced(table: Floats, prices: Floats) -> Floats:
    """[row]: sum over classes, one by one: a matrix product's last bits vary by machine."""
    total = np.zeros(len(table))
    for g, price in enumerate(prices):
        total = total + table[:, g] * price
    return total


def priced_all(table: Floats, directions: Floats) -> Floats:
    """[direction, row]: the same for many prices."""
    total = np.zeros((len(directions), len(table)))
    for g in range(table.shape[1]):
        total = total + directions[:, g, None] * table[None, :, g]
    return total
