"""How estimates are held against data: which network stands for a model, the errors, what is fitted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks import estimate
from benchmarks.helpers.networks import estimate_fit, estimate_match
from planner.profiling.gpus import TENSOR_CORES_SUSTAIN
from planner.profiling.kernels import Kernel
from planner.profiling.network import KernelKind
from planner.profiling.roofline import PRIOR, Work

CLASSES = ("L4", "T4", "V100")


@pytest.mark.parametrize(
    ("name", "stands", "same"),
    [
        ("convnext_large", "convnext_large", True),
        ("efficientnet-b8_3rdparty_8xb32-aa-advprop_in1k", "efficientnet_b8", True),
        ("inception-v3_3rdparty_8xb32_in1k", "inceptionv3", True),
        ("repvgg-B3_8xb32_in1k", "repvgg_b3", True),
        ("repvgg-B3g4_8xb32_in1k", "repvgg_b3", False),
        ("wide-resnet101_3rdparty_8xb32_in1k", "wide_resnet101_2", True),
        ("wide-resnet50_3rdparty_8xb32_in1k", "wide_resnet101_2", False),
        ("fcn_r101-d8_4xb2-40k_cityscapes-512x1024", "fcn_r101", True),
        ("fcn_hr48_4xb2-40k_cityscapes-512x1024", "fcn_r101", False),
        ("nonlocal_r101-d8_4xb2-40k_cityscapes-512x1024", "nonlocal_r101", True),
        ("danet_r50-d8_4xb2-40k_cityscapes-512x1024", "danet_r101", False),
        ("gfl_r101_fpn_ms-2x_coco", "gfl_r101", True),
        ("fsaf_r101_fpn_1x_coco", "fsaf_r101", True),
        ("centernet-update_r50-caffe_fpn_ms-1x_coco", "centernet_r50", True),
        ("rtmdet_x_8xb32-300e_coco", "rtmdet_x", True),
        ("rtmdet_tiny_8xb32-300e_coco", "rtmdet_x", False),
        ("colorization_eccv16", "colorization", True),
        ("siggraph17", "colorization", False),
    ],
)
def test_names_of_public_configurations(name, stands, same):
    found = estimate_match.match(name)
    assert found is not None
    assert (found.entry.name, found.same) == (stands, same)


def test_other_networks_are_not_in_the_zoo():
    assert estimate_match.match("retinanet_r101_fpn_1x_coco") is None


def made_samples(fit):
    """What four networks would take if `fit` were the truth."""
    sizes = {
        "dense": [Kernel(KernelKind.CONVOLUTION, 4 * 10**9, 10**6, 10**6, 2 * 10**6, 256)] * 3,
        "wide": [Kernel(KernelKind.CONVOLUTION, 9 * 10**9, 10**6, 10**6, 2 * 10**6, 2048)] * 3,
        "linear": [Kernel(KernelKind.PRODUCT, 2 * 10**9, 10**6, 10**7, 10**6)] * 5,
        "pooled": [
            Kernel(KernelKind.REDUCTION, 0, 3 * 10**7, 0, 10**6),
            Kernel(KernelKind.DEPTHWISE, 10**8, 9, 9, 10**6),
        ],
    }
    blank = [
        estimate_fit.Sample(name, gpu, Work(kernels), (1, 2, 8), np.ones(3))
        for name, kernels in sizes.items()
        for gpu in CLASSES
    ]
    return [dataclasses.replace(sample, measured_us=fit.estimate(sample)) for sample in blank]


def test_the_fit_finds_what_made_the_data_unless_it_is_far_from_what_is_known():
    start = estimate_fit.prior(CLASSES)
    truth = estimate_fit.Fit(
        constants=dataclasses.replace(PRIOR, fill=1500.0),
        sustained={"L4": 0.5, "T4": 0.6, "V100": 1.0},
    )
    samples = made_samples(truth)
    found = estimate_fit.fitted(samples)
    assert estimate_fit.loss(samples, start) > 0.1
    assert estimate_fit.loss(samples, found) < 0.02
    assert found.sustained == pytest.approx(truth.sustained, rel=0.15)
    absurd = dataclasses.replace(truth, constants=dataclasses.replace(PRIOR, launch_us=200.0))
    assert estimate_fit.fitted(made_samples(absurd)).constants.launch_us < 100


def test_a_class_that_is_held_out_gets_the_others_sustained():
    truth = dataclasses.replace(estimate_fit.prior(CLASSES), sustained={"L4": 0.5, "T4": 0.7, "V100": 1.0})
    held = estimate_fit.without_each_class(made_samples(truth))
    # V100 and T4 have no TF32: one is guessed from the other; of L4's kind there is none.
    assert held["V100"].sustained["V100"] == held["V100"].sustained["T4"] == pytest.approx(0.7, rel=0.1)
    assert held["L4"].sustained["L4"] == TENSOR_CORES_SUSTAIN


def test_every_constant_can_be_read_and_changed_by_name():
    fit = estimate_fit.catalogued(CLASSES)
    for name, value in estimate_fit.values(fit).items():
        changed = estimate_fit.changed(fit, name, 2 * value)
        assert estimate_fit.values(changed) == estimate_fit.values(fit) | {name: 2 * value}


def test_the_loss_counts_what_all_classes_share_once_and_what_sets_them_apart_twice():
    right = estimate_fit.prior(CLASSES)
    samples = [
        dataclasses.replace(sample, measured_us=sample.measured_us * scale)
        for sample, scale in zip(made_samples(right), 4 * (2.0, 1.0, 0.5), strict=True)
    ]
    apart = estimate_fit.loss(samples, right)
    together = estimate_fit.loss(
        [dataclasses.replace(each, measured_us=2 * each.measured_us) for each in made_samples(right)], right
    )
    one = (0.1**2 + np.log(2) ** 2) ** 0.5 - 0.1
    assert together == pytest.approx(one)
    assert apart == pytest.approx(2 * one * 2 / 3)


def test_errors_by_hand():
    factors = {("net", "L4", 1): 1.1, ("net", "T4", 1): 1.21, ("net", "L4", 2): 0.9}
    found = estimate.summary(factors)
    assert found["median_error"] == pytest.approx(0.1)
    assert found["median_ratio_error"] == pytest.approx(0.1)
    # T4 by L4: 1.1, L4 by T4: 1 / 1.1; at batch 2 there is no other class.
    assert found["median_error_calibrated"] == pytest.approx((0.1 + 1 - 1 / 1.1) / 2)
    assert estimate.errors_per_network(factors)["net"] == {"L4": 0.1, "T4": 0.21}
    assert estimate.summary(factors, only="L4")["median_ratio_error"] is None


def test_slices_are_compared_apart_and_by_their_number():
    kernels = [Kernel(KernelKind.CONVOLUTION, 10**9, 10**6, 10**6, 10**6, 256)]
    entry = estimate_match.match("convnext_large")
    assert entry is not None
    sliced = tuple(
        estimate_fit.Sample("net", "L4", Work(kernels), (1, 2), np.ones(2), slices) for slices in (2, 4)
    )
    fit = estimate_fit.catalogued(CLASSES)
    measured = tuple(dataclasses.replace(each, measured_us=fit.estimate(each) / 1.5) for each in sliced)
    one = estimate.Compared("net", entry, (3, 8, 8), 1.0, (), measured)
    assert estimate._slices([one], fit) == {"1/2 L4": 0.5, "1/4 L4": 0.5}
    assert (fit.estimate(sliced[1]) > 1.5 * fit.estimate(sliced[0])).all()
