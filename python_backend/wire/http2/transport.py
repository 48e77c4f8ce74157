"""Large tensors: gRPC calls over plain sockets, so that tensors go out from where they lie.

Triton reads a gRPC body at half of what an HTTP body costs it, which comes in pieces of 16 KB; the gRPC
library copies each message twice before it sends it. This has neither.

Rules
- As with wire.http: connections are kept, one that turns out closed is replaced and the call made again, and
  every wait has the time limit of its call.
- A call to another host that ran out of time while its message was still arriving says so: its link is at
  fault then.
"""

from __future__ import annotations

from python_backend.wire import kserve
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure, out_of_time
from python_backend.wire.http.connections import IDLE_S, Address, Connections, NoEndpoint
from python_backend.wire.http.messages import Broken, left_s
from python_backend.wire.http.sendings import Sending, Sendings
from python_backend.wire.http2.connection import (
    Answered,
    Http2Connection,
    Reset,
    Unserved,
    connected,
)
from python_backend.wire.status import status_of
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Bodies, Outputs, Pieces, Target, failure_from, worker_of


class Http2Calls:
    """See the module. Thread-safe."""

    def __init__(self, bodies: Bodies, sendings: Sendings, idle_s: float = IDLE_S) -> None:
        """sendings: told what is on its way to other hosts."""
        self._bodies = bodies
        self._sendings = sendings
        self._connections = Connections(idle_s, connected)

    def infer(
        self,
        wire: WireTicket,
        target: Target,
        tensors: Pieces,
        batch: int,
        timeout_s: float,
    ) -> Outputs:
        """Have a batch served whose tensors come along. Raises HopFailure."""
        return _Call(self, wire, target, tensors, batch, timeout_s).outputs()

    def close(self) -> None:
        """Give up connections, and end calls that wait for an answer."""
        self._connections.close()


class _Call:
    """One request and its answer."""

    def __init__(
        self,
        calls: Http2Calls,
        wire: WireTicket,
        target: Target,
        tensors: Pieces,
        batch: int,
        timeout_s: float,
    ) -> None:
        self._calls = calls
        self._wire = wire
        self._address: Address = (target.server.host, target.server.grpc_port)
        self._is_far = not target.same_host
        self._specs = target.inputs
        self._tensors = tensors
        self._batch = batch
        self._timeout_s = timeout_s
        self._end_us = now_us() + round(timeout_s * 1e6)
        self._sending: Sending | None = None

    def outputs(self) -> Outputs:
        """Raises HopFailure."""
        try:
            answered = self._answered()
        except TimeoutError:
            raise self._out_of_time() from None
        except (OSError, NoEndpoint, Broken, Unserved, ValueError) as error:
            raise self._failure(FailureKind.UNREACHABLE, repr(error)) from None
        except Reset as error:
            raise self._failure(FailureKind.COMPUTE, str(error)) from None
        finally:
            if self._sending is not None and self._wire.ticket is not None:
                self._calls._sendings.over(self._wire.ticket.batch_id)
        if answered.status != 0:
            status = status_of(answered.status)
            raise failure_from(status, answered.said, self._wire.hop, worker_of(self._wire))
        try:
            return kserve.response_outputs(answered.message)
        except kserve.WireError as error:
            raise self._failure(FailureKind.COMPUTE, str(error)) from None

    def _answered(self) -> Answered:
        connections = self._calls._connections
        while True:
            kept = connections.take(self._address)
            connection = kept or connections.open(self._address, left_s(self._end_us))
            try:
                answered = self._made_on(connection)
            except (ConnectionError, Broken, Unserved) as error:
                connections.drop(connection)
                if kept is None or (isinstance(error, Broken) and error.begun):
                    raise
                continue  # closed while it was idle; those before it in the queue are as old or older
            except BaseException:
                connections.drop(connection)
                raise
            if connection.is_good:
                connections.give(self._address, connection)
            else:
                connections.drop(connection)
            return answered

    def _made_on(self, connection: Http2Connection) -> Answered:
        # Made for each sending: a ticket is good once.
        message = self._calls._bodies.request(self._wire, self._specs, self._tensors, self._batch)

        def begun(size: int) -> None:
            if self._is_far and self._wire.ticket is not None:
                self._sending = Sending(connection.socket, size)
                self._calls._sendings.begun(self._wire.ticket.batch_id, self._sending)

        try:
            return connection.call(kserve.INFER_METHOD, message, self._end_us, begun)
        except TimeoutError:
            raise self._out_of_time() from None

    def _out_of_time(self) -> HopFailure:
        sending = self._sending
        was_arriving = sending is not None and sending.moved_lately(self._timeout_s)
        return out_of_time(self._wire.hop, worker_of(self._wire), self._timeout_s, was_arriving)

    def _failure(self, kind: FailureKind, text: str) -> HopFailure:
        return HopFailure(kind, self._wire.hop, worker_of(self._wire), text)
