"""Splitting at every valid cut: stages in sequence equal the unsplit network, whatever its graph is like."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
import torch

from planner.plan import BlockRange
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.graph import ModelGraph
from planner.profiling.networks.loading import load_network
from planner.profiling.networks.saving import program_bytes
from planner.profiling.split import Split, split_model
from planner.profiling.stages import export_stage, save_stage, stage_module
from python_backend.stage.executors.torch_join import joined
from tests.profiling import nets

TOLERANCE = 1e-4


def at_cuts(split: Split, cuts) -> Split:
    return dataclasses.replace(split, cuts=tuple(cuts))


def flat(outputs):
    return torch.utils._pytree.tree_leaves(outputs)


@pytest.mark.parametrize("net", nets.SPLITTABLE, ids=lambda net: net.__name__)
def test_two_stages_equal_the_network_at_every_valid_cut(spec, net):
    model = spec(net)
    split = split_model(model)
    network = load_network(model)
    frames = {batch: torch.randn(batch, 3, 8, 8) for batch in (1, 2, 8)}
    with torch.inference_mode():
        expected = {batch: flat(network(x)) for batch, x in frames.items()}
        for cut in split.network.valid_cuts:
            halves = at_cuts(split, [cut])
            stages = [stage_module(halves, BlockRange(k, k + 1)) for k in (0, 1)]
            for batch, x in frames.items():
                values = (x,)
                for k, stage in enumerate(stages):
                    values = stage(*values)
                    assert_fits(values, halves.outputs_of(BlockRange(k, k + 1)), batch)
                for actual, wanted in zip(values, expected[batch], strict=True):
                    assert (actual - wanted).abs().max() <= TOLERANCE


@pytest.mark.parametrize("net", [nets.TwoOutputs, nets.Attention])
def test_all_blocks_saved_and_joined_equal_the_network_and_the_stages_one_by_one(spec, net, tmp_path):
    model = spec(net)
    split = split_model(model)
    assert split.block_count > 1
    programs = [
        torch.export.load(io.BytesIO(program_bytes(export_stage(split, BlockRange(k, k + 1)))))
        for k in range(split.block_count)
    ]
    files = [tmp_path / f"{k}.pt2" for k in range(split.block_count)]
    for k, file in enumerate(files):
        save_stage(split, BlockRange(k, k + 1), file)
    whole = joined([torch.export.load(file).module() for file in files], split.inputs, split.outputs)
    network = load_network(model)
    for batch in (1, 2, 8):
        x = torch.randn(batch, 3, 8, 8)
        values = (x,)
        with torch.inference_mode():
            for program in programs:
                values = program.module()(*values)
            for actual, same, wanted in zip(values, whole(x), flat(network(x)), strict=True):
                assert (actual - wanted).abs().max() <= TOLERANCE
                assert (same - wanted).abs().max() <= TOLERANCE


def test_a_skip_and_the_input_cross_every_cut_until_they_are_read(spec):
    split = split_model(spec(nets.LongSkip))
    assert [[tensor.name for tensor in cut] for cut in split.cut_tensors] == [
        ["image", "conv2d"],
        ["image", "conv2d", "relu_"],
        ["image", "conv2d", "batch_norm"],
        ["cat"],
    ]
    assert split.cuts[0].bytes_per_frame == (3 + nets.CHANNELS) * 8 * 8 * 4


def test_names_are_safe_for_triton_and_outputs_keep_their_keys(spec):
    split = split_model(spec(nets.TwoOutputs))
    assert [output.name for output in split.outputs] == ["aux", "main_out"]
    for cut in split.cut_tensors:
        assert all(re.fullmatch(r"[A-Za-z0-9_]+", tensor.name) for tensor in cut)
        assert not {tensor.name for tensor in cut} & {"aux", "main_out"}


def test_a_single_layer_is_one_block(spec):
    split = split_model(spec(nets.Single))
    assert split.block_count == 1
    assert split.name_of(0) == "only"


def test_a_network_without_heavy_operators_is_cut_anywhere(spec):
    assert split_model(spec(nets.Pointwise, blocks=3)).block_count == 3


def test_a_convolution_keeps_its_activation(spec):
    split = split_model(spec(nets.Chain))
    for block in range(split.block_count):
        names = [split.network.operators[index].name for index in split.span(BlockRange(block, block + 1))]
        assert [re.sub(r"_\d*$", "", name) for name in names] == ["conv2d", "relu"]


def test_values_folded_into_the_batch_never_cross(spec):
    network = split_model(spec(nets.BatchArithmetic)).network
    graph: ModelGraph = network.graph
    for cut in network.valid_cuts:
        for node in (graph.node(value.name) for value in cut.values):
            assert node.meta["val"].shape[0].node.expr == graph.batch


def test_an_output_without_the_batch_is_refused(spec):
    with pytest.raises(
        ModelError, match=r"output output .* must be a tensor whose first dimension is the batch"
    ):
        split_model(spec(nets.MeanOverBatch))


def test_a_stage_holds_its_own_weights_only(spec):
    split = split_model(spec(nets.Chain))
    stages = [export_stage(split, BlockRange(k, k + 1)) for k in range(split.block_count)]
    keys = [sorted(stage.state_dict) for stage in stages]
    assert keys[0] == ["layers.0.bias", "layers.0.weight"]
    assert len({key for stage in keys for key in stage}) == sum(map(len, keys))


def test_the_same_split_saves_the_same_bytes(spec):
    first, again = (split_model(spec(nets.Branches)) for _ in range(2))
    whole = BlockRange(0, first.block_count)
    assert first.digest == again.digest
    assert program_bytes(export_stage(first, whole)) == program_bytes(export_stage(again, whole))


def test_saved_bytes_name_no_file_of_this_machine(spec):
    split = split_model(spec(nets.Branches))
    assert b"nets.py" not in program_bytes(export_stage(split, BlockRange(0, 1)))


def test_the_digest_tells_cuts_and_graphs_apart_but_not_weights(spec):
    chain = split_model(spec(nets.Chain, blocks=3))
    assert split_model(spec(nets.Chain, blocks=3, seed=9)).digest == chain.digest
    assert split_model(spec(nets.Chain, blocks=2)).digest != chain.digest
    assert split_model(spec(nets.Chain, blocks=3, arguments={"depth": 5})).digest != chain.digest


def test_blocks_past_the_end_are_refused(spec):
    split = split_model(spec(nets.Chain))
    with pytest.raises(ValueError, match="where there are 4"):
        export_stage(split, BlockRange(0, 9))


def assert_fits(values, specs, batch):
    for value, wanted in zip(values, specs, strict=True):
        assert tuple(value.shape) == (batch, *wanted.shape)
        assert value.is_contiguous()


def test_writes_through_views_are_left_to_torch_and_others_are_rewritten(spec):
    for net in (nets.InPlace, nets.Chain):
        graph = split_model(spec(net)).network.graph
        assert not any(
            node.target._schema.is_mutable for node in graph.operators if hasattr(node.target, "_schema")
        )
    names = [node.name for node in graph.operators]
    assert "relu_" in names  # rewritten in place, so it keeps its name


def test_a_split_without_weights_is_the_same_split(spec):
    for net in (nets.Branches, nets.BatchArithmetic, nets.Attention):
        assert split_model(spec(net), device="meta").digest == split_model(spec(net)).digest
