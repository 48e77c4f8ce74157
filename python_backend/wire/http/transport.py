"""Hops through Triton's HTTP endpoint, over plain sockets that stay open.

A small message costs a third of the processor time of a gRPC call here (0.1 against 0.32 ms) and a quarter
less in the server, which counts once per batch on both sides of every hop.

Rules
- Small messages go this way, also those that say where in shared memory a batch lies, and clients' frames to
  another host. Large tensors go in gRPC bodies (wire.http2).
- Everything goes through the gRPC library if the server has no HTTP endpoint, and to other hosts under TLS.
- A connection carries one request at a time. One that was kept and turns out closed, as after a restart of
  its server, is replaced and the request sent again: execution is at least once.
- Every wait has the time limit of its call; a connection whose call ran out of time is closed.
- A connection that nothing was sent on for IDLE_S is closed, so that a burst leaves no files behind at either
  end. The one used last is used next, so those that a lighter load does not need grow old.
- begin() sends what a connection's buffers take, and whoever awaits the answer the rest, so it never waits,
  not even for a server that has been stopped.
- Every request has a number that its answer must have too: a connection that has another's answer on it would
  mix up batches from then on, and is closed.
- close() ends calls that wait for an answer.
- A call to another host that ran out of time while its message was still arriving says so: its link is at
  fault then, not the worker.
"""

from __future__ import annotations

import functools
import itertools
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from planner.profile import TensorSpec
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure, out_of_time
from python_backend.wire.http import messages
from python_backend.wire.http.connections import IDLE_S, Connections, NoEndpoint
from python_backend.wire.http.messages import Answer, Broken
from python_backend.wire.http.sendings import Sending, Sendings
from python_backend.wire.http2.transport import Http2Calls
from python_backend.wire.kserve import Buffer
from python_backend.wire.status import GrpcStatus
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import (
    Awaited,
    Bodies,
    Outputs,
    Pieces,
    Target,
    failure_from,
    in_message,
    model_of,
    probe_of,
    size_of,
    worker_of,
    zeros_for,
)

LARGEST_BYTES: Final = 131_072
"""Of tensors in a message; above this gRPC's copies cost no more than HTTP's."""
FAR_BYTES: Final = 33_554_432
"""Of clients' frames to another host; servers from 25.08 on take at most 64 MB of a request this way."""
_QUICK_BYTES: Final = 12_288
"""Of tensors in a message that begin() makes and sends: what costs its caller next to nothing."""
_STATUSES: Final = {
    400: GrpcStatus.INVALID_ARGUMENT, 404: GrpcStatus.NOT_FOUND,
    499: GrpcStatus.CANCELLED, 503: GrpcStatus.UNAVAILABLE,
}  # fmt: skip


class HttpTransport:
    """See the module. Thread-safe."""

    def __init__(
        self,
        grpc: Bodies,
        targets: Mapping[str, Target],
        idle_s: float = IDLE_S,
        far: bool = True,
        sendings: Sendings | None = None,
    ) -> None:
        """far: whether other hosts may be sent plain HTTP. sendings: told what is on its way there."""
        self._grpc = grpc
        self._far = far
        self._targets = targets
        self._connections = Connections(idle_s, lambda connection, _: connection)
        self._head = functools.lru_cache(maxsize=4096)(messages.request_head)
        self._ids = itertools.count()
        self._sendings = sendings or Sendings()
        self._large = Http2Calls(grpc, self._sendings, idle_s)

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        target = self._targets[worker_of(wire)]
        if not (target.same_host or self._far):
            return self._grpc.infer(wire, tensors, batch, timeout_s)
        far_frames = wire.carries_frames and not target.same_host
        if size_of(tensors) <= (FAR_BYTES if far_frames else LARGEST_BYTES):
            return self.send(wire, target.inputs, in_message(wire, tensors), batch, timeout_s)
        return self._large.infer(wire, target, in_message(wire, tensors), batch, timeout_s)

    def probe(self, worker: str, timeout_s: float) -> None:
        """Have `worker` answer a frame of zeros. Raises HopFailure."""
        target = self._targets[worker]
        if not (target.same_host or self._far):
            self._grpc.probe(worker, timeout_s)
            return
        wire, zeros = probe_of(worker), zeros_for(target)
        if size_of(zeros) <= LARGEST_BYTES:
            self.send(wire, target.inputs, zeros, 1, timeout_s)
        else:
            self._large.infer(wire, target, zeros, 1, timeout_s)

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        target = self._targets[worker_of(wire)]
        if size_of(tensors) > _QUICK_BYTES or not (target.same_host or self._far):
            return None
        return self.begin_send(wire, target.inputs, in_message(wire, tensors), batch, timeout_s)

    def send(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Outputs:
        """Have a batch served whose tensors, of these specs, come along. Raises HopFailure."""
        return _Call(self, wire, specs, tensors, batch, timeout_s).outputs()

    def begin_send(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Awaited | None:
        """The same, as begin() does it."""
        call = _Call(self, wire, specs, tensors, batch, timeout_s)
        return call.outputs if call.begin() else None

    def close(self) -> None:
        """See Transport."""
        self._connections.close()
        self._large.close()
        self._grpc.close()


class _Call:
    """One request and its answer."""

    def __init__(
        self,
        transport: HttpTransport,
        wire: WireTicket,
        specs: Sequence[TensorSpec],
        tensors: Pieces,
        batch: int,
        timeout_s: float,
    ) -> None:
        self._transport = transport
        self._wire = wire
        self._worker = worker_of(wire)
        target = transport._targets[self._worker]
        self._address = (target.server.host, target.server.http_port)
        self._is_far = not target.same_host
        self._sending: Sending | None = None
        self._by_grpc = functools.partial(
            transport._grpc.send_tensors, wire, specs, tensors, batch, timeout_s
        )
        self._timeout_s = timeout_s
        self._end_us = now_us() + round(timeout_s * 1e6)
        size = size_of(tensors) if specs[0].dtype == "BYTES" else 0
        head = transport._head(tuple(specs), batch, size)
        self._id = next(transport._ids)
        self._make = functools.partial(_message, transport, wire, head, tensors, self._id)
        self._begun: socket.socket | None = None
        self._was_arriving = False
        """Whether the message moved towards the end of a call that ran out of time."""
        self._rest: list[Buffer] = []
        """Of the request, that is not yet sent."""

    def begin(self) -> bool:
        """Send it on a connection that is open; whether there was one."""
        connections = self._transport._connections
        while (connection := connections.take(self._address)) is not None:
            try:
                message = self._make()
                self._note(connection, message)
                self._rest = messages.send_now(connection, message)
            except OSError:
                connections.drop(connection)
                continue
            self._begun = connection
            return True
        return False

    def outputs(self) -> Outputs:
        """Wait for the answer; send the request first if it was not. Raises HopFailure."""
        try:
            answer = self._told_when_over()
        except (NoEndpoint, ValueError):  # nobody listens there, or something that speaks no HTTP
            return self._by_grpc()
        except TimeoutError:
            raise self._out_of_time() from None
        except (OSError, Broken) as error:
            raise self._failure(FailureKind.UNREACHABLE, repr(error)) from None
        if answer.status != 200:
            said = messages.error_of(answer.content)
            if said is None:  # no tritonserver listens there
                return self._by_grpc()
            status = _STATUSES.get(answer.status, GrpcStatus.INTERNAL)
            raise failure_from(status, said, self._wire.hop, self._worker)
        try:
            return messages.outputs_of(answer)
        except (KeyError, ValueError, TypeError) as error:
            raise self._failure(FailureKind.COMPUTE, f"unreadable answer: {error!r}") from None

    def _told_when_over(self) -> Answer:
        try:
            return self._exchange()
        finally:
            if self._sending is not None and self._wire.ticket is not None:
                self._transport._sendings.over(self._wire.ticket.batch_id)

    def _exchange(self) -> Answer:
        begun, self._begun = self._begun, None
        if begun is None:
            self._rest = self._make()
        connections = self._transport._connections
        while True:
            kept = begun or connections.take(self._address)
            connection = kept or connections.open(self._address, messages.left_s(self._end_us))
            try:
                if connection is not begun:
                    self._note(connection, self._rest)
                if self._rest:
                    messages.send(connection, self._rest, self._end_us)
                answer = messages.receive(connection, self._end_us)
                if not messages.is_to(answer, self._id):
                    raise ConnectionAbortedError("the answer to another request was on the connection")
            except (ConnectionError, Broken) as error:
                connections.drop(connection)
                if kept is None or (isinstance(error, Broken) and error.begun):
                    raise
                begun = None
                self._rest = self._make()
                continue  # closed while it was idle; those before it in the queue are as old or older
            except BaseException:
                sending = self._sending
                self._was_arriving = sending is not None and sending.moved_lately(self._timeout_s)
                connections.drop(connection)
                raise
            connections.give(self._address, connection)
            return answer

    def _note(self, connection: socket.socket, message: list[Buffer]) -> None:
        if self._is_far and self._wire.ticket is not None:
            self._sending = Sending(connection, sum(map(len, message)))
            self._transport._sendings.begun(self._wire.ticket.batch_id, self._sending)

    def _out_of_time(self) -> HopFailure:
        return out_of_time(self._wire.hop, self._worker, self._timeout_s, self._was_arriving)

    def _failure(self, kind: FailureKind, text: str) -> HopFailure:
        return HopFailure(kind, self._wire.hop, self._worker, text)


def _message(
    transport: HttpTransport, wire: WireTicket, head: bytes, tensors: Pieces, id_: int
) -> list[Buffer]:
    """The request, for one sending: a ticket is good once."""
    ticket_text = transport._grpc.ticket_text(wire, tensors)
    return messages.request(model_of(wire), head, ticket_text, tensors, id_)
