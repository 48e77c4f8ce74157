"""ONNX files cut at every valid place: the stages one after another equal plain onnxruntime on the file."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from planner.cluster import GpuClass
from planner.deployment import input_specs
from planner.plan import BlockRange
from planner.profiling.loading import load_checked
from planner.profiling.network import KernelKind
from planner.profiling.onnx_files.running import PlainRun, noise_of
from planner.profiling.split import split_network
from python_backend.stage.executors.onnx_join import joined
from tests.onnx import files
from tests.onnx.files import model, random, value, weight


def with_constants() -> onnx.ModelProto:
    """Weights as Constant nodes, as PP-OCR's exporter writes them."""
    made = files.chain()
    constants = [helper.make_node("Constant", [], [each.name], value=each) for each in made.graph.initializer]
    nodes = [*constants, *made.graph.node]
    return model(nodes, made.graph.input, made.graph.output)


def reshaping() -> onnx.ModelProto:
    """A reshape whose shape is computed from the input's, far from where it is used."""
    first, one = files.conv("first", "image", 4, 3)
    last, two = files.conv("last", "back", 4, 4)
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["batch1"]),
        helper.make_node("Concat", ["batch1", "rest"], ["flat_shape"], axis=0),
        helper.make_node("Concat", ["batch1", "four", "sides"], ["whole_shape"], axis=0),
        first,
        helper.make_node("Relu", ["first"], ["active"]),
        helper.make_node("Reshape", ["active", "flat_shape"], ["flat"]),
        helper.make_node("Softmax", ["flat"], ["soft"]),
        helper.make_node("Reshape", ["soft", "whole_shape"], ["back"]),
        last,
    ]
    weights = [
        one, two, weight("zero", np.int64(0)), weight("axis", np.array([0])), weight("rest", np.array([-1])),
        weight("four", np.array([4])), weight("sides", np.array([8, 8])),
    ]  # fmt: skip
    return model(nodes, [value("image", ["N", 3, 8, 8])], [value("last", ["N", 4, 8, 8])], weights)


def choosing() -> onnx.ModelProto:
    """An If whose branches read values and weights from around them."""
    first, one = files.conv("first", "image", 4, 3)
    last, two = files.conv("last", "chosen", 4, 4)
    then = helper.make_graph(
        [helper.make_node("Mul", ["first", "twice"], ["then_out"])], "then", [], [value("then_out", None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["first"], ["else_out"])], "else", [], [value("else_out", None)]
    )
    nodes = [
        first,
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "never"], ["asked"]),
        helper.make_node("If", ["asked"], ["chosen"], then_branch=then, else_branch=other),
        last,
        helper.make_node("Relu", ["last"], ["out"]),
    ]
    weights = [one, two, weight("never", np.float32(1e9)), weight("twice", np.float32(2))]
    return model(nodes, [value("image", ["N", 3, 8, 8])], [value("out", ["N", 4, 8, 8])], weights)


def looping() -> onnx.ModelProto:
    """A Loop in the middle."""
    first, one = files.conv("first", "image", 4, 3)
    last, two = files.conv("last", "looped", 4, 4)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["state", "slower"], ["state_out"]),
        ],
        "body",
        [value("turn", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", None)],
        [value("go_on", [], TensorProto.BOOL), value("state_out", None)],
    )
    nodes = [
        first,
        helper.make_node("Loop", ["three", "", "first"], ["looped"], body=body),
        last,
        helper.make_node("Relu", ["last"], ["out"]),
    ]
    weights = [one, two, weight("three", np.int64(3)), weight("slower", np.float32(0.5))]
    return model(nodes, [value("image", ["N", 3, 8, 8])], [value("out", ["N", 4, 8, 8])], weights)


def odd_names() -> onnx.ModelProto:
    """Names with slashes, two of which are one name in letters and underscores; one is an output, too."""
    first, one = files.conv("a/b", "image", 4, 3)
    second, two = files.conv("a_b", "a/b", 4, 4)
    third, three = files.conv("out/put", "mixed", 4, 4)
    nodes = [first, second, helper.make_node("Add", ["a/b", "a_b"], ["mixed"]), third]
    outputs = [value("out/put", ["N", 4, 8, 8]), value("a_b", ["N", 4, 8, 8])]
    return model(nodes, [value("image", ["N", 3, 8, 8])], outputs, [one, two, three])


def one_number_a_frame() -> onnx.ModelProto:
    """A value of one number per frame crosses cuts, and an output is one."""
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["largest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product"]),
        helper.make_node("Unsqueeze", ["largest", "axis"], ["column"]),
        helper.make_node("Mul", ["product", "column"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "v"], ["scores"]),
        helper.make_node("ReduceSum", ["scores", "axis"], ["total"], keepdims=0),
    ]
    weights = [random("w", 192, 6), random("v", 6, 5), weight("axis", np.array([1]))]
    outputs = [value("scores", ["N", 5]), value("total", ["N"])]
    return model(nodes, [value("image", ["N", 3, 8, 8])], outputs, weights)


CASES = [files.chain, with_constants, reshaping, choosing, looping, odd_names, one_number_a_frame]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_two_stages_and_two_blocks_joined_equal_the_file_at_every_valid_cut(spec, make, tmp_path):
    wanted = spec(make())
    loaded = load_checked(wanted)
    assert loaded.remarks == ()
    whole = split_network(wanted, loaded.network)
    network = whole.network
    assert network.valid_cuts
    plain = onnxruntime.InferenceSession(str(wanted.program.onnx), providers=["CPUExecutionProvider"])
    for cut in network.valid_cuts:
        halves = dataclasses.replace(whole, cuts=(cut,))
        parts = [halves.part(BlockRange(k, k + 1)) for k in (0, 1)]
        stages = [PlainRun(network.program_bytes(part)) for part in parts]
        saved = [(tmp_path / f"{k}.onnx", part) for k, part in enumerate(parts)]
        for path, part in saved:
            network.save(part, path)
        blocks = [path.read_bytes() for path, _ in saved]
        alone = [
            PlainRun(joined([block], part.inputs, part.outputs).content)
            for block, part in zip(blocks, parts, strict=True)
        ]
        both = PlainRun(joined(blocks, network.inputs, network.outputs).content)
        for batch in (1, 2, 8):
            values = noise_of(network.inputs, batch, seed=batch)
            right = plain.run(None, dict(zip([plain.get_inputs()[0].name], values, strict=True)))
            for one, other in zip(both.run(values), right, strict=True):
                np.testing.assert_array_equal(one, other.reshape(one.shape))
            for part, stage, same in zip(parts, stages, alone, strict=True):
                again, values = same.run(values), stage.run(values)
                for one, other in zip(again, values, strict=True):
                    np.testing.assert_array_equal(one, other)
                for array, tensor in zip(values, part.outputs, strict=True):
                    assert array.shape == (batch, *tensor.shape)
            for given, answer in zip(values, right, strict=True):
                np.testing.assert_array_equal(given, answer.reshape(given.shape))


@pytest.mark.parametrize("make", [choosing, looping], ids=lambda make: make.__name__)
def test_no_cut_lies_inside_a_node_with_graphs(network, make):
    operators = [operator.name for operator in network(make()).operators]
    assert not {"then_out", "else_out", "state_out"}.intersection(operators)


def test_weights_belong_to_the_stages_that_read_them(spec):
    """Cut naively, all constants before the cut would cross it."""
    wanted = spec(with_constants(), blocks=2)
    split = split_network(wanted, load_checked(wanted).network)
    assert [[tensor.name for tensor in cut] for cut in split.cut_tensors] == [["relu0", "relu1"]]
    first, second = (split.network.program(split.part(BlockRange(k, k + 1))) for k in (0, 1))
    assert [each.name for each in first.graph.initializer] == ["conv0.weight", "conv1.weight"]
    assert [each.name for each in second.graph.initializer] == ["conv2.weight", "conv3.weight"]
    assert not [node for node in (*first.graph.node, *second.graph.node) if node.op_type == "Constant"]


def test_a_weight_that_two_stages_read_is_in_both(spec):
    kernel = random("shared", 4, 4, 3, 3)
    first, one = files.conv("first", "image", 4, 3)
    shared = [
        helper.make_node("Conv", [source, "shared"], [made], pads=[1, 1, 1, 1])
        for source, made in (("first", "second"), ("second", "third"))
    ]
    made = model(
        [first, *shared], [value("image", ["N", 3, 8, 8])], [value("third", ["N", 4, 8, 8])], [one, kernel]
    )
    wanted = spec(made, blocks=3)
    split = split_network(wanted, load_checked(wanted).network)
    held = [
        [each.name for each in split.network.program(split.part(BlockRange(k, k + 1))).graph.initializer]
        for k in range(3)
    ]
    assert held == [["first.weight"], ["shared"], ["shared"]]


def test_external_data_is_followed(spec, tmp_path):
    made = files.chain()
    path = tmp_path / "external.onnx"
    onnx.save(made, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    inside, outside = (split_of(spec(source)) for source in (files.chain(), path))
    frame = noise_of(inside.inputs, 2, seed=0)
    whole = BlockRange(0, inside.block_count)
    programs = [each.network.program_bytes(each.part(whole)) for each in (inside, outside)]
    assert programs[0] == programs[1]
    assert inside.digest == outside.digest
    np.testing.assert_array_equal(*(PlainRun(program).run(frame)[0] for program in programs))


def split_of(spec):
    from planner.profiling.loading import load

    return split_network(spec, load(spec))


def test_the_digest_tells_networks_and_cuts_apart_but_not_weights(spec, tmp_path):
    def digest(made, **kwargs):
        return split_of(spec(files.saved(made, tmp_path / "other.onnx"), **kwargs)).digest

    first = digest(files.chain())
    other = files.chain()
    other.graph.initializer[0].CopyFrom(random("conv0.weight", 4, 3, 3, 3, seed=9))
    assert digest(other) == first
    assert digest(files.chain(depth=5)) != first
    assert digest(files.chain(), blocks=2) != first
    assert digest(files.chain(), image=(3, 8, 16)) != first


def test_costs_by_hand(network):
    found = network(files.chain())
    convolution = found.operators[2]
    assert (convolution.kind, convolution.heavy) == (KernelKind.CONVOLUTION, True)
    assert convolution.cost.flops == 2 * 4 * 64 * 4 * 9
    assert convolution.cost.activation_bytes == 2 * 4 * 64 * 4
    assert convolution.cost.weight_bytes == 4 * 4 * 4 * 9
    assert found.weight_bytes(found.whole) == 4 * (4 * 3 * 9 + 3 * 4 * 4 * 9)


def test_torch_and_onnx_files_of_a_network_cost_the_same(spec):
    from planner.profiling.kernels import kernels_of

    split = split_of(spec(files.chain()))
    kernels = kernels_of(split.network, split.network.whole)
    assert [kernel.kind for kernel in kernels] == [KernelKind.CONVOLUTION] * 4 + [KernelKind.REDUCTION]


def test_a_file_is_balanced_on_the_classes_it_is_for(spec):
    wanted = spec(files.chain(depth=8))
    from planner.profiling.loading import load

    split = split_network(wanted, load(wanted), (GpuClass(name="L4"), GpuClass(name="T4")))
    assert split.block_count == 4
    assert input_specs(wanted) == split.inputs


def test_weights_beyond_two_gibibytes_of_a_file_are_found(spec, tmp_path):
    """The file is sparse: most of it is nowhere."""
    made, path = files.chain(), tmp_path / "large.onnx"
    offset = (2 << 30) + 4096
    with (tmp_path / "weights.bin").open("wb") as data:
        data.seek(offset)
        for tensor in made.graph.initializer:
            content = tensor.raw_data
            onnx.external_data_helper.set_external_data(tensor, "weights.bin", data.tell(), len(content))
            data.write(content)
            tensor.ClearField("raw_data")
    outside, inside = split_of(spec(files.saved(made, path))), split_of(spec(files.chain()))
    last = BlockRange(outside.block_count - 1, outside.block_count)
    programs = [each.network.program_bytes(each.part(last)) for each in (outside, inside)]
    assert programs[0] == programs[1]


OCR = {
    "ch_PP-OCRv4_det_infer.onnx": (3, 64, 96),
    "ch_PP-OCRv4_rec_infer.onnx": (3, 48, 96),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": (3, 48, 192),
}


@pytest.mark.parametrize("name", OCR)
def test_pp_ocrs_networks_in_ten_blocks_equal_the_file(spec, name):
    """Trained ones, as people have them: weights as constants, shapes computed on the way."""
    wanted = spec(files.ocr_file(name), blocks=10, x=OCR[name])
    split = split_network(wanted, load_checked(wanted).network)
    assert split.block_count == 10
    parts = [split.part(BlockRange(k, k + 1)) for k in range(split.block_count)]
    assert max(len(part.inputs) for part in parts) <= 4
    stages = [PlainRun(split.network.program_bytes(part)) for part in parts]
    whole = PlainRun(str(wanted.program.onnx))
    for batch in (1, 2, 8):
        values = frames = noise_of(split.inputs, batch, seed=batch)
        for stage in stages:
            values = stage.run(values)
        for given, right in zip(values, whole.run(frames), strict=True):
            assert np.abs(given - right).max() <= 1e-5 * (right.max() - right.min())


def test_a_file_is_estimated_as_a_torch_program_is(spec):
    from planner.profiling.roofline import estimated_tables

    split = split_of(spec(files.ocr_file("ch_PP-OCRv4_det_infer.onnx"), blocks=10, x=(3, 320, 320)))
    assert sum(split.cost(block).flops for block in range(10)) == pytest.approx(1.2e9, rel=0.05)
    (table,) = estimated_tables(split, "L4", (1, 8))
    times = [sum(row[column] for row in table.latency_us) for column in (0, 1)]
    assert 200 < times[0] < times[1] < 8 * times[0]


def test_tensors_may_travel_as_fp16(spec):
    wanted = spec(files.chain(depth=6)).model_copy(update={"cut_dtype": "fp16"})
    split = split_of(wanted)
    assert {tensor.dtype for cut in split.cut_tensors for tensor in cut} == {"FP16"}
    values = frames = noise_of(split.inputs, 2, seed=1)
    for block in range(split.block_count):
        values = PlainRun(split.network.program_bytes(split.part(BlockRange(block, block + 1)))).run(values)
    (right,) = PlainRun(str(wanted.program.onnx)).run(frames)
    assert 0 < np.abs(values[0] - right).max() < 1e-2 * np.abs(right).max()
