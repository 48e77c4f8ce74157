"""Hand-built messages are what protobuf itself would have made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from planner.profile import TensorSpec
from python_backend.wire import kserve

SPECS = (TensorSpec("a", "FP32", (3, 2)), TensorSpec("b", "UINT8", (5,)))


@given(batch=st.integers(1, 4), pieces=st.integers(1, 4), text=st.text(max_size=300))
def test_a_request_is_read_by_protobuf(batch: int, pieces: int, text: str) -> None:
    a = np.arange(batch * 6, dtype=np.float32).reshape(batch, 3, 2)
    b = np.arange(batch * 5, dtype=np.uint8).reshape(batch, 5)
    split = [kserve.piece(part) for part in np.array_split(a, pieces) if len(part)]
    parameter = kserve.text_parameter("ticket", text)
    message = pb.ModelInferRequest.FromString(
        kserve.request_bytes(kserve.request_head("m", SPECS, batch), parameter, [split, [kserve.piece(b)]])
    )
    assert message.model_name == "m"
    assert message.parameters["ticket"].string_param == text
    assert [(i.name, i.datatype, list(i.shape)) for i in message.inputs] == [
        ("a", "FP32", [batch, 3, 2]),
        ("b", "UINT8", [batch, 5]),
    ]
    assert list(message.raw_input_contents) == [a.tobytes(), b.tobytes()]


@given(
    name=st.text(max_size=20),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    text=st.text(max_size=20),
    number=st.integers(-(2**63), 2**63 - 1),
)
def test_each_field_is_as_protobuf_writes_it(name: str, shape: list[int], text: str, number: int) -> None:
    head = pb.ModelInferRequest(model_name="m")
    head.inputs.add(name=f"x{name}", datatype="FP32", shape=[1, *shape])
    assert kserve.head_of("m", [(f"x{name}", "FP32", [1, *shape])]) == head.SerializeToString()
    parameters = pb.ModelInferRequest()
    parameters.parameters[name].string_param = text
    assert kserve.text_parameter(name, text) == parameters.SerializeToString()
    parameters.parameters[name].int64_param = number
    assert kserve.int_parameter(name, number) == parameters.SerializeToString()


def test_shapes_are_read_packed_and_one_by_one_and_what_is_unknown_is_passed_over() -> None:
    message = pb.ModelInferResponse(model_name="m")
    output = message.outputs.add(name="y", datatype="UINT8", shape=[1, 300])
    output.parameters["more"].string_param = "x"
    message.raw_output_contents.append(bytes(300))
    packed = message.SerializeToString()
    assert b"\x1a\x03\x01\xac\x02" in packed
    # As long, so that the lengths around it hold.
    by_one = packed.replace(b"\x1a\x03\x01\xac\x02", b"\x18\x01\x18\xac\x02")
    assert pb.ModelInferResponse.FromString(by_one) == message
    for answer in (packed, by_one):
        assert kserve.response_outputs(answer)["y"].shape == (1, 300)


@given(size=st.integers(0, 500), identifier=st.text(max_size=5))
def test_an_answer_of_protobuf_is_read(size: int, identifier: str) -> None:
    array = np.arange(size, dtype=np.int64).reshape(1, size)
    message = pb.ModelInferResponse(model_name="m", model_version="1", id=identifier)
    message.outputs.add(name="y", datatype="INT64", shape=[1, size])
    message.raw_output_contents.append(array.tobytes())
    outputs = kserve.response_outputs(message.SerializeToString())
    np.testing.assert_array_equal(outputs["y"], array)


@given(st.binary(max_size=60))
def test_garbage_is_an_error_and_nothing_else(garbage: bytes) -> None:
    message = pb.ModelInferResponse()
    message.outputs.add(name="y", datatype="INT64", shape=[1])
    with pytest.raises(kserve.WireError):
        kserve.response_outputs(message.SerializeToString() + garbage)


def test_a_piece_of_a_contiguous_array_is_no_copy() -> None:
    array = np.zeros((2, 3), np.float32)
    view = kserve.piece(array)
    array[0, 0] = 1.0
    assert bytes(view[:4]) == np.float32(1.0).tobytes()
    assert kserve.piece(np.zeros((2, 6), np.float32)[:, ::2]).nbytes == 24
