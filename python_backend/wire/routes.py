"""The way on from a stage: which worker comes next is in the ticket, where its server is in the table of
servers.

Rules
- A worker that a ticket names for the first time is a new target; connections to its server are made then.
- Connections to addresses that a new table of servers does not have are closed when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from planner.places import ServerTable
from planner.profile import TensorSpec
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.servers import Servers
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Address, Awaited, Outputs, Pieces, Target, Transport, worker_of


class Routes:
    """Targets by worker. `inputs`: what any next stage takes, which is what this one gives. Thread-safe."""

    def __init__(self, servers: Servers, own_host: str, inputs: tuple[TensorSpec, ...]) -> None:
        self._servers = servers
        self._own_host = own_host
        self._inputs = inputs
        self._by: dict[str, ServerTable] = {}
        """The table that a target was made by."""
        self.targets: Final[dict[str, Target]] = {}

    def learn(self, wire: WireTicket) -> ServerTable:
        """Know the worker that a batch goes to, at its server's address of now; the table that says so.
        Raises HopFailure.
        """
        table = self._servers.table
        worker = worker_of(wire)
        if not wire.way.servers:
            text = "the ticket does not say on which server that is"
            raise HopFailure(FailureKind.REFUSED, wire.hop, worker, text)
        server = wire.way.servers[wire.hop]
        if self._by.get(worker) is not table or self.targets[worker].server.name != server:
            try:
                address = table.server(server)
            except KeyError as error:
                raise HopFailure(FailureKind.UNREACHABLE, wire.hop, worker, str(error.args[0])) from None
            self.targets[worker] = Target(worker, address, self._inputs, address.host == self._own_host)
            self._by[worker] = table
        return table


class RoutedTransport:
    """Learns a batch's way, then sends it through `inner`, whose targets are those of `routes`. keep: leaves
    connections to these addresses alone.
    """

    def __init__(
        self,
        inner: Transport,
        routes: Routes,
        keep: Callable[[Collection[Address]], None] = lambda addresses: None,
    ) -> None:
        self.inner: Final = inner
        self._routes = routes
        self._keep = keep
        self._table: ServerTable | None = None

    def infer(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Outputs:
        """See Transport."""
        self._learn(wire)
        return self.inner.infer(wire, tensors, batch, timeout_s)

    def begin(self, wire: WireTicket, tensors: Pieces, batch: int, timeout_s: float) -> Awaited | None:
        """See Transport."""
        self._learn(wire)
        return self.inner.begin(wire, tensors, batch, timeout_s)

    def close(self) -> None:
        """See Transport."""
        self.inner.close()

    def _learn(self, wire: WireTicket) -> None:
        table = self._routes.learn(wire)
        if table is not self._table:
            self._table = table
            self._keep({(server.host, server.grpc_port) for server in table.servers})
