"""Profiles of several nodes as one: what goes together and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.execution import Compiler, ExecutorOptions, Precision
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile, Source, TensorSpec
from planner.profiling.merge import MergeError, merge_profiles


def table(gpu: str, *row: float, source: Source = Source.MEASURED, slices: int = 1) -> LatencyTable:
    return LatencyTable(
        gpu=gpu, slices_per_gpu=slices, batch_sizes=(1,), latency_us=tuple((us,) for us in row), source=source
    )


def network(*tables: LatencyTable, **changes) -> ModelProfile:
    fields = {
        "model": "net",
        "cut_bytes": (64,),
        "tables": tables,
        "inputs": (TensorSpec("image", "FP32", (3, 4, 4)),),
        "split": "abc",
    }
    return ModelProfile(**(fields | changes))


def merged(*models: ModelProfile) -> ModelProfile:
    return merge_profiles([Profile(models=(model,)) for model in models]).model("net")


def test_measured_tables_of_many_nodes_replace_what_was_estimated_or_stated():
    estimated = network(
        table("L4", 5, 5, source=Source.ESTIMATED), table("T4", 9, 9, source=Source.ESTIMATED)
    )
    whole = network(table("L4", 4, 6), table("L4", 8, 12, slices=2), provenance={"device": "NVIDIA L4"})
    made = merged(estimated, whole)
    assert [(each.gpu, each.slices_per_gpu, each.source) for each in made.tables] == [
        ("L4", 1, Source.MEASURED),
        ("T4", 1, Source.ESTIMATED),
        ("L4", 2, Source.MEASURED),
    ]
    assert made.provenance == {"device_2": "NVIDIA L4"}
    assert merged(whole, estimated).table("L4", 1) == whole.tables[0], "in whatever order"


def test_models_that_only_one_node_has_are_kept():
    other = replace(network(table("L4", 1, 1)), model="other", split="xyz")
    made = merge_profiles([Profile(models=(network(table("L4", 1, 1)),)), Profile(models=(other,))])
    assert [model.model for model in made.models] == ["net", "other"]


def test_the_larger_overheads_and_errors_count():
    one = network(table("L4", 1, 1), overheads=Overheads(100, 900, 0.001), precision_error=1e-3)
    two = network(table("T4", 1, 1), overheads=Overheads(200, 700, 0.002))
    assert merged(one, two).overheads == Overheads(200, 900, 0.002)
    assert merged(one, two).precision_error == 1e-3
    assert merged(two, two).precision_error is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"split": "xyz"}, "model net: profile 1 is of split abc with 2 blocks, profile 2 of split xyz"),
        ({"cut_bytes": (32,)}, "model net: profile 1 is of split abc"),
        ({"inputs": (TensorSpec("image", "FP16", (3, 4, 4)),)}, "inputs of profile 1 and profile 2 differ"),
        ({"outputs": (TensorSpec("y", "FP32", (1,)),)}, "outputs of profile 1 and profile 2 differ"),
        (
            {"options": ExecutorOptions(precision=Precision.FP16)},
            "executor_options.precision is tf32 in profile 1 and fp16 in profile 2",
        ),
        (
            {"options": ExecutorOptions(compiler=Compiler.INDUCTOR)},
            "executor_options.compiler is none in profile 1 and inductor in profile 2",
        ),
        ({"options": ExecutorOptions(cuda_graphs=True)}, "executor_options.cuda_graphs is False"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(changes, said):
    with pytest.raises(MergeError, match=said):
        merged(network(table("L4", 1, 1)), network(table("T4", 1, 1), **changes))


def test_a_class_measured_twice_with_other_times_is_refused():
    with pytest.raises(MergeError, match="class L4 in 1 slices was measured twice, with different times"):
        merged(network(table("L4", 1, 1)), network(table("L4", 1, 2)))
    with pytest.raises(MergeError, match="no profiles to merge"):
        merge_profiles([])
