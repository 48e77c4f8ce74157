"""What is wrong with an ONNX file is one line that names file, tensor or node, and what would do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from planner.deployment import DeploymentError, parse_deployment
from planner.profiling.loading import load_checked
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import split_network
from tests.onnx import files
from tests.onnx.files import model, random, saved, value, weight

IMAGE = value("image", ["N", 3, 8, 8])


def refusal(spec):
    """What loading it says, in one line."""
    with pytest.raises(ModelError) as caught:
        split_network(spec, load_checked(spec).network)
    text = str(caught.value)
    assert text.startswith("model net")
    assert "\n" not in text
    return text


def test_files_that_are_none(spec, tmp_path):
    path = tmp_path / "no.onnx"
    for content, said in (
        (b"no protobuf at all, but text", "is no ONNX file; expected a file that onnx.load reads"),
        (b"", "is no ONNX file, or an empty one: it holds no node"),
        (files.chain().SerializeToString()[:-40], "is cut short or damaged"),
    ):
        path.write_bytes(content)
        assert said in refusal(spec(path))
    assert "no such file" in refusal(spec(tmp_path / "absent.onnx"))
    assert "a folder" in refusal(spec(tmp_path))


def test_external_data_that_is_missing_short_or_elsewhere(spec, tmp_path):
    path, data = tmp_path / "net.onnx", tmp_path / "weights.bin"
    onnx.save(files.chain(), str(path), save_as_external_data=True, location=data.name, size_threshold=0)
    content = data.read_bytes()
    data.write_bytes(content[:-10])
    assert "'conv3.weight' ends at byte" in refusal(spec(path))
    data.unlink()
    assert f"weight 'conv0.weight' lies in the file {data}, which is not here" in refusal(spec(path))
    made = onnx.load(str(path), load_external_data=False)
    for entry in made.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../../etc/passwd"
    assert "a file beside the model's own is accepted" in refusal(spec(saved(made, path)))


def one(node, inputs=(IMAGE,), weights=(), kind=TensorProto.FLOAT, **kwargs):
    return model([node], inputs, [value("out", None, kind)], weights, **kwargs)


def test_operators_that_nobody_has(spec):
    custom = helper.make_node("Twice", ["image"], ["out"], name="/twice", domain="my.ops")
    said = refusal(spec(one(custom, domains=["my.ops"])))
    assert "operators of the custom domain 'my.ops' (Twice '/twice')" in said
    unknown = helper.make_node("Relux", ["image"], ["out"], name="relux")
    assert "node Relux 'relux': opset 17 has no operator Relux" in refusal(spec(one(unknown)))


def test_an_opset_that_is_too_new(spec):
    newest = onnx.defs.onnx_opset_version()
    made = files.chain()
    made.opset_import[0].version = newest + 1
    assert f"opset {newest + 1} is newer than the installed onnx" in refusal(spec(made))
    made = files.chain()
    made.ir_version = onnx.IR_VERSION + 1
    assert "file version (ir_version)" in refusal(spec(made))


def test_names_that_are_used_twice(spec):
    made = files.chain()
    made.graph.node[1].output[0] = "conv0"
    assert "the name 'conv0' is used for 2 tensors" in refusal(spec(made))
    made = files.chain()
    made.graph.initializer.append(made.graph.initializer[0])
    assert "the name 'conv0.weight' is used for 2 tensors" in refusal(spec(made))


def test_inputs_and_outputs_that_cannot_be_served(spec):
    relu = helper.make_node("Relu", ["image"], ["out"])
    no_rank = value("image", None)
    assert "input 'image' says no number of dimensions" in refusal(spec(one(relu, inputs=[no_rank])))
    assert "input 'image' is a scalar" in refusal(spec(one(relu, inputs=[value("image", [])])))
    sequence = model(
        [helper.make_node("SplitToSequence", ["image"], ["parts"], axis=1)],
        [IMAGE],
        [helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)],
    )
    assert "output 'parts' is a sequence; tensors are accepted" in refusal(spec(sequence))
    text = one(
        helper.make_node("Identity", ["image"], ["out"]), inputs=[value("image", ["N"], TensorProto.STRING)]
    )
    assert "input 'image' is a tensor of strings" in refusal(spec(text))
    found = one(
        helper.make_node("NonZero", ["flat"], ["out"]), [value("flat", ["N", 4])], kind=TensorProto.INT64
    )
    assert "output out: its shape depends on more than the batch from NonZero 'out' on" in refusal(
        spec(found, flat=(4,))
    )
    constant = model(
        [helper.make_node("Relu", ["image"], ["out"]), helper.make_node("Identity", ["table"], ["copy"])],
        [IMAGE],
        [value("out", None), value("copy", None)],
        [random("table", 4)],
    )
    assert "output copy is the same for every frame" in refusal(spec(constant))


def test_inputs_that_are_not_the_deployments(spec):
    made = files.chain()
    said = refusal(spec(made, picture=(3, 8, 8)))
    assert "input picture is not in the file, whose inputs are image [batch, 3, h, w]" in said
    assert "image is [batch, 3, h, w] in the file and [batch, 4, 8, 8]" in refusal(
        spec(made, image=(4, 8, 8))
    )
    assert "image is [batch, 3, h, w] in the file and [batch, 3, 8]" in refusal(spec(made, image=(3, 8)))
    assert "input image is FP32 in the file and FP16" in refusal(spec(made, image="FP16 3 8 8"))
    two = files.sized()
    assert "the file's input size [batch, 2] is not in the deployment" in refusal(
        spec(two, image=(3, 16, 16))
    )


@pytest.mark.parametrize(("kind", "dtype"), [(TensorProto.DOUBLE, "FP64"), (TensorProto.INT64, "INT64")])
def test_fp64_and_int64_are_served_as_they_are(network, kind, dtype):
    square = helper.make_node("Mul", ["image", "image"], ["out"])
    made = one(square, inputs=[value("image", ["N", 4], kind)], kind=kind)
    found = network(made, image=f"{dtype} 4")
    assert [tensor.dtype for tensor in (*found.inputs, *found.outputs)] == [dtype, dtype]


def test_inputs_of_different_batches(spec):
    made = files.sized()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "M"
    said = refusal(spec(made, size="INT64 2", image=(3, 16, 16)))
    assert "inputs size [M, 2] and image [batch, 3, 16, 16] have different batches" in said
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    assert "have different batches" in refusal(spec(made, size="INT64 2", image=(3, 16, 16)))


def baked(batch):
    """A reshape to a constant shape with the batch in it."""
    first, kernel = files.conv("first", "image", 4, 3)
    nodes = [
        first,
        helper.make_node("GlobalAveragePool", ["first"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"], name="/head/Reshape"),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    weights = [kernel, weight("shape", np.array([1, 4])), random("w", 4, 5)]
    return model(nodes, [value("image", [batch, 3, 8, 8])], [value("scores", [batch, 5])], weights)


def test_a_batch_that_is_baked_in_is_told_with_the_tensor_that_fixes_it(spec, network):
    said = refusal(spec(baked("N")))
    assert (
        "its first dimension must be the batch, which tensor 'shape' = [1, 4] of Reshape '/head/Reshape'"
        in said
    )
    assert "the file's batch is fixed at 1, or serve it one by one with batch_sizes: [1]" in refusal(
        spec(baked(1))
    )
    alone = network(baked(1), batch_sizes=(1,))
    assert [tensor.shape for tensor in alone.outputs] == [(5,)]
    assert alone.valid_cuts


def test_a_batch_that_is_written_and_not_meant_is_opened(network):
    assert network(files.chain(batch=1)).outputs[0].shape == (4,)


def test_no_place_to_cut_is_told_with_what_crosses(spec):
    """Everything is folded into one dimension with the batch in the middle."""
    nodes = [
        helper.make_node("Reshape", ["image", "columns"], ["turned"]),
        helper.make_node("MatMul", ["turned", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["active"]),
        helper.make_node("MatMul", ["active", "v"], ["again"]),
        helper.make_node("Reshape", ["again", "rows"], ["out"]),
    ]
    weights = [
        weight("columns", np.array([-1, 4])), weight("rows", np.array([-1, 16, 4])),
        random("w", 4, 4), random("v", 4, 4),
    ]  # fmt: skip
    made = model(nodes, [value("image", ["N", 16, 4])], [value("out", ["N", 16, 4])], weights)
    said = refusal(spec(made, image=(16, 4)))
    assert "every one is crossed by a value" in said
    assert "[16 * batch, 4]" in said
    assert "give it blocks: 1" in said


def test_frames_that_have_a_say_in_each_others_answers(spec):
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["image", "mean"], ["out"]),
    ]
    made = model(nodes, [IMAGE], [value("out", ["N", 3, 8, 8])])
    assert "a frame's answer depends on the frames beside it in the batch (output out)" in refusal(spec(made))


@pytest.mark.parametrize("sides", [("h", "w"), (512, 512)])
def test_a_large_file_is_asked_with_smaller_frames_where_it_leaves_them_open(spec, sides):
    convolution, kernel = files.conv("conv", "image", 256, 256)
    deep, other = files.conv("deep", "conv", 64, 256)
    nodes = [convolution, deep, helper.make_node("ReduceMean", ["deep"], ["mean"], axes=[0], keepdims=1)]
    nodes.append(helper.make_node("Sub", ["deep", "mean"], ["out"]))
    ends = [value("image", ["N", 256, *sides])], [value("out", ["N", 64, *sides])]
    large = spec(model(nodes, *ends, [kernel, other]), image=(256, 512, 512))
    if sides == ("h", "w"):
        assert "a frame's answer depends on the frames beside it in the batch" in refusal(large)
    else:
        (remark,) = load_checked(large).remarks
        assert "not run here, so whether it serves frame by frame was not checked" in remark


def test_shapes_that_do_not_fit(spec):
    node = helper.make_node("MatMul", ["image", "w"], ["out"], name="/product")
    said = refusal(spec(one(node, weights=[random("w", 5, 5)])))
    assert "shapes do not fit together: MatMul '/product'" in said


def test_options_that_only_torch_programs_have():
    def fault(**options):
        model_spec = {
            "name": "net", "program": {"onnx": "net.onnx"}, "input": {"name": "x", "shape": [3]}, "slo_ms": 9,
            "executor_options": options,
        }  # fmt: skip
        classes = {
            "gpu_classes": [{"name": "L4"}],
            "groups": [{"gpu": "L4", "count": 1, "gpus_per_server": 1}],
        }
        with pytest.raises(DeploymentError) as caught:
            parse_deployment({"name": "d", "cluster": classes, "models": [model_spec]}, "f")
        return str(caught.value)

    assert "executor_options.compiler is of torch programs" in fault(compiler="inductor")
    assert "executor_options.cuda_graphs is of torch programs" in fault(cuda_graphs=True)
    assert "fp16 of an ONNX program needs provider: tensorrt" in fault(precision="fp16")
