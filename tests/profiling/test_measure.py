"""Timing on this device: order of repeats, early stop, running out of memory."""

from __future__ import annotations

import pytest
import torch

from planner.execution import ExecutorOptions, Precision
from planner.profiling.measuring import timing
from planner.profiling.measuring.measure import MeasureOptions, identity_of, measure
from planner.profiling.measuring.partial import Partial
from planner.profiling.measuring.timing import device_name, random_frames, torch_threads
from planner.profiling.networks.errors import ModelError
from planner.profiling.precision import precision_error
from planner.profiling.split import split_model
from python_backend.stage.executors.runner import prepare
from tests.profiling import nets


@pytest.fixture
def split(spec):
    return split_model(spec(nets.Chain))


@pytest.fixture
def times_are(monkeypatch):
    """times_are(batch -> microseconds of each of the 4 blocks); returns the batches asked for, in order."""

    def make(times_of_batch):
        seen: list[int] = []

        def chain(blocks, values, device, while_busy):
            batch = values[0].shape[0]
            seen.append(batch)
            return [float(times_of_batch(batch))] * len(blocks)

        monkeypatch.setattr(timing, "time_chain", chain)
        return seen

    return make


def test_repeats_are_interleaved_and_the_median_counts(split, times_are):
    noise = iter([5, 5, 5, 5, 900, 10, 10, 20, 20, 900])
    seen = times_are(lambda batch: next(noise))
    result = measure(split, [2, 1], MeasureOptions(warm_up=2, repeats=3))
    assert seen == [1, 1, 2, 2, 1, 2, 1, 2, 1, 2]
    assert result.batch_sizes == (1, 2)
    assert result.latency_us == ((20.0, 20.0),) * 4
    assert result.spread[0][0] > 0


def test_larger_batches_are_left_out_once_no_block_meets_the_slo(split, times_are):
    times_are(lambda batch: 100 * batch)
    result = measure(split, [1, 2, 4, 8], MeasureOptions(stop_us=150, repeats=1))
    assert result.batch_sizes == (1, 2)
    assert result.notes == ("batches over 2: no block meets the SLO of 0.15 ms",)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")]
)
def test_out_of_memory_ends_the_batch_sizes_and_is_noted(split, times_are, error):
    def times(batch):
        if batch > 2:
            raise error
        return 1

    times_are(times)
    result = measure(split, [1, 2, 4, 8], MeasureOptions(repeats=1))
    assert result.batch_sizes == (1, 2)
    assert result.notes == ("batch 4 and larger: out of memory on cpu",)


def test_out_of_memory_after_the_warm_up_leaves_the_smaller_batches(split, times_are):
    runs = []

    def times(batch):
        runs.append(batch)
        if batch == 4 and runs.count(4) > 2:
            raise torch.OutOfMemoryError
        return 1

    times_are(times)
    result = measure(split, [1, 2, 4, 8], MeasureOptions(repeats=2))
    assert result.batch_sizes == (1, 2)
    assert result.notes == ("batch 4 and larger: out of memory on cpu",)


def test_other_errors_are_not_taken_for_a_lack_of_memory(split, times_are):
    def times(batch):
        raise RuntimeError("shape mismatch")

    times_are(times)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        measure(split, [1])


def test_nothing_that_fits_is_an_error(split, times_are):
    def times(batch):
        raise torch.OutOfMemoryError

    times_are(times)
    with pytest.raises(ModelError, match="model net: out of memory on cpu at the smallest"):
        measure(split, [4, 8])


def test_measuring_twice_says_how_far_the_two_differ(split, times_are):
    # Warm-up, then two measurements of two rounds at two batch sizes: batch 2 takes 10 % longer.
    times = iter([1, 1, 100, 100, 100, 100, 100, 110, 100, 110])
    times_are(lambda batch: next(times))
    result = measure(split, [1, 2], MeasureOptions(warm_up=1, repeats=2, repeat_check=True))
    assert result.repeatability == pytest.approx(0.1)
    assert result.latency_us[0] == (100, 105)


def test_an_interrupted_measurement_goes_on_where_it_was(split, times_are, tmp_path):
    class Killed(BaseException):
        pass

    def killed_at_last(batch):
        if len(seen) == 5:  # two of warm-up, then rounds of two batches
            raise Killed
        return 7

    options = MeasureOptions(warm_up=1, repeats=2)
    identity = identity_of(split, options, slices=1)
    file = tmp_path / "folder" / "partial.jsonl"
    seen = times_are(killed_at_last)
    with pytest.raises(Killed):
        measure(split, [1, 2], options, partial=Partial(file, identity))
    with file.open("a") as lines:
        lines.write('{"of": {"cut short')
    again = times_are(lambda batch: 9)
    result = measure(split, [1, 2], options, partial=Partial(file, identity))
    assert again == [1, 2, 1, 2], "warm-up, then only the second round"
    assert result.latency_us == ((8.0, 8.0),) * 4, "of 7 and 9"
    assert Partial(file, identity).known == {(0, 1), (0, 2), (1, 1), (1, 2)}


def test_kept_timings_of_anything_else_are_not_used(split, tmp_path):
    file = tmp_path / "partial.jsonl"
    identity = identity_of(split, MeasureOptions(), slices=1)
    Partial(file, identity).add(0, 1, (1.0,))
    half = MeasureOptions(executor=ExecutorOptions(precision=Precision.BF16))
    assert Partial(file, identity_of(split, half, slices=1)).known == frozenset()
    assert Partial(file, identity_of(split, MeasureOptions(), slices=2)).known == frozenset()
    assert Partial(file, {**identity, "split": "another"}).known == frozenset()
    assert Partial(file, identity).get(0, 1) == (1.0,)


@pytest.mark.parametrize("executor", [ExecutorOptions(), ExecutorOptions(precision=Precision.BF16)])
def test_real_times_are_positive_on_the_executors_own_path(split, executor):
    result = measure(split, [1, 4], MeasureOptions(repeats=3, executor=executor, prepare=prepare))
    assert all(value > 0 for row in result.latency_us for value in row)
    assert int(result.facts["peak_process_bytes"]) > 0


def test_the_error_of_a_precision_is_measured_on_the_models_outputs(split):
    def error(precision):
        return precision_error(
            split, MeasureOptions(executor=ExecutorOptions(precision=precision), prepare=prepare)
        )

    assert error(Precision.FP32) == 0.0
    assert error(Precision.TF32) == 0.0, "on a CPU"
    assert 0 < error(Precision.FP16) < error(Precision.BF16) < 0.05


def test_a_precision_that_overflows_is_said(spec):
    overflowing = split_model(spec(nets.Overflowing))
    options = MeasureOptions(executor=ExecutorOptions(precision=Precision.FP16), prepare=prepare)
    with pytest.raises(ModelError, match="in fp16 its outputs are not finite numbers; set executor_options"):
        precision_error(overflowing, options)


def test_noise_fills_the_range_of_its_type(spec):
    frame = split_model(spec(nets.Single)).inputs[0]
    whole = random_frames(type(frame)("x", "UINT8", (3, 8, 8)), 4, "cpu", seed=0)[0]
    assert whole.dtype is torch.uint8
    assert int(whole.max()) > 200
    assert 0 <= float(random_frames(frame, 4, "cpu", seed=0)[0].min()) < 0.1


def test_threads_are_set_and_set_back():
    before = torch.get_num_threads()
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_the_device_is_named_with_its_threads():
    assert device_name("cpu", 1).endswith("(1 thread)")
    assert device_name("cpu", 4).endswith("(4 threads)")
