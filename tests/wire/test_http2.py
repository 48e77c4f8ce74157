"""Large hops between hosts: gRPC over plain sockets, against the library's server and peers that fail."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import hpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from planner.profile import TensorSpec
from python_backend.wire import kserve
from python_backend.wire.clock import now_us
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.http.connections import IDLE_S
from python_backend.wire.http.sendings import Sendings
from python_backend.wire.http2 import frames
from python_backend.wire.http2.connection import Answered, Http2Connection, Reset, Unserved
from python_backend.wire.http2.transport import Http2Calls
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import PARAMETER, WireTicket
from python_backend.wire.transport import Target, targets_of
from tests.dispatcher.test_driver import manifest
from tests.waiting import wait_for
from tests.wire.test_http_transport import WORKER, watched, wire

LARGE = 3_000_000
SPECS = (TensorSpec("x", "UINT8", (LARGE // 3,)),)
Serve = Callable[[pb.ModelInferRequest, grpc.ServicerContext], pb.ModelInferResponse]


def summed(request: pb.ModelInferRequest, _context: grpc.ServicerContext) -> pb.ModelInferResponse:
    """Answers with the sum of each frame's bytes."""
    data = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(request.inputs[0].shape)
    sums = data.astype(np.int64).sum(axis=1)
    answer = pb.ModelInferResponse(raw_output_contents=[sums.tobytes()])
    answer.outputs.add(name="y", datatype="INT64", shape=[len(sums)])
    return answer


class Server:
    """A gRPC server of the library's. serve: what answers; given: what has been asked."""

    def __init__(self, port: int = 0, options: Any = ()) -> None:
        self.serve: Serve = summed
        self.given: list[pb.ModelInferRequest] = []
        handler = grpc.unary_unary_rpc_method_handler(
            self._serve, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        )
        _, service, method = kserve.INFER_METHOD.split("/")
        self._server = grpc.server(
            ThreadPoolExecutor(4),
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *options],
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def _serve(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        self.given.append(request)
        return self.serve(request, context)

    def hold(self) -> threading.Event:
        """From now on answers wait until this is set."""
        released = threading.Event()

        def wait(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
            released.wait(10)
            return summed(request, context)

        self.serve = wait
        return released

    def stop(self, grace: float | None = None) -> None:
        self._server.stop(grace).wait()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


class Caller:
    """Calls to a port, as a dispatcher makes them."""

    def __init__(self, port: int, idle_s: float = IDLE_S, same_host: bool = False) -> None:
        deployment = manifest()
        found = targets_of(deployment, deployment.models[0], deployment.entry.host)
        self._target: Target = replace(
            found[WORKER],
            server=replace(found[WORKER].server, grpc_port=port),
            inputs=SPECS,
            same_host=same_host,
        )
        self.sendings = Sendings()
        self._grpc = GrpcTransport({WORKER: self._target}, Keys.none())
        self._calls = Http2Calls(self._grpc, self.sendings, idle_s)

    def infer(self, data: list[Any], timeout_s: float = 10.0, ticket: WireTicket | None = None) -> list[int]:
        outputs = self._calls.infer(ticket or wire(), self._target, [data], 3, timeout_s)
        sums: list[int] = outputs["y"].tolist()
        return sums

    def close(self) -> None:
        self._calls.close()
        self._grpc.close()


@contextlib.contextmanager
def caller_of(port: int, idle_s: float = IDLE_S, same_host: bool = False) -> Iterator[Caller]:
    made = Caller(port, idle_s, same_host)
    try:
        yield made
    finally:
        made.close()


def batch() -> list[memoryview]:
    """Three frames in pieces of unlike sizes."""
    raw = memoryview(os.urandom(LARGE))
    cuts = [0, 10, 10, 70_000, LARGE // 3, LARGE // 3 + 16_384, LARGE // 2, LARGE]
    return [raw[start:end] for start, end in itertools.pairwise(cuts)]


def sums_of(data: list[memoryview]) -> list[int]:
    whole = np.frombuffer(b"".join(data), np.uint8).reshape(3, -1)
    return [int(each) for each in whole.astype(np.int64).sum(axis=1)]


def test_tensors_and_ticket_go_out_and_outputs_come_back(server: Server) -> None:
    with caller_of(server.port) as caller:
        for _ in range(4):
            data = batch()
            assert caller.infer(data) == sums_of(data)
    assert {request.model_name for request in server.given} == {WORKER}
    tickets = {request.parameters[PARAMETER].string_param for request in server.given}
    assert len(tickets) == 4, "each is good once"
    assert caller.sendings.left(1) is None


@pytest.mark.parametrize("lookahead", [16, 65_536, 8_000_000])
def test_servers_with_small_and_large_windows_are_served(lookahead: int) -> None:
    server = Server(options=[("grpc.http2.lookahead_bytes", lookahead), ("grpc.http2.bdp_probe", 0)])
    with caller_of(server.port) as caller:
        data = batch()
        assert [caller.infer(data) for _ in range(3)] == [sums_of(data)] * 3
    server.stop()


def test_calls_of_many_threads_have_a_connection_each(server: Server) -> None:
    with caller_of(server.port) as caller, ThreadPoolExecutor(6) as threads:
        given = [batch() for _ in range(24)]
        assert list(threads.map(caller.infer, given)) == [sums_of(data) for data in given]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, FailureKind.NOT_LOADED),
        (grpc.StatusCode.INVALID_ARGUMENT, FailureKind.REFUSED),
        (grpc.StatusCode.UNAVAILABLE, FailureKind.UNREACHABLE),
        (grpc.StatusCode.INTERNAL, FailureKind.COMPUTE),
    ],
)
def test_what_goes_wrong_is_told_as_by_the_library(
    server: Server, code: grpc.StatusCode, kind: FailureKind
) -> None:
    def refuse(_request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        context.abort(code, "nothing of 100 % – says «it»")
        raise AssertionError

    server.serve = refuse
    with caller_of(server.port) as caller:
        for _ in range(2):
            with pytest.raises(HopFailure, match="nothing of 100 % – says «it»") as failure:
                caller.infer(batch())
            assert failure.value.kind is kind
        server.serve = summed
        data = batch()
        assert caller.infer(data) == sums_of(data)


def test_a_restarted_server_is_reached_by_a_new_connection(server: Server) -> None:
    data = batch()
    with caller_of(server.port) as caller:
        assert caller.infer(data) == sums_of(data)
        server.stop()
        again = Server(server.port)
        assert caller.infer(data) == sums_of(data)
        again.stop()
        with pytest.raises(HopFailure) as failure:
            caller.infer(data)
    assert failure.value.kind is FailureKind.UNREACHABLE


def test_a_call_has_its_time_and_no_more(server: Server) -> None:
    released = server.hold()
    with caller_of(server.port) as caller:
        began_s = time.monotonic()
        with pytest.raises(HopFailure) as failure:
            caller.infer(batch(), timeout_s=0.4)
        assert failure.value.kind is FailureKind.TIMED_OUT
        assert 0.35 < time.monotonic() - began_s < 3
        released.set()
        data = batch()
        assert caller.infer(data) == sums_of(data)


def test_close_ends_calls_that_wait_for_an_answer(server: Server) -> None:
    released = server.hold()
    with caller_of(server.port) as caller, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(caller.infer, batch())
        wait_for(lambda: bool(server.given))
        caller.close()
        with pytest.raises(HopFailure):
            asked.result(5)
        released.set()


def test_connections_that_nothing_needs_any_more_are_closed(server: Server) -> None:
    with caller_of(server.port, idle_s=0.2) as caller:
        caller.infer(batch())
        wait_for(lambda: not any(thread.name == "idle connections" for thread in threading.enumerate()))


def test_what_has_come_whole_is_not_under_way_any_more(server: Server) -> None:
    """While its worker computes, on a new connection and on one that was used: the link is free then."""
    released = server.hold()
    with caller_of(server.port) as caller, ThreadPoolExecutor(1) as threads:
        for _ in range(3):
            released.clear()
            asked = threads.submit(caller.infer, batch())
            wait_for(lambda: (left := caller.sendings.left(1)) is not None and left.bytes == 0)
            released.set()
            asked.result(5)


class Scripted:
    """Sends these bytes to whoever connects, and reads on."""

    def __init__(self, *answers: bytes, reads: bool = True, pause_s: float = 0.0) -> None:
        """pause_s: after each piece of 32 KB that is read."""
        self._pause_s = pause_s
        self._answers = list(answers)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.connections = 0
        self.heard = bytearray()
        self._reads = reads
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if not self._reads:
                time.sleep(10)
            self.heard += connection.recv(65_536)
            if self._answers:
                connection.sendall(self._answers.pop(0))
            while heard := connection.recv(32_768):
                self.heard += heard
                time.sleep(self._pause_s)

    def close(self) -> None:
        self._server.close()


def frame(kind: int, content: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return frames.frame_head(len(content), kind, flags, stream) + content


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


SETTINGS = frame(frames.SETTINGS)
GOOD = hpack.Encoder().encode([(":status", "200"), ("content-type", "application/grpc")])
STATUS = hpack.Encoder().encode([("grpc-status", "0")])
ANSWER = (
    frame(frames.HEADERS, GOOD, frames.END_HEADERS, 1)
    + frame(frames.DATA, frames.message_head(4) + b"good", 0, 1)
    + frame(frames.HEADERS, STATUS, frames.END_HEADERS | frames.END_STREAM, 1)
)


def called(peer: Scripted, size: int = 100) -> Answered:
    with socket.create_connection(("127.0.0.1", peer.port)) as connection:
        made = Http2Connection(connection, "peer")
        return made.call("/a/b", [bytes(size)], now_us() + 1_500_000)


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        frame(frames.PING, bytes(8)) + ANSWER,
        ANSWER[:20] + ANSWER[20:],
        # Lists in several frames, padded frames, frames of kinds and streams that nobody knows.
        frame(0x77, b"what?", 0xFF, 1)
        + frame(frames.DATA, b"another's", 0, 7)
        + frame(
            frames.HEADERS,
            b"\x02" + number(0) + b"\x00" + GOOD[:3] + b"\0\0",
            frames.PADDED | frames.PRIORITY,
            1,
        )
        + frame(frames.CONTINUATION, GOOD[3:], frames.END_HEADERS, 1)
        + frame(frames.DATA, b"\x03" + frames.message_head(4) + b"go" + bytes(3), frames.PADDED, 1)
        + frame(frames.DATA, b"od", 0, 1)
        + frame(frames.HEADERS, STATUS, frames.END_HEADERS | frames.END_STREAM, 1)
        + frame(frames.RST_STREAM, number(0), 0, 1),
    ],
    ids=["plain", "ping", "whole", "odd"],
)
def test_answers_are_read_however_they_come(answer: bytes) -> None:
    peer = Scripted(SETTINGS + answer)
    told = called(peer)
    assert (told.status, told.message) == (0, b"good")
    peer.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (frame(frames.RST_STREAM, number(7), 0, 1), Unserved),
        (frame(frames.RST_STREAM, number(2), 0, 1), Reset),
        (frame(frames.GOAWAY, number(0) + number(0)), Unserved),
        (frame(frames.HEADERS, GOOD, frames.END_HEADERS | frames.END_STREAM, 1), ValueError),
        (frame(frames.HEADERS, b"\xff" * 9, frames.END_HEADERS | frames.END_STREAM, 1), ValueError),
        (frame(frames.HEADERS, STATUS, frames.END_HEADERS | frames.END_STREAM, 1), ValueError),
        (frame(frames.DATA, b"", frames.PADDED, 1), ValueError),
        (frames.settings({frames.MAX_FRAME_SIZE: 0}), ValueError),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", ValueError),
        (b"220 mail.example ESMTP\r\n\r\n", ValueError),
        (b"", TimeoutError),
    ],
    ids=[
        "refused",
        "reset",
        "away",
        "no status",
        "no headers",
        "no message",
        "no padding",
        "no frames",
        "http",
        "mail",
        "silent",
    ],
)
def test_what_is_no_answer_is_an_error_in_time(answer: bytes, error: type[Exception]) -> None:
    peer = Scripted(answer if answer[:1].isalnum() else SETTINGS + answer)
    with pytest.raises(error):
        called(peer)
    peer.close()


def test_no_more_is_sent_than_the_server_has_room_for() -> None:
    peer = Scripted(frame(frames.SETTINGS, frames.settings({frames.INITIAL_WINDOW_SIZE: 30_000})[9:]))
    with pytest.raises(TimeoutError):
        called(peer, 200_000)
    heard = len(peer.heard)
    assert 30_000 < heard < 30_500, "what it has told, and the headers"
    peer.close()


def test_a_refused_stream_is_asked_again_on_a_new_connection_only_once() -> None:
    """A server that refuses each is not asked for ever."""
    refusal = frame(frames.RST_STREAM, number(7), 0, 1)
    peer = Scripted(SETTINGS + refusal, SETTINGS + refusal)
    with caller_of(peer.port) as caller, pytest.raises(HopFailure) as failure:
        caller.infer([bytes(100)], 2.0)
    assert failure.value.kind is FailureKind.UNREACHABLE
    assert peer.connections == 1
    peer.close()


def test_a_server_that_reads_nothing_holds_nobody_longer_than_its_time() -> None:
    peer = Scripted(reads=False)
    with caller_of(peer.port) as caller, pytest.raises(HopFailure) as failure:
        caller.infer(batch(), 0.5)
    assert failure.value.kind is FailureKind.TIMED_OUT
    assert failure.value.kind.blames_worker
    peer.close()


WIDE = frame(frames.SETTINGS, frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})[9:])
WIDE += frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)


def test_a_worker_is_not_to_blame_for_what_still_arrives_when_time_is_over() -> None:
    peer = Scripted(WIDE, pause_s=0.01)
    seen: list[int] = []
    with caller_of(peer.port) as caller, watched(caller.sendings, seen):
        with pytest.raises(HopFailure, match="still arriving") as failure:
            caller.infer([bytes(24_000_000)], 1.2)
        assert failure.value.kind is FailureKind.EXPIRED
        assert not failure.value.kind.blames_worker
        assert seen, "what is on its way can be asked for"
        assert 0 < min(seen) <= max(seen) <= 24_100_000
        assert caller.sendings.left(1) is None, "the call is over"
    peer.close()


def test_within_a_host_there_is_no_link_to_blame() -> None:
    peer = Scripted(WIDE, pause_s=0.01)
    seen: list[int] = []
    with caller_of(peer.port, same_host=True) as caller, watched(caller.sendings, seen):
        with pytest.raises(HopFailure) as failure:
            caller.infer([bytes(24_000_000)], 1.2)
        assert failure.value.kind is FailureKind.TIMED_OUT
        assert not seen
    peer.close()


@given(pieces=st.lists(st.binary(max_size=30), max_size=8), data=st.data())
def test_a_cursor_gives_every_byte_once(pieces: list[bytes], data: st.DataObject) -> None:
    left = sum(map(len, pieces))
    cursor, found = frames.Cursor(pieces), b""
    while left:
        size = data.draw(st.integers(0, left))
        taken = cursor.take(size)
        assert sum(map(len, taken)) == size
        found += b"".join(taken)
        left -= size
    assert found == b"".join(pieces)


@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300))
def test_header_lists_read_as_they_were_written(path: str) -> None:
    read = dict(hpack.Decoder().decode(frames.request_headers(path, "host:1")))
    assert read[":path"] == path
    assert (read[":method"], read[":scheme"], read[":authority"]) == ("POST", "http", "host:1")


@given(
    length=st.integers(0, (1 << 24) - 1),
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    stream=st.integers(0, frames.LAST_STREAM),
)
def test_frame_heads_are_those_of_the_standard(length: int, kind: int, flags: int, stream: int) -> None:
    head = frames.frame_head(length, kind, flags, stream)
    assert (head[:3], head[3], head[4]) == (length.to_bytes(3, "big"), kind, flags)
    assert head[5:] == stream.to_bytes(4, "big")
