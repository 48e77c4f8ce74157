"""Estimates from the catalogue: fused kernels, rooflines, calibration, and merging with measured profiles."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.execution import Precision
from planner.profile import LatencyTable, ModelProfile, Profile, Source
from planner.profiling.gpus import CATALOGUE, find_gpu
from planner.profiling.kernels import Kernel, kernels_of
from planner.profiling.merge import MergeError, merge_profiles
from planner.profiling.network import KernelKind
from planner.profiling.roofline import FITTED, Work, block_kernels, estimated_tables
from planner.profiling.split import split_model
from tests.profiling import nets

FRAME = 64 * 4  # bytes of one channel


def kernels_us(kernels, gpu, slices, batch_size):
    """Microseconds of a run of kernels for a batch."""
    return float(Work(kernels).us(gpu, slices, [batch_size])[0])


def kernels(spec, net):
    network = split_model(spec(net)).network
    return kernels_of(network, network.whole)


def test_an_activation_joins_its_convolution(spec):
    found = kernels(spec, nets.Chain)
    assert [kernel.kind for kernel in found] == [KernelKind.CONVOLUTION] * 4
    # Read 4 channels, write 4; the value between convolution and activation is never written.
    assert found[1].activation_bytes == 8 * FRAME
    assert found[1].flops == 2 * 4 * 64 * 4 * 9
    assert found[1].outputs == 4 * 64


def test_a_sum_joins_the_later_of_its_convolutions_and_reads_the_earlier(spec):
    class_of = {kernel.kind for kernel in kernels(spec, nets.InPlace)}
    assert class_of == {KernelKind.CONVOLUTION, KernelKind.POINTWISE}
    last = kernels(spec, nets.InPlace)[-1]
    assert last.kind is KernelKind.CONVOLUTION
    # The convolution's input is the skip as well: read once, and the sum is written.
    assert last.activation_bytes == 8 * FRAME


def test_softmax_and_attention_are_told_apart(spec):
    kinds = [kernel.kind for kernel in kernels(spec, nets.Attention)]
    assert kinds.count(KernelKind.CONVOLUTION) == 1
    assert KernelKind.PRODUCT in kinds


sizes = st.integers(0, 10**9)
made_kernels = st.builds(
    Kernel,
    kind=st.sampled_from(list(KernelKind)),
    flops=sizes,
    activation_bytes=sizes,
    weight_bytes=sizes,
    outputs=st.integers(1, 10**8),
)


@given(made_kernels, st.sampled_from(CATALOGUE), st.integers(1, 63))
def test_no_batch_is_faster_than_a_smaller_one_and_no_slice_than_the_whole(kernel, gpu, batch):
    assert kernels_us([kernel], gpu, 1, batch) <= kernels_us([kernel], gpu, 1, batch + 1)
    assert kernels_us([kernel], gpu, 1, batch) <= kernels_us([kernel], gpu, 2, batch)


def test_a_memory_bound_kernel_by_hand():
    copy = Kernel(kind=KernelKind.POINTWISE, flops=0, activation_bytes=300_000, weight_bytes=0, outputs=1)
    assert kernels_us([copy], find_gpu("L4"), 1, 8) == pytest.approx(
        2.4e6 / (300e3 * 0.83) + FITTED.launch_us
    )


def test_large_convolutions_follow_the_peak():
    ratio = kernels_us([LARGE], find_gpu("T4"), 1, 1) / kernels_us([LARGE], find_gpu("L4"), 1, 1)
    assert ratio == pytest.approx((60 * 0.6) / (8.1 * 0.64), rel=0.01)


LARGE = Kernel(
    kind=KernelKind.CONVOLUTION,
    flops=10**12,
    activation_bytes=1,
    weight_bytes=1,
    outputs=10**9,
    columns=10**6,
)


@pytest.mark.parametrize(
    ("gpu", "precision", "tflops", "tensor_cores"),
    [
        ("L4", Precision.TF32, 60, True),
        ("L4", Precision.FP32, 30.3, False),
        ("L4", Precision.BF16, 121, True),
        ("T4", Precision.TF32, 8.1, False),  # no TF32 before Ampere: FP32
        ("T4", Precision.FP16, 65, True),
        ("T4", Precision.BF16, 8.1, False),
        ("V100", Precision.FP16, 125, True),
        ("P4", Precision.FP16, 5.5, False),  # FP16 at 1/64 of the speed: computed in FP32
        ("P100", Precision.FP16, 21.2, False),  # twice the FP32 speed, without tensor cores
    ],
)
def test_the_peak_is_that_of_the_chosen_precision(gpu, precision, tflops, tensor_cores):
    unit = find_gpu(gpu).matrix_unit(precision)
    assert (unit.tflops, unit.tensor_cores) == (tflops, tensor_cores)
    us = float(Work([LARGE]).us(find_gpu(gpu), 1, [1], precision=precision)[0])
    assert us == pytest.approx(10**12 / (tflops * 1e6 * unit.sustained), rel=0.01)


def test_half_precision_moves_half_the_bytes():
    copy = Kernel(
        kind=KernelKind.POINTWISE, flops=0, activation_bytes=3 * 10**8, weight_bytes=10**7, outputs=1
    )
    full, half = (
        float(Work([copy]).us(find_gpu("P4"), 1, [4], precision=precision)[0]) - FITTED.launch_us
        for precision in (Precision.FP32, Precision.FP16)
    )
    assert half == pytest.approx(full / 2)


def test_tables_in_a_precision_that_nobody_measured_say_so(spec):
    split = split_model(spec(nets.Chain), device="meta")
    (usual,) = estimated_tables(split, "T4", (1,))
    (same,) = estimated_tables(split, "T4", (1,), precision=Precision.FP32)
    (half,) = estimated_tables(split, "T4", (1,), precision=Precision.FP16)
    assert usual == same
    assert half.latency_us != usual.latency_us
    assert half.expected_error > usual.expected_error


def test_narrow_convolutions_leave_tensor_cores_half_empty_and_cuda_cores_not():
    def slowdown(gpu):
        narrow = dataclasses.replace(LARGE, columns=int(FITTED.tile))
        return kernels_us([narrow], find_gpu(gpu), 1, 1) / kernels_us([LARGE], find_gpu(gpu), 1, 1)

    assert slowdown("L4") == pytest.approx(2, rel=0.01)
    assert slowdown("T4") == pytest.approx(1, rel=0.01)


def test_a_smooth_activation_is_a_kernel_of_its_own(spec):
    found = kernels(spec, nets.Gated)
    # The first convolution, SiLU, a pooled gate with its sigmoid, the product, the last convolution.
    assert [kernel.kind.value for kernel in found] == [
        "convolution", "pointwise", "reduction", "convolution", "pointwise", "pointwise", "convolution",
    ]  # fmt: skip
    assert found[0].columns == 4
    assert found[1].activation_bytes == 8 * FRAME


@pytest.mark.parametrize("name", ["L4", "l4", "NVIDIA L4", "nvidia-l4"])
def test_class_names_are_found_in_any_spelling(name):
    assert find_gpu(name).name == "L4"


def test_an_unknown_class_offers_the_nearest():
    with pytest.raises(KeyError, match=r"no GPU class 'A1000' in the catalogue; nearest: A100"):
        find_gpu("A1000")


def test_tables_are_labelled_and_sliced(spec):
    split = split_model(spec(nets.Chain), device="meta")
    whole, half = estimated_tables(split, "T4", (2, 1), max_slices=2)
    assert (whole.source, whole.gpu, whole.batch_sizes) == (Source.ESTIMATED, "T4", (1, 2))
    assert whole.latency_us[0][0] == kernels_us(block_kernels(split)[0], find_gpu("T4"), 1, 1)
    assert half.latency_us[1][1] > whole.latency_us[1][1]


def test_a_measured_class_calibrates_the_others_block_by_block(spec):
    split = split_model(spec(nets.Chain), device="meta")
    (plain,) = estimated_tables(split, "L4", (1, 2))
    (t4,) = estimated_tables(split, "T4", (1, 2))
    measured = dataclasses.replace(
        t4, source=Source.MEASURED, latency_us=tuple((3 * row[0], row[1]) for row in t4.latency_us)
    )
    (calibrated,) = estimated_tables(split, "L4", (1, 2), measured=[measured])
    for before, after in zip(plain.latency_us, calibrated.latency_us, strict=True):
        assert after == pytest.approx((3 * before[0], before[1]))
    # A table that nobody measured says nothing.
    assert estimated_tables(split, "L4", (1, 2), measured=[t4]) == [plain]


def table(gpu, value, source=Source.MEASURED):
    return LatencyTable(
        gpu=gpu, slices_per_gpu=1, batch_sizes=(1,), latency_us=((value,), (value,)), source=source
    )


def profile(*tables, split="abc", **provenance):
    model = ModelProfile(model="net", cut_bytes=(8,), tables=tables, split=split, provenance=provenance)
    return Profile(models=(model,))


def test_merged_profiles_have_all_classes_and_prefer_measurements():
    first = profile(table("L4", 1.0), table("T4", 9.0, Source.ESTIMATED), device="NVIDIA L4")
    second = profile(table("T4", 5.0), table("L4", 7.0, Source.ESTIMATED), device="Tesla T4")
    (merged,) = merge_profiles([first, second]).models
    assert merged.tables == (table("L4", 1.0), table("T4", 5.0))
    assert merged.provenance == {"device": "NVIDIA L4", "device_2": "Tesla T4"}


def test_profiles_of_different_splits_are_refused():
    with pytest.raises(MergeError, match=r"model net: profile 1 is of split abc .* profile 2 of split xyz"):
        merge_profiles([profile(table("L4", 1.0)), profile(table("T4", 1.0), split="xyz")])


def test_two_measurements_of_one_class_are_refused_unless_equal():
    same = profile(table("L4", 1.0))
    assert merge_profiles([same, same]).models[0].tables == (table("L4", 1.0),)
    with pytest.raises(MergeError, match="class L4 in 1 slices was measured twice"):
        merge_profiles([same, profile(table("L4", 2.0))])


def test_nothing_to_merge():
    with pytest.raises(MergeError, match="no profiles"):
        merge_profiles([])


def test_the_catalogue_has_the_classes_of_clouds_each_with_a_source_and_a_price():
    names = [gpu.name for gpu in CATALOGUE]
    assert {"P4", "T4", "L4", "V100", "A10", "A30", "A100", "L40S", "H100"} <= set(names)
    assert len(set(names)) == len(names)
    assert all("data sheet" in gpu.source and gpu.price_per_hour > 0 for gpu in CATALOGUE)
    assert {gpu.name: gpu.max_slices for gpu in CATALOGUE if gpu.mig} == {
        "A30": 4,
        "A100": 7,
        "A100-80GB": 7,
        "H100": 7,
        "H200": 7,
    }


def test_tables_carry_the_error_to_expect(spec):
    split = split_model(spec(nets.Chain), device="meta")
    ((l4,), (a100,)) = (estimated_tables(split, name, (1,)) for name in ("L4", "A100"))
    assert l4.expected_error is not None
    assert a100.expected_error is not None
    assert l4.expected_error < a100.expected_error
    measured = dataclasses.replace(a100, source=Source.MEASURED, expected_error=None)
    doubled = dataclasses.replace(
        measured, latency_us=tuple(tuple(2 * us for us in row) for row in measured.latency_us)
    )
    (calibrated,) = estimated_tables(split, "L4", (1,), measured=[doubled])
    assert calibrated.expected_error is not None
    assert calibrated.expected_error < l4.expected_error
