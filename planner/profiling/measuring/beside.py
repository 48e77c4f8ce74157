"""Times a slice of a device while another model's stages run on the others, as a plan of several models may
have it: slices share caches and the memory's bandwidth, and other models use those otherwise.

Rules
- The neighbours run whole passes at their largest batch from before the first round until after the last, so
  no figure is of an idle neighbour.
- What is planned with is the worse of the two, block by block and batch by batch: beside slices of its own
  model (planner.profiling.measuring.mps), or beside the worst of the other models.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from planner.profiling.measuring.measure import Bench, Measurement, Step, require_some
from planner.profiling.measuring.mps import (
    SliceJob,
    as_slice,
    gather,
    processes,
    require_mps,
    run_slice,
    timed,
)
from planner.profiling.measuring.partial import Partial
from planner.profiling.split import split_model


def measure_beside(
    job: SliceJob, other: SliceJob, slices: int, step: Step | None = None, partial: Partial | None = None
) -> Measurement:
    """The times of one of `slices` slices while all others run another model. Raises ModelError, also where
    a process ends early.
    """
    require_mps(job.options.device)
    label = f"{job.spec.name} beside {other.spec.name} in {slices} slices"
    with processes(run_neighbour, other, slices, slices - 1) as neighbours:
        gather(neighbours, other, slices)
        with processes(run_slice, job, slices, 1) as workers:
            found = timed(workers, job, slices, [partial or Partial(None, {})], step, label)
        for neighbour in neighbours:
            with contextlib.suppress(OSError):  # it has ended, and has said why
                neighbour.pipe.send(None)
        gather(neighbours, other, slices)
    return found


def run_neighbour(job: SliceJob, slices: int, barrier: Any, pipe: Connection) -> None:
    """The body of one process that keeps its slice busy."""
    as_slice(_keep_busy, job, slices, barrier, pipe)


def _keep_busy(job: SliceJob, barrier: Any, pipe: Connection) -> None:
    del barrier  # neighbours need not keep step
    split = split_model(job.spec, job.classes)
    bench = Bench(split, job.options, max(job.batch_sizes))
    usable, _ = bench.usable(job.batch_sizes)
    require_some(split, usable, job.options.device)
    pipe.send(None)
    while not pipe.poll():
        if bench.try_time(usable[-1]) is None:
            raise MemoryError(f"out of memory at batch {usable[-1]}, which had fit; leave it out")
    pipe.recv()
    pipe.send(None)


def worse_of(own: Measurement, others: Sequence[Measurement]) -> Measurement:
    """What to plan with, and both figures, at the batch sizes that fit the device in all of them."""
    sizes = [size for size in own.batch_sizes if all(size in one.batch_sizes for one in others)]
    alone, *beside = (_at(one, sizes) for one in (own, *others))
    worst = alone
    others_us = beside[0].latency_us
    for one in beside:
        worst = _larger(worst, one)
        others_us = _larger_us(others_us, one.latency_us)
    notes = dict.fromkeys(note for one in (own, *others) for note in one.notes)
    return replace(worst, notes=tuple(notes), beside_own_us=alone.latency_us, beside_others_us=others_us)


def _at(one: Measurement, sizes: Sequence[int]) -> Measurement:
    columns = [one.batch_sizes.index(size) for size in sizes]
    return replace(
        one,
        batch_sizes=tuple(sizes),
        latency_us=tuple(tuple(row[column] for column in columns) for row in one.latency_us),
        spread=tuple(tuple(row[column] for column in columns) for row in one.spread),
    )


def _larger(one: Measurement, other: Measurement) -> Measurement:
    """Of each cell the longer time, with the spread that it has."""
    pairs = [
        [
            max(cells, key=lambda cell: cell[0])
            for cells in zip(zip(*mine, strict=True), zip(*theirs, strict=True), strict=True)
        ]
        for mine, theirs in zip(
            zip(one.latency_us, one.spread, strict=True),
            zip(other.latency_us, other.spread, strict=True),
            strict=True,
        )
    ]
    return replace(
        one,
        latency_us=tuple(tuple(us for us, _ in row) for row in pairs),
        spread=tuple(tuple(spread for _, spread in row) for row in pairs),
    )


def _larger_us(
    one: tuple[tuple[float, ...], ...], other: tuple[tuple[float, ...], ...]
) -> tuple[tuple[float, ...], ...]:
    return tuple(
        tuple(max(pair) for pair in zip(*rows, strict=True)) for rows in zip(one, other, strict=True)
    )
