"""KServe v2 ModelInfer messages built and read by hand, so that tensors are copied once on the way out,
never in.

A protobuf message is the concatenation of its fields, and concatenating two serialised messages merges
them. So the constant head of a request (model, inputs, their types and shapes) is serialised once per batch
size by protobuf itself, the ticket and the raw tensors are appended as plain fields, and of an answer only
the outputs' bytes are cut out. Field numbers come from Triton's own descriptors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from planner.profile import TensorSpec

Array = npt.NDArray[np.generic]
Buffer = bytes | memoryview

NUMPY_OF: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16, "UINT16": np.uint16,
    "FP16": np.float16, "INT32": np.int32, "UINT32": np.uint32, "FP32": np.float32, "INT64": np.int64,
    "UINT64": np.uint64, "FP64": np.float64,
}  # fmt: skip

_SERVICE: Final = "/inference.GRPCInferenceService/"
INFER_METHOD = _SERVICE + "ModelInfer"
LIVE_METHOD = _SERVICE + "ServerLive"

_LENGTH_DELIMITED: Final = 2
_REQUEST = pb.ModelInferRequest.DESCRIPTOR.fields_by_name
_RESPONSE = pb.ModelInferResponse.DESCRIPTOR.fields_by_name
_RAW_OUTPUT = _RESPONSE["raw_output_contents"].number


class WireError(ValueError):
    """An answer that is not a ModelInferResponse with raw outputs as expected."""


def request_head(model: str, inputs: Sequence[TensorSpec], batch: int) -> bytes:
    """The part of a request that is the same for every batch of this size."""
    message = pb.ModelInferRequest(model_name=model)
    for spec in inputs:
        message.inputs.add(name=spec.name, datatype=spec.dtype, shape=[batch, *spec.shape])
    return bytes(message.SerializeToString())


def text_parameter(name: str, value: str) -> bytes:
    """A request parameter of type string, to append to a head."""
    message = pb.ModelInferRequest()
    message.parameters[name].string_param = value
    return bytes(message.SerializeToString())


def int_parameter(name: str, value: int) -> bytes:
    """A request parameter of type int64, to append to a head."""
    message = pb.ModelInferRequest()
    message.parameters[name].int64_param = value
    return bytes(message.SerializeToString())


def request_pieces(head: bytes, parameters: bytes, tensors: Sequence[Sequence[Buffer]]) -> list[Buffer]:
    """A whole request, in pieces; each tensor is given as those, one or more frames each, that it is made
    of.
    """
    parts: list[Buffer] = [head, parameters]
    tag = _tag(_REQUEST["raw_input_contents"].number)
    for pieces in tensors:
        parts.append(tag + _varint(sum(len(piece) for piece in pieces)))
        parts.extend(pieces)
    return parts


def request_bytes(head: bytes, parameters: bytes, tensors: Sequence[Sequence[Buffer]]) -> bytes:
    """The same in one piece."""
    return b"".join(request_pieces(head, parameters, tensors))


def response_outputs(answer: bytes) -> dict[str, Array]:
    """The outputs of a serialised ModelInferResponse by name; arrays are read-only views of `answer`.

    Raises WireError.
    """
    rest, raw = _cut_out(answer, _RAW_OUTPUT)
    try:
        head = pb.ModelInferResponse.FromString(rest)
        return {
            output.name: array_of(output.datatype, buffer, output.shape)
            for output, buffer in zip(head.outputs, raw, strict=True)
        }
    except (DecodeError, KeyError, ValueError) as error:
        raise WireError(f"an answer that is no ModelInferResponse with raw outputs: {error!r}") from error


def array_of(datatype: str, buffer: Buffer, shape: Sequence[int]) -> Array:
    """A tensor's bytes as they travel, as an array: a view of them, but for BYTES. Raises KeyError,
    ValueError.
    """
    if datatype == "BYTES":
        return np.array(elements_of(buffer), dtype=np.object_).reshape(tuple(shape))
    return np.frombuffer(buffer, dtype=NUMPY_OF[datatype]).reshape(tuple(shape))


def zeros_of(spec: TensorSpec, batch: int = 1) -> Array:
    """A batch of zeros, or of empty texts."""
    if spec.dtype == "BYTES":
        return np.full((batch, *spec.shape), b"", dtype=np.object_)
    return np.zeros((batch, *spec.shape), NUMPY_OF[spec.dtype])


def elements_of(buffer: Buffer) -> list[bytes]:
    """The elements of a tensor of type BYTES: each comes with its length in four bytes before it.

    Raises ValueError.
    """
    return [bytes(view) for view in element_views(buffer)]


def element_views(buffer: Buffer) -> list[memoryview]:
    """As `elements_of`, as views of the buffer."""
    whole = memoryview(buffer)
    views: list[memoryview] = []
    position, end = 0, len(whole)
    while position < end:
        start = position + 4
        position = start + int.from_bytes(whole[position:start], "little")
        if position > end:
            raise ValueError(f"a tensor of {end} bytes ends inside an element")
        views.append(whole[start:position])
    return views


def piece(array: Array) -> memoryview:
    """The bytes of an array, without a copy if it is contiguous."""
    if array.flags.c_contiguous and array.size:
        return array.data.cast("B")  # five times as fast as by way of views
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _cut_out(message: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    """The message without the length-delimited top-level fields of this number, and the contents of those."""
    whole = memoryview(message)
    kept: list[Buffer] = []
    cut: list[memoryview] = []
    for field, start, content, end in _fields(message):
        if field == number:
            cut.append(whole[content:end])
        else:
            kept.append(whole[start:end])
    return b"".join(kept), cut


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(field number, start, start of content, end) of each top-level field. Only wire types that ModelInfer
    uses.
    """
    position, size = 0, len(message)
    while position < size:
        start = position
        key, position = _read_varint(message, position)
        if key & 7 == _LENGTH_DELIMITED:
            length, position = _read_varint(message, position)
            content, position = position, position + length
        elif key & 7 == 0:
            content = position
            _, position = _read_varint(message, position)
        else:
            raise WireError(f"wire type {key & 7} at byte {start} of an answer")
        if position > size:
            raise WireError(f"an answer of {size} bytes ends inside a field")
        yield key >> 3, start, content, position


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise WireError("an answer ends inside a number")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED)
