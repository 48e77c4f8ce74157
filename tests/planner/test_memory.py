"""What fits a worker's part of a GPU."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cluster import Executor, GpuClass
from planner.execution import CONTEXT_BYTES
from planner.memory import (
    SERVER_BYTES,
    UNLIMITED,
    largest_batch,
    least_stage_bytes,
    stage_bytes,
    worker_bytes,
)
from planner.plan import BlockRange
from planner.profile import ModelProfile

GIB = 1 << 30
MODEL = ModelProfile(
    model="net",
    cut_bytes=(8,),
    tables=(),
    weight_bytes=(GIB // 2, GIB // 4),
    activation_bytes=(GIB // 8, GIB // 4),
)
WHOLE = BlockRange(0, 2)


@pytest.mark.parametrize(
    ("slices", "batch"),
    [
        (1, 9),  # 4 GiB less 0.5 for the server, 0.5 for the context and 0.75 of weights: 2.25 GiB of 0.25
        (2, 2),  # 3.5 / 2 less 0.5 and 0.75
        (4, 0),
    ],
)
def test_each_workers_context_and_the_servers_are_counted(slices: int, batch: int) -> None:
    assert largest_batch(MODEL, GpuClass("G", memory_bytes=4 * GIB), slices, WHOLE) == batch


def test_workers_of_all_slices_and_the_server_fill_the_gpu() -> None:
    gpu = GpuClass("G", memory_bytes=8 * GIB)
    for slices in (1, 2, 3, 4):
        part = worker_bytes(gpu, slices)
        assert part is not None
        assert 0 <= 8 * GIB - SERVER_BYTES - slices * part < slices


def test_a_gpu_too_small_for_cuda_itself_fits_nothing() -> None:
    assert largest_batch(MODEL, GpuClass("G", memory_bytes=SERVER_BYTES // 2), 1, WHOLE) == 0
    assert largest_batch(MODEL, GpuClass("G", memory_bytes=SERVER_BYTES + CONTEXT_BYTES), 1, WHOLE) == 0


def test_a_cpu_has_no_context_and_an_emulated_gpu_has_the_one_it_stands_for() -> None:
    size = SERVER_BYTES + CONTEXT_BYTES + GIB
    batches = [
        largest_batch(MODEL, GpuClass("G", memory_bytes=size, executor=executor), 1, WHOLE)
        for executor in (Executor.CPU, Executor.EMULATED, Executor.CUDA)
    ]
    assert batches == [5, 1, 1]


def test_memory_that_is_not_modelled_limits_nothing() -> None:
    assert largest_batch(MODEL, GpuClass("G"), 4, WHOLE) == UNLIMITED


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6), st.integers(1, 4))
def test_the_best_split_is_the_best_of_all(sizes: list[tuple[int, int]], stages: int) -> None:
    weights, activations = zip(*sizes, strict=True)
    model = ModelProfile(
        model="net",
        cut_bytes=(8,) * (len(sizes) - 1),
        tables=(),
        weight_bytes=weights,
        activation_bytes=activations,
    )
    splits = (
        (0, *cuts, len(sizes))
        for count in range(min(stages, len(sizes)))
        for cuts in itertools.combinations(range(1, len(sizes)), count)
    )
    best = min(
        max(stage_bytes(model, BlockRange(*edges), 2) for edges in itertools.pairwise(split))
        for split in splits
    )
    assert least_stage_bytes(model, stages, 2) == best
