"""What a probe asks and what it makes of an answer; tests/live has it ask real servers."""

from __future__ import annotations

import io

import grpc
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2

from ppipe.serving.probe import ProbeVerdict, judge, probe_request
from python_backend.wire.ticket_codec import ANONYMOUS_PROBE_TEXT


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        ("INTERNAL", "Failed to process: Stub process 'm_0_0' is not healthy.", ProbeVerdict.STUB_DEAD),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", ProbeVerdict.SILENT),
        ("INVALID_ARGUMENT", "unexpected shape for input 'x'", ProbeVerdict.REFUSED),
        ("UNAVAILABLE", "connection refused", ProbeVerdict.NOT_YET),
        ("NOT_FOUND", "unknown model", ProbeVerdict.NOT_YET),
    ],
)
def test_the_verdict_on_a_failed_call(code: str, details: str, verdict: ProbeVerdict) -> None:
    assert judge(Failure(grpc.StatusCode[code], details)).verdict is verdict


def test_numbers_are_zeros_and_free_sizes_are_one() -> None:
    metadata = service_pb2.ModelMetadataResponse(name="stage")
    metadata.inputs.add(name="a", datatype="FP32", shape=[-1, 3, 4])
    metadata.inputs.add(name="b", datatype="FP16", shape=[-1, 5])
    request = probe_request(metadata)
    assert [list(tensor.shape) for tensor in request.inputs] == [[1, 3, 4], [1, 5]]
    assert list(request.raw_input_contents) == [bytes(48), bytes(10)]
    assert request.parameters["ppipe_ticket"].string_param == ANONYMOUS_PROBE_TEXT


def test_text_is_a_picture_that_opens() -> None:
    metadata = service_pb2.ModelMetadataResponse(name="public")
    metadata.inputs.add(name="jpeg", datatype="BYTES", shape=[-1, 1])
    (content,) = probe_request(metadata).raw_input_contents
    assert int.from_bytes(content[:4], "little") == len(content) - 4
    assert Image.open(io.BytesIO(content[4:])).size == (16, 16)
