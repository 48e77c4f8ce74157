"""Hops by the gRPC library, with the tensors in the message. It is loaded where the first connection is made:
wire.http and wire.http2 carry what need not go this way.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from planner.manifest import ServerAddress, TlsFiles
from planner.profile import TensorSpec
from python_backend.wire import kserve, ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.clocks import SAME_CLOCK, EntryClocks, sent_on_entry_us
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.kserve import Buffer
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import (
    Address,
    Awaited,
    Outputs,
    Pieces,
    Target,
    in_message,
    model_of,
    probe_of,
    worker_of,
    zeros_for,
)

if TYPE_CHECKING:
    from python_backend.wire.grpc.connection import GrpcConnection

_CONNECT_S: Final = 60.0


class GrpcTransport:
    """See the module. Thread-safe. targets: may grow meanwhile."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        keys: Keys,
        tls: TlsFiles | None = None,
        clocks: EntryClocks = SAME_CLOCK,
    ) -> None:
        """clocks: what this host knows of the entry servers'; the entry server itself has the same."""
        self._clocks = clocks
        self._targets = targets
        self._tls = tls
        self._keys = keys
        self._connections: dict[Address, GrpcConnection] = {}
        """Opened when first used; changed under the lock."""
        self._is_closed = False
        self._lock = threading.Lock()
        self._head = functools.lru_cache(maxsize=4096)(kserve.request_head)

    def connect(self) -> None:
        """Have connections made, in the background: the first batch should not wait for one."""
        servers = {(each.server.host, each.server.grpc_port): each.server for each in self._targets.values()}
        for (host, port), server in servers.items():
            with self._lock:
                connection = self._connection(server)
            name = f"connect {host}:{port}"
            threading.Thread(target=connection.wake_up, args=(_CONNECT_S,), name=name, daemon=True).start()

    def keep(self, addresses: Collection[Address]) -> None:
        """Close connections to all other addresses, once the calls on them have ended."""
        with self._lock:
            for address in self._connections.keys() - addresses:
                connection = self._connections.pop(address)
                connection.is_left = True
                connection.close_if_left()

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        inputs = self._targets[worker_of(wire)].inputs
        return self.send_tensors(wire, inputs, in_message(wire, tensors), batch, timeout_s)

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        return None

    def send_tensors(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int, timeout_s: float
    ) -> Outputs:
        """Have a batch served whose tensors, of these specs, come along. Raises HopFailure."""
        request = b"".join(self.request(wire, specs, tensors, batch))
        return self.send(worker_of(wire), wire.hop, request, timeout_s)

    def request(
        self, wire: WireTicket, specs: Sequence[TensorSpec], tensors: Pieces, batch: int
    ) -> list[Buffer]:
        """See Bodies."""
        head = self._head(model_of(wire), tuple(specs), batch)
        ticket = kserve.text_parameter(ticket_codec.PARAMETER, self.ticket_text(wire, tensors))
        return kserve.request_pieces(head, ticket, tensors)

    def ticket_text(self, wire: WireTicket, tensors: Pieces) -> str:
        """See Bodies."""
        if wire.ticket is None:
            return ticket_codec.ANONYMOUS_PROBE_TEXT
        if self._targets[worker_of(wire)].same_host:
            return ticket_codec.encode(wire, self._keys)
        covered = tensors if self._tls is None else None
        sent_us = now_us()
        on_entry = sent_on_entry_us(self._clocks, wire.way.entry, sent_us)
        return ticket_codec.encode(wire, self._keys, sent_us, covered, on_entry)

    def send(self, worker: str, hop: int, request: bytes, timeout_s: float) -> Outputs:
        """Send a whole serialised request. Raises HopFailure."""
        try:
            connection = self._connection_to(self._targets[worker].server, timeout_s)
        except OSError as error:
            raise HopFailure(FailureKind.UNREACHABLE, hop, worker, repr(error)) from None
        try:
            return kserve.response_outputs(connection.infer(worker, hop, request, timeout_s))
        except kserve.WireError as error:
            raise HopFailure(FailureKind.COMPUTE, hop, worker, str(error)) from None
        finally:
            with self._lock:
                connection.calls -= 1
                connection.close_if_left()

    def probe(self, worker: str, timeout_s: float) -> None:
        """Have `worker` answer a frame of zeros. Raises HopFailure."""
        target = self._targets[worker]
        self.send_tensors(probe_of(worker), target.inputs, zeros_for(target), 1, timeout_s)

    def close(self) -> None:
        """See Transport."""
        with self._lock:
            self._is_closed = True
        for connection in self._connections.values():
            connection.close()

    def _connection_to(self, server: ServerAddress, timeout_s: float) -> GrpcConnection:
        """One to use, until its count of calls is taken down. Raises OSError."""
        address = (server.host, server.grpc_port)
        if address not in self._connections:
            # The library is not to be loaded because a server has just ended: all threads would wait for it.
            socket.create_connection(address, timeout_s).close()
        with self._lock:
            connection = self._connection(server)
            connection.calls += 1
            return connection

    def _connection(self, server: ServerAddress) -> GrpcConnection:
        """Under the lock. Raises OSError where a file of TLS cannot be read, and after close()."""
        from python_backend.wire.grpc.connection import GrpcConnection

        key = (server.host, server.grpc_port)
        connection = self._connections.get(key)
        if connection is None:
            if self._is_closed:
                raise ConnectionAbortedError("the transport is closed")
            connection = self._connections[key] = GrpcConnection(server.grpc_address, self._tls)
        return connection
