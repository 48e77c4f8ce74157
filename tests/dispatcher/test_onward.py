"""How each call to another entry ends, as a server of gRPC's answers it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from python_backend.dispatcher.entries.onward import Onward
from python_backend.dispatcher.frames.frame import ErrorCode
from python_backend.wire import graces
from python_backend.wire.signing.keys import Keys
from tests.dispatcher.test_passing import Caller, frame_of, two_entries
from tests.live.data_plane_client import OUTPUT

PATIENT_US = 20_000_000
Answer = Callable[[Any], Any]
End = tuple[str, Any]


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers as it is told to."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.answer(context)


class Ends:
    """How frames ended."""

    def __init__(self) -> None:
        self.all: list[End] = []
        self.came = threading.Event()

    def take(self, kind: str, what: Any) -> None:
        self.all.append((kind, what))
        self.came.set()

    def one(self) -> End:
        assert self.came.wait(60)
        (end,) = self.all
        return end


@contextmanager
def onward_to(answer: Answer, late: Literal["drop", "serve"] = "drop") -> Iterator[tuple[Onward, Ends]]:
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Server(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made, ends = two_entries(), Ends()
    there = replace(made.more_entries[0].server, host="127.0.0.1", grpc_port=port)
    onward = Onward(
        "d",
        replace(made.models[0], late=late),
        "a",
        [there],
        Keys.none(),
        lambda frame, outputs: ends.take("served", outputs),
        lambda frame, code, text: ends.take("refused", (code, text)),
        lambda frame, to, text: ends.take("missed", text),
        lambda frame, to, text: ends.take("unreachable", text),
    )
    try:
        yield onward, ends
    finally:
        onward.close()
        server.stop(0).wait()


def answer_of(*outputs: tuple[str, tuple[int, ...]]) -> Any:
    response = pb.ModelInferResponse()
    for name, shape in outputs:
        response.outputs.add(name=name, datatype="FP32", shape=shape)
        size = 1
        for length in shape:
            size *= length
        response.raw_output_contents.append(bytes(4 * size))
    return response


WHOLE = tuple((spec.name, (1, *spec.shape)) for spec in OUTPUT)
C = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "end"),
    [
        (C.UNAVAILABLE, "m: the frame cannot meet its deadline: reason=overload", "refused"),
        (C.INVALID_ARGUMENT, "input x: 3 values", "refused"),
        (C.INVALID_ARGUMENT, "ppipe_forwarded: the signature is another's", "unreachable"),
        (C.UNAVAILABLE, "Exceeds maximum queue size", "missed"),
        (C.UNAVAILABLE, "[request id: 7] Request timeout expired", "missed"),
        (C.DEADLINE_EXCEEDED, "Deadline Exceeded", "missed"),
        (
            C.UNAVAILABLE,
            "Server is stopping, no new requests are accepted",
            "unreachable",
        ),
        (C.INTERNAL, "Stub process 'm' is not healthy.", "unreachable"),
        (C.NOT_FOUND, "Request for unknown model", "unreachable"),
    ],
)
def test_who_refuses_one_frame_is_not_taken_for_silent(code: grpc.StatusCode, details: str, end: str) -> None:
    with onward_to(lambda context: context.abort(code, details)) as (onward, ends):
        onward.send(frame_of(1, Caller()), "b", PATIENT_US)
        kind, what = ends.one()
    assert kind == end
    assert details in (what[1] if kind == "refused" else what)


def test_where_nobody_listens_it_is_unreachable() -> None:
    with onward_to(lambda context: None) as (onward, ends):
        onward.close()
        onward.send(frame_of(1, Caller()), "b", PATIENT_US)
        assert ends.one()[0] == "unreachable"


@pytest.mark.parametrize(
    "outputs", [(), (("other", (1, 2)),), tuple((name, (2, *shape[1:])) for name, shape in WHOLE)]
)
def test_an_answer_that_is_not_one_whole_frame_is_an_error_of_ours(outputs: Any) -> None:
    with onward_to(lambda context: answer_of(*outputs)) as (onward, ends):
        onward.send(frame_of(1, Caller()), "b", PATIENT_US)
        kind, (code, text) = ends.one()
    assert (kind, code) == ("refused", ErrorCode.INTERNAL)
    assert "not one frame of it in the answer" in text


def test_what_is_given_up_ends_there_and_in_nothing_here() -> None:
    came, gone = threading.Event(), threading.Event()

    def answer(context: Any) -> Any:
        context.add_callback(gone.set)
        came.set()
        gone.wait(60)
        return answer_of(*WHOLE)

    with onward_to(answer) as (onward, ends):
        frame = frame_of(1, Caller())
        onward.send(frame, "b", PATIENT_US)
        assert came.wait(60)
        onward.give_up(frame)
        assert gone.wait(60)
        onward.give_up(frame)
        frame.claim()
    assert ends.all == []


def test_whatever_goes_wrong_with_an_answer_its_frame_ends() -> None:
    with onward_to(lambda context: answer_of(*WHOLE)) as (onward, ends):

        def fail(frame: Any, outputs: Any) -> None:
            raise KeyError("y")

        onward._served = fail
        onward.send(frame_of(1, Caller()), "b", PATIENT_US)
        assert ends.one() == ("refused", (ErrorCode.INTERNAL, "entry b: KeyError('y')"))


def test_an_answer_is_waited_for_as_long_as_a_hop() -> None:
    left_s: list[float] = []

    def answer(context: Any) -> Any:
        left_s.append(context.time_remaining())
        return answer_of(*WHOLE)

    with onward_to(answer, late="serve") as (onward, ends):
        onward.send(frame_of(1, Caller()), "b", PATIENT_US)
        kind, outputs = ends.one()
    assert (kind, set(outputs)) == ("served", {spec.name for spec in OUTPUT})
    assert left_s[0] > graces.ENTRY_LATE_US / 1e6, "it may be served late, as here"
