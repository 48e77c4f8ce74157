"""Whole profiles: stated tables are the roofline, measured ones are times, and what cannot be had is said."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from planner.cluster import StatedSpeed
from planner.deployment import DeploymentError, parse_deployment
from planner.execution import ExecutorOptions, Precision
from planner.profile import Profile, Source
from planner.profiling.estimate import latency_us
from planner.profiling.measuring.measure import measure
from planner.profiling.network import Cost
from planner.profiling.run import ProfileError, ProfileOptions, profile_deployment, split_of
from planner.serial import dumps, loads
from python_backend.stage.executors.runner import prepare

SLOW = {"gflop_per_s": 0.001, "gbyte_per_s": 0.001, "overhead_us": 50}
QUICK = ProfileOptions(repeats=3)


def deployment(*classes, factory="tests.profiling.nets:Chain", batch_sizes=(1, 2, 4), **fields):
    return parse_deployment(
        {
            "name": "test",
            "cluster": {
                "gpu_classes": list(classes),
                "groups": [{"gpu": spec["name"], "count": 1, "gpus_per_server": 1} for spec in classes],
            },
            "models": [
                {
                    "name": "net",
                    "program": {"factory": factory},
                    "input": {"name": "image", "shape": [3, 8, 8]},
                    "slo_ms": 1000,
                    "batch_sizes": list(batch_sizes),
                    **fields,
                }
            ],
        },
        "test.yaml",
    )


def test_the_roofline_by_hand():
    cost = Cost(flops=3_000_000, activation_bytes=2_000, weight_bytes=10_000)
    speed = StatedSpeed(gflop_per_s=2, gbyte_per_s=1, overhead_us=7)
    assert latency_us(cost, speed, batch_size=1) == pytest.approx(1500 + 12 + 7)
    assert latency_us(cost, speed, batch_size=4) == pytest.approx(6000 + 18 + 7)


def test_stated_tables_follow_the_roofline_and_batches_never_get_faster():
    wanted = deployment({"name": "slow", "executor": "emulated", "stated": SLOW, "max_slices_per_gpu": 2})
    (model,) = profile_deployment(wanted).models
    split = split_of(wanted, "net")
    whole, half = model.tables
    assert (whole.slices_per_gpu, half.slices_per_gpu) == (1, 2)
    for block, row in enumerate(whole.latency_us):
        assert whole.source is Source.STATED
        cost = split.cost(block)
        expected = [cost.flops * b + cost.weight_bytes + cost.activation_bytes * b + 50 for b in (1, 2, 4)]
        assert row == pytest.approx(expected)
        assert list(row) == sorted(row)
        assert half.latency_us[block][0] == pytest.approx(2 * (row[0] - 50) + 50)


def test_a_profile_of_stated_classes_is_the_same_every_time_and_says_what_it_is_of():
    wanted = deployment({"name": "slow", "executor": "emulated", "stated": SLOW})
    profile = profile_deployment(wanted)
    assert dumps(profile) == dumps(profile_deployment(wanted))
    assert loads(Profile, dumps(profile)) == profile
    (model,) = profile.models
    assert model.split == split_of(wanted, "net").digest
    assert model.block_names == ("layers.0..layers.1", "layers.2.0..layers.2.1", "layers.3.0..layers.3.1",
                                 "layers.4.0..layers.4.1")  # fmt: skip
    assert model.cut_bytes == (4 * 64 * 4,) * 3
    assert [tensor.shape for cut in model.cut_tensors for tensor in cut] == [(4, 8, 8)] * 3
    assert model.inputs[0].name == "image"
    assert model.outputs[0].shape == (4, 8, 8)


def test_a_padded_class_keeps_this_devices_times_and_warns_when_they_are_longer(caplog):
    slow = {"name": "slow", "executor": "cpu", "stated": SLOW}
    hopeless = {"name": "hopeless", "executor": "cpu", "stated": {"gflop_per_s": 1e9, "gbyte_per_s": 1e9}}
    (model,) = profile_deployment(deployment(slow, hopeless), options=QUICK).models
    assert [table.source for table in model.tables] == [Source.STATED] * 2
    assert set(json.loads(model.provenance["device_model_us"])) == {"1", "2", "4"}
    assert "warning_slow" not in model.provenance
    assert "class hopeless is stated to take 0.0 ms" in model.provenance["warning_hopeless"]
    assert "it will be late; state a slower speed" in caplog.text


def test_a_class_without_a_stated_speed_is_measured():
    (model,) = profile_deployment(deployment({"name": "here", "executor": "cpu"}), options=QUICK).models
    (table,) = model.tables
    assert table.source is Source.MEASURED
    assert table.batch_sizes == (1, 2, 4)
    assert all(0 < value < 1e6 for row in table.latency_us for value in row)
    assert "1 thread" in model.provenance["device"]


def test_a_measured_class_has_a_table_per_number_of_slices(monkeypatch):
    asked = []

    def side_by_side(job, slices, step, partials):
        asked.append((slices, len(partials)))
        return measure(split_of(wanted, "net"), job.batch_sizes[: 4 - slices], job.options)

    monkeypatch.setattr("planner.profiling.measuring.measured.measure_slices", side_by_side)
    wanted = deployment({"name": "here", "executor": "cpu", "max_slices_per_gpu": 3})
    (model,) = profile_deployment(wanted, options=QUICK).models
    assert asked == [(2, 2), (3, 3)]
    assert [(table.slices_per_gpu, table.batch_sizes) for table in model.tables] == [
        (1, (1, 2, 4)),
        (2, (1, 2)),
        (3, (1,)),
    ]
    assert all(len(table.spread) == model.block_count for table in model.tables)


def test_a_throttling_gpu_is_marked_and_warned_about(monkeypatch, caplog):
    def hot(*arguments):
        return replace(measure(*arguments[:3]), throttled={"power cap": 0.4}, facts={"driver": "580"})

    monkeypatch.setattr("planner.profiling.measuring.measured.measure", hot)
    (model,) = profile_deployment(deployment({"name": "here", "executor": "cpu"}), options=QUICK).models
    assert model.provenance["throttled"] == "power cap in 40% of samples"
    assert model.provenance["driver"] == "580"
    assert "the GPU held itself back while it was timed: power cap in 40% of samples" in caplog.text


@pytest.mark.parametrize("stated", [{}, {"stated": SLOW}])
def test_options_of_the_executor_are_recorded_with_what_they_cost(stated):
    here = {"name": "here", "executor": "cpu", **stated}
    wanted = deployment(here, executor_options={"precision": "bf16"})
    options = ProfileOptions(repeats=1, prepare=prepare)
    (model,) = profile_deployment(wanted, options=options).models
    assert model.options == ExecutorOptions(precision=Precision.BF16)
    assert model.precision_error is not None
    assert 0 < model.precision_error < 0.05
    assert model.provenance["precision"] == "bf16"


def test_the_split_does_not_depend_on_measured_times():
    wanted = deployment({"name": "here", "executor": "cpu"})
    assert len({profile_deployment(wanted, options=QUICK).models[0].split for _ in range(2)}) == 1


def test_progress_counts_every_step():
    seen = []
    wanted = deployment({"name": "slow", "executor": "cpu", "stated": SLOW})
    profile_deployment(wanted, lambda label, done, total: seen.append((label, done, total)), QUICK)
    assert [done for _, done, _ in seen] == list(range(1, seen[-1][2] + 1))
    assert seen[0][0] == "net: 4 blocks"


def test_an_emulated_class_needs_a_speed():
    with pytest.raises(
        ProfileError, match="ghost: executor 'emulated' computes nothing that could be measured"
    ):
        profile_deployment(deployment({"name": "ghost", "executor": "emulated"}))


def test_a_gpu_class_needs_a_gpu_or_a_speed(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ProfileError, match="L4: no GPU on this machine to measure"):
        profile_deployment(deployment({"name": "L4"}))


def test_classes_are_estimated_on_request_without_weights_or_gpu():
    wanted = deployment({"name": "L4", "max_slices_per_gpu": 2}, {"name": "T4", "executor": "emulated"})
    options = ProfileOptions(estimate=frozenset({"L4", "T4"}))
    (model,) = profile_deployment(wanted, options=options).models
    assert [(table.gpu, table.slices_per_gpu, table.source) for table in model.tables] == [
        ("L4", 1, Source.ESTIMATED),
        ("L4", 2, Source.ESTIMATED),
        ("T4", 1, Source.ESTIMATED),
    ]
    assert model.provenance["expected_error_L4"] == "0.15"
    assert model.split == split_of(wanted, "net").digest


def test_unknown_classes_cannot_be_estimated():
    with pytest.raises(ProfileError, match="gpu_classes: L5: no GPU class 'L5' in the catalogue; near"):
        profile_deployment(deployment({"name": "L5"}), options=ProfileOptions(estimate=frozenset({"L5"})))
    with pytest.raises(ProfileError, match="estimate: T4: not one of the deployment's GPU classes L4"):
        profile_deployment(deployment({"name": "L4"}), options=ProfileOptions(estimate=frozenset({"T4"})))


def test_a_calibrating_profile_must_be_of_the_same_split():
    wanted = deployment({"name": "L4"})
    other = profile_deployment(
        deployment({"name": "L4"}, factory="tests.profiling.nets:LongSkip"),
        options=ProfileOptions(estimate=frozenset({"L4"})),
    )
    with pytest.raises(ProfileError, match="model net: the calibrating profile is of split"):
        profile_deployment(wanted, options=ProfileOptions(estimate=frozenset({"L4"}), calibrate_with=other))


def test_wrong_executor_options_are_named_with_what_is_allowed():
    here = {"name": "here", "executor": "cpu"}
    with pytest.raises(DeploymentError, match=r"precision: Input should be 'tf32', 'fp32', 'fp16' or 'bf16'"):
        deployment(here, executor_options={"precision": "int8"})
    with pytest.raises(DeploymentError, match="unknown field; did you mean 'compiler'"):
        deployment(here, executor_options={"compile": "none"})
    with pytest.raises(DeploymentError, match="'pad_to_captured' needs 'cuda_graphs: true'"):
        deployment(here, executor_options={"pad_to_captured": True})
