"""Timing on this device: order of repeats, early stop, running out of memory."""

from __future__ import annotations

import pytest
import torch

from planner.profiling import measure as measuring
from planner.profiling.measure import MeasureOptions, device_name, measure, torch_threads
from planner.profiling.split import split_model
from tests.profiling import nets


@pytest.fixture
def split(spec):
    return split_model(spec(nets.Chain))


def fake_chain(times_of_batch, seen):
    """A stand-in for the run of all blocks: 4 blocks of times_of_batch(batch) microseconds each."""

    def chain(blocks, values, device):
        batch = values[0].shape[0]
        seen.append(batch)
        return [float(times_of_batch(batch))] * len(blocks)

    return chain


def test_repeats_are_interleaved_and_the_median_counts(split, monkeypatch):
    seen: list[int] = []
    noise = iter([5, 5, 5, 5, 900, 10, 10, 20, 20, 900])
    monkeypatch.setattr(measuring, "_chain", fake_chain(lambda batch: next(noise), seen))
    result = measure(split, [2, 1], MeasureOptions(warm_up=2, repeats=3))
    assert seen == [1, 1, 2, 2, 1, 2, 1, 2, 1, 2]
    assert result.batch_sizes == (1, 2)
    assert result.latency_us == ((20.0, 20.0),) * 4
    assert result.spread[0][0] > 0


def test_larger_batches_are_left_out_once_no_block_meets_the_slo(split, monkeypatch):
    monkeypatch.setattr(measuring, "_chain", fake_chain(lambda batch: 100 * batch, []))
    result = measure(split, [1, 2, 4, 8], MeasureOptions(stop_us=150, repeats=1))
    assert result.batch_sizes == (1, 2)
    assert result.notes == ("batches over 2: no block meets the SLO of 0.15 ms",)


def test_out_of_memory_ends_the_batch_sizes_and_is_noted(split, monkeypatch):
    def times(batch):
        if batch > 2:
            raise torch.OutOfMemoryError
        return 1

    monkeypatch.setattr(measuring, "_chain", fake_chain(times, []))
    result = measure(split, [1, 2, 4, 8], MeasureOptions(repeats=1))
    assert result.batch_sizes == (1, 2)
    assert result.notes == ("batch 4 and larger: out of memory on cpu",)


def test_real_times_are_positive(split):
    result = measure(split, [1, 4], MeasureOptions(repeats=3))
    assert all(value > 0 for row in result.latency_us for value in row)


def test_threads_are_set_and_set_back():
    before = torch.get_num_threads()
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_the_device_is_named_with_its_threads():
    assert device_name("cpu", 1).endswith("(1 thread)")
    assert device_name("cpu", 4).endswith("(4 threads)")
