"""Hops over HTTP, against a peer that answers as Triton does, or fails as it might."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import pytest

from planner.profile import TensorSpec
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.http.connections import IDLE_S
from python_backend.wire.http.sendings import Sendings
from python_backend.wire.http.transport import LARGEST_BYTES, HttpTransport
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import ANONYMOUS_PROBE_TEXT, WireTicket
from python_backend.wire.transport import Awaited, targets_of
from tests.dispatcher.test_driver import manifest
from tests.waiting import wait_for
from tests.wire.test_ragged import INFOS

WORKER = "m.p0.s0.w0"
NUMBERS = np.arange(3, dtype=np.int64)
SPECS = (TensorSpec("x", "UINT8", (8_000_000,)),)
Answer = Callable[[bytes, bytes], bytes | None]
"""From head and body of a request to the whole answer; None: close without one."""


class Peer:
    """Takes connections, one thread each, and answers every request with `answer`."""

    def __init__(self) -> None:
        self.answer: Answer = good
        self.connections = 0
        self.open = 0
        self.requests: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        """What came behind each request's JSON."""
        self.reads = threading.Event()
        """While clear, bodies of requests are left unread, as by a stopped server."""
        self.reads.set()
        self.slowly = False
        """Whether bodies are read in pieces, some MB a second."""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(2)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self.open += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._serve_one(connection)
        except ConnectionError:
            pass  # its client has closed it
        finally:
            self.open -= 1

    def _serve_one(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while head := head_of(stream):
                json_length = next(int(number) for number in head.split() if number.isdigit())
                total = int(head.rpartition(b"Content-Length: ")[2].split()[0])
                self.reads.wait(10)
                body = b"".join(self._pieces(stream, total)) if self.slowly else stream.read(total)
                self.bodies.append(body[json_length:])
                self.requests.append(json.loads(body[:json_length]))
                answer = self.answer(head, body)
                if answer is None:
                    return
                # In two pieces, for the other end has to wait for the second.
                connection.sendall(answer[:50])
                connection.sendall(answer[50:])

    @staticmethod
    def _pieces(stream: BinaryIO, total: int) -> Iterator[bytes]:
        while total > 0 and (piece := stream.read(min(total, 32_768))):
            total -= len(piece)
            yield piece
            time.sleep(0.01)


def head_of(stream: BinaryIO) -> bytes:
    """The lines before the empty one; b"" at the end of the stream."""
    lines: list[bytes] = []
    while (line := stream.readline()) not in (b"", b"\r\n"):
        lines.append(line)
    return b"".join(lines)


def message(status: str, header: bytes, content: bytes = b"") -> bytes:
    lines = f"HTTP/1.1 {status}\r\nContent-Length: {len(header) + len(content)}\r\n"
    return f"{lines}Inference-Header-Content-Length: {len(header)}\r\n\r\n".encode() + header + content


def good(head: bytes, body: bytes) -> bytes:
    output = {"name": "y", "datatype": "INT64", "shape": [3, 1], "parameters": {"binary_data_size": 24}}
    return message("200 OK", answer_to(body, [output]), (2 * NUMBERS).tobytes())


def answer_to(body: bytes, outputs: list[Any]) -> bytes:
    found = re.search(rb'"id":"(\d+)"', body)
    return json.dumps(
        {"id": found[1].decode() if found else "", "outputs": outputs}, separators=(",", ":")
    ).encode()


def refused(status: str, text: str) -> Answer:
    body = json.dumps({"error": text}).encode()
    return lambda *_: f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Bodies:
    """Stands for gRPC: keeps what it is given, and does all else as gRPC does."""

    def __init__(self, inner: GrpcTransport) -> None:
        self._inner = inner
        self.sent: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def infer(self, wire: Any, tensors: Any, batch: int, timeout_s: float) -> Any:
        return self.send_tensors(wire, (), tensors, batch, timeout_s)

    def probe(self, worker: str, timeout_s: float) -> None:
        self.sent.append(1)

    def send_tensors(self, wire: Any, specs: Any, tensors: Any, batch: int, timeout_s: float) -> Any:
        self.sent.append(batch)
        return {}


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def transport_to(
    port: int,
    idle_s: float = IDLE_S,
    same_host: bool = True,
    far: bool = True,
    sendings: Sendings | None = None,
) -> tuple[HttpTransport, Bodies]:
    deployment = manifest()
    targets = targets_of(deployment, deployment.models[0], deployment.entry.host)
    targets = {
        name: replace(target, server=replace(target.server, http_port=port), same_host=same_host)
        for name, target in targets.items()
    }
    bodies = Bodies(GrpcTransport(targets, Keys.none()))
    return HttpTransport(bodies, targets, idle_s, far, sendings), bodies  # type: ignore[arg-type]


@pytest.fixture
def transport(peer: Peer) -> Iterator[HttpTransport]:
    made, _ = transport_to(peer.port)
    yield made
    made.close()


def wire() -> WireTicket:
    ticket = plain_ticket(
        1, 0, 0, 10_000_000, (tensor_hop(WORKER, 0, 0, 0, 1), tensor_hop("m.p0.s1.w0", 0, 0, 1, 2))
    )
    return WireTicket("d", 1, hop=0, ticket=ticket)


def infer(transport: HttpTransport, timeout_s: float = 5.0) -> list[int]:
    pieces = [[NUMBERS[:1].tobytes(), NUMBERS[1:].tobytes()]]
    numbers: list[int] = transport.infer(wire(), pieces, 3, timeout_s)["y"].ravel().tolist()
    return numbers


def test_tensors_and_ticket_go_out_and_outputs_come_back(peer: Peer, transport: HttpTransport) -> None:
    assert [infer(transport) for _ in range(3)] == [[0, 2, 4]] * 3
    assert peer.connections == 1
    (request, *_) = peer.requests
    assert [(each["name"], each["shape"]) for each in request["inputs"]] == [("x", [3, 1])]
    assert json.loads(request["parameters"]["ppipe_ticket"])["hops"][0][0] == WORKER


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refused("400 Bad Request", "wrong shape"), FailureKind.REFUSED),
        (refused("500 Internal Server Error", "Stub process 'm' is not healthy."), FailureKind.DEAD_STUB),
        (refused("500 Internal Server Error", "it raised"), FailureKind.COMPUTE),
        (refused("503 Service Unavailable", "going away"), FailureKind.UNREACHABLE),
        (
            refused("503 Service Unavailable", HopFailure(FailureKind.EXPIRED, 1, "other", "late").to_wire()),
            FailureKind.EXPIRED,
        ),
        (lambda *_: None, FailureKind.UNREACHABLE),
        (lambda head, body: good(head, body)[:-4], FailureKind.TIMED_OUT),
        (lambda head, body: message("200 OK", answer_to(body, [{"name": "y"}])), FailureKind.COMPUTE),
        (lambda head, body: good(head, b'{"id":"123456"}'), FailureKind.UNREACHABLE),
    ],
)
def test_what_goes_wrong_is_told_as_over_grpc(
    peer: Peer, transport: HttpTransport, answer: Answer, kind: FailureKind
) -> None:
    peer.answer = answer
    with pytest.raises(HopFailure) as caught:
        infer(transport, timeout_s=1.5)
    assert caught.value.kind is kind
    peer.answer = good
    assert infer(transport) == [0, 2, 4], "the next one is not harmed"


def test_a_large_request_is_sent_once(peer: Peer, transport: HttpTransport) -> None:
    peer.reads.clear()  # so that no buffer takes it at once
    threading.Timer(0.2, peer.reads.set).start()
    piece = bytes(8 * 5_000_000)
    outputs = transport.send(wire(), (TensorSpec("x", "INT64", (1,)),), [[piece]], 5_000_000, 20.0)
    assert outputs["y"].ravel().tolist() == [0, 2, 4]
    assert [infer(transport) for _ in range(3)] == [[0, 2, 4]] * 3
    assert len(peer.requests) == 4
    assert peer.connections == 1


def test_a_connection_that_was_closed_while_idle_is_replaced(peer: Peer, transport: HttpTransport) -> None:
    infer(transport)
    peer.answer = lambda head, body: None if peer.connections == 1 else good(head, body)
    assert infer(transport) == [0, 2, 4]
    assert peer.connections == 2


def test_a_connection_with_another_requests_answer_on_it_is_replaced(
    peer: Peer, transport: HttpTransport
) -> None:
    infer(transport)
    peer.answer = lambda head, body: good(head, body if peer.connections == 2 else b'{"id":"123456"}')
    assert infer(transport) == [0, 2, 4]
    assert peer.connections == 2


def begin(transport: HttpTransport, timeout_s: float = 5.0) -> Awaited | None:
    return transport.begin(wire(), [[NUMBERS.tobytes()]], 3, timeout_s)


def test_begin_sends_at_once_on_an_open_connection_only(peer: Peer, transport: HttpTransport) -> None:
    assert begin(transport) is None
    assert peer.connections == 0
    infer(transport)
    awaited = begin(transport)
    wait_for(lambda: len(peer.requests) == 2)
    assert awaited is not None
    assert awaited()["y"].ravel().tolist() == [0, 2, 4]
    assert peer.connections == 1, "it is kept for the next one"
    assert transport.begin(wire(), [[bytes(LARGEST_BYTES)]], 3, 1.0) is None


def test_what_was_begun_on_a_connection_that_was_closed_is_sent_again(
    peer: Peer, transport: HttpTransport
) -> None:
    infer(transport)
    peer.answer = lambda head, body: None if peer.connections == 1 else good(head, body)
    awaited = begin(transport)
    assert awaited is not None
    assert awaited()["y"].ravel().tolist() == [0, 2, 4]
    assert peer.connections == 2


def test_what_was_begun_runs_out_of_time_as_any_other(peer: Peer, transport: HttpTransport) -> None:
    infer(transport)
    peer.answer = lambda head, body: good(head, body)[:-4]
    awaited = begin(transport, timeout_s=0.2)
    assert awaited is not None
    with pytest.raises(HopFailure) as caught:
        awaited()
    assert caught.value.kind is FailureKind.TIMED_OUT


def test_a_server_that_reads_nothing_holds_up_nobody_who_begins(peer: Peer, transport: HttpTransport) -> None:
    """The core waits while a batch is begun."""
    infer(transport)
    peer.reads.clear()
    began_s = time.monotonic()
    large = (TensorSpec("x", "UINT8", (32 << 20,)),)
    awaited = transport.begin_send(wire(), large, [[bytes(32 << 20)]], 1, 30.0)
    assert awaited is not None
    assert time.monotonic() - began_s < 5.0
    peer.reads.set()
    assert awaited()["y"].ravel().tolist() == [0, 2, 4]
    assert peer.connections == 1


def test_a_batch_whose_time_is_over_closes_no_connection(peer: Peer, transport: HttpTransport) -> None:
    together(peer, transport, 3)
    awaited = begin(transport, timeout_s=0.0)
    assert awaited is not None
    with pytest.raises(HopFailure) as caught:
        awaited()
    assert caught.value.kind is FailureKind.TIMED_OUT
    wait_for(lambda: peer.open == 2)
    assert infer(transport) == [0, 2, 4]
    assert peer.connections == 3, "only that of the batch is closed"


def test_close_ends_calls_that_wait_for_an_answer(peer: Peer) -> None:
    """As closing a gRPC channel does: whoever closes has answered their frames."""
    transport, _ = transport_to(peer.port)
    infer(transport)
    peer.reads.clear()
    failures: list[HopFailure] = []

    def wait_for_answer() -> None:
        try:
            infer(transport, timeout_s=60.0)
        except HopFailure as failure:
            failures.append(failure)

    threads = [threading.Thread(target=wait_for_answer) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: peer.connections == 2)
    began_s = time.monotonic()
    transport.close()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began_s < 8.0
    assert [failure.kind for failure in failures] == [FailureKind.UNREACHABLE] * 2
    peer.reads.set()
    assert peer.connections == 2, "nothing is sent again"


def together(peer: Peer, transport: HttpTransport, calls: int) -> None:
    """So many calls under way at once, each on a connection of its own."""
    barrier = threading.Barrier(calls)

    def wait_for_all(head: bytes, body: bytes) -> bytes:
        barrier.wait(5)
        return good(head, body)

    peer.answer = wait_for_all
    threads = [threading.Thread(target=infer, args=(transport,)) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    peer.answer = good


def test_connections_that_nothing_needs_any_more_are_closed(peer: Peer) -> None:
    transport, _ = transport_to(peer.port, idle_s=0.2)
    together(peer, transport, 4)
    end_s = time.monotonic() + 60
    while peer.open > 1:
        assert infer(transport) == [0, 2, 4]
        assert time.monotonic() < end_s
        time.sleep(0.02)
    assert peer.connections == 4, "the one in use is kept"
    wait_for(lambda: peer.open == 0)
    wait_for(lambda: not any(thread.name == "idle connections" for thread in threading.enumerate()))
    assert infer(transport) == [0, 2, 4]
    assert peer.connections == 5
    wait_for(lambda: peer.open == 0)
    transport.close()


def test_after_close_nothing_is_kept(peer: Peer) -> None:
    transport, _ = transport_to(peer.port)
    together(peer, transport, 3)
    assert peer.open == 3
    transport.close()
    wait_for(lambda: peer.open == 0)
    assert not any(thread.name == "idle connections" for thread in threading.enumerate())


def test_without_an_endpoint_bodies_go_through_the_grpc_library(peer: Peer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = int(unused.getsockname()[1])
    transport, bodies = transport_to(port)
    transport.infer(wire(), [[NUMBERS.tobytes()]], 3, 1.0)
    transport.probe(WORKER, 1.0)
    assert bodies.sent == [3, 1]
    transport.close()


@pytest.mark.parametrize("factory", ["dispatcher", "stage"])
def test_a_stub_starts_without_the_libraries_of_grpc_and_protobuf(factory: str) -> None:
    program = f"import sys, python_backend.{factory}.factory; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "numpy" in roots
    assert not roots & {"grpc", "google", "tritonclient", "asyncio"}


def test_the_library_is_not_loaded_because_a_server_has_ended() -> None:
    deployment = manifest()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = int(unused.getsockname()[1])
    targets = targets_of(deployment, deployment.models[0], deployment.entry.host)
    target = targets[WORKER]
    targets[WORKER] = replace(target, server=replace(target.server, http_port=port, grpc_port=port))
    grpc = GrpcTransport(targets, Keys.none())
    transport = HttpTransport(grpc, targets)
    with pytest.raises(HopFailure) as caught:
        transport.probe(WORKER, 1.0)
    assert (caught.value.kind, caught.value.worker) == (FailureKind.UNREACHABLE, WORKER)
    assert grpc._connections == {}
    transport.close()


@pytest.mark.parametrize("same_host", [True, False])
def test_large_tensors_go_neither_this_way_nor_through_the_library(peer: Peer, same_host: bool) -> None:
    transport, bodies = transport_to(peer.port, same_host=same_host)
    with pytest.raises(HopFailure, match="NoEndpoint"):  # nobody takes gRPC there
        transport.infer(wire(), [[bytes(LARGEST_BYTES + 8)]], 7, 1.0)
    assert (bodies.sent, peer.connections) == ([], 0)
    transport.close()


def test_a_worker_is_asked_with_a_frame_of_zeros(peer: Peer, transport: HttpTransport) -> None:
    transport.probe(WORKER, 1.0)
    (request,) = peer.requests
    assert request["parameters"]["ppipe_ticket"] == ANONYMOUS_PROBE_TEXT
    assert [each["shape"] for each in request["inputs"]] == [[1, 1]]
    assert peer.bodies[-1] == bytes(8)
    peer.answer = refused("500 Internal Server Error", "Stub process 'm' is not healthy.")
    with pytest.raises(HopFailure) as caught:
        transport.probe(WORKER, 1.0)
    assert (caught.value.kind, caught.value.worker) == (FailureKind.DEAD_STUB, WORKER)


def test_a_message_in_more_pieces_than_the_kernel_takes_at_once_arrives(
    peer: Peer, transport: HttpTransport
) -> None:
    frames = [bytes([number % 256]) * 5_000 for number in range(1_200)]
    transport.send(wire(), SPECS, [frames], 3, 60.0)
    assert (peer.connections, len(peer.requests)) == (1, 1)
    assert peer.bodies[-1] == b"".join(frames)


def test_clients_frames_go_to_another_host_this_way(peer: Peer) -> None:
    transport, _ = transport_to(peer.port, same_host=False)
    frames = WireTicket("d", 1, hop=0, ticket=wire().ticket, ingress=INFOS)
    transport.infer(frames, [[bytes(LARGEST_BYTES)] for _ in INFOS], len(INFOS), 5.0)
    assert (peer.connections, len(peer.requests)) == (1, 1)
    transport.close()


def test_under_tls_nothing_for_another_host_goes_in_plain_text(peer: Peer) -> None:
    transport, bodies = transport_to(peer.port, same_host=False, far=False)
    transport.infer(wire(), [[NUMBERS.tobytes()]], 3, 1.0)
    assert transport.begin(wire(), [[NUMBERS.tobytes()]], 3, 1.0) is None
    transport.probe(WORKER, 1.0)
    assert (bodies.sent, peer.connections) == ([3, 1], 0)
    transport.close()


def test_other_inputs_than_the_tensors_can_be_sent(peer: Peer, transport: HttpTransport) -> None:
    control = (TensorSpec("ppipe_frames", "UINT8", (1,)),)
    transport.send(wire(), control, [[bytes(3)]], 3, 1.0)
    assert peer.requests[0]["inputs"][0]["name"] == "ppipe_frames"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 501 Unsupported method\r\nContent-Length: 6\r\n\r\n<html>",
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    ],
)
def test_where_something_else_listens_bodies_go_through_grpc(peer: Peer, answer: bytes) -> None:
    peer.answer = lambda *_: answer
    transport, bodies = transport_to(peer.port)
    transport.infer(wire(), [[NUMBERS.tobytes()]], 3, 1.0)
    assert bodies.sent == [3]
    transport.close()


@pytest.mark.parametrize(
    ("slowly", "kind"), [(True, FailureKind.EXPIRED), (False, FailureKind.TIMED_OUT)], ids=["slow", "stopped"]
)
def test_a_worker_is_not_to_blame_for_what_still_arrives_when_time_is_over(
    peer: Peer, slowly: bool, kind: FailureKind
) -> None:
    """One that has stopped reading is: its connection moves nothing."""
    peer.slowly = slowly
    if not slowly:
        peer.reads.clear()
    sendings = Sendings()
    transport, _ = transport_to(peer.port, same_host=False, sendings=sendings)
    seen: list[int] = []
    with pytest.raises(HopFailure) as failure, watched(sendings, seen):
        transport.send(wire(), SPECS, [[bytes(24_000_000)]], 3, 1.2)
    assert failure.value.kind is kind
    assert failure.value.kind.blames_worker is not slowly
    assert seen, "what is on its way can be asked for"
    assert max(seen) <= 24_100_000
    assert sendings.left(1) is None, "the call is over"
    peer.reads.set()
    transport.close()


@contextlib.contextmanager
def watched(sendings: Sendings, seen: list[int]) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            if (left := sendings.left(1)) is not None:
                seen.append(left.bytes)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
