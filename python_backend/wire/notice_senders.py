"""Notices to the dispatchers of one model: to the one that has sent the batch, on whichever entry server.

Their addresses are those of the table of servers, as it is now. Sockets to others are given back.
"""

from __future__ import annotations

from planner.places import ServerTable
from python_backend.wire.clocks import EntryClocks
from python_backend.wire.feedback import Notice, NoticeSender
from python_backend.wire.servers import Servers
from python_backend.wire.signing.keys import Keys


class NoticeSenders:
    """See the module. Never blocks, never raises. Thread-safe."""

    def __init__(self, servers: Servers, model: str, keys: Keys, clocks: EntryClocks) -> None:
        self._servers = servers
        self._model = model
        self._keys = keys
        self._clocks = clocks
        self._senders: dict[tuple[str, int], NoticeSender] = {}
        """By address."""
        self._table: ServerTable = servers.table
        self._found: dict[str, NoticeSender] = {}
        """By entry server, as `_table` has them."""

    def send(self, entry: str, notice: Notice) -> None:
        """Send to the model's dispatcher on an entry server, or lose it."""
        sender = self._sender(entry)
        if sender is not None:
            sender.send(notice)

    def send_to_all(self, datagram: bytes) -> None:
        """Send something to the model's dispatchers on all entry servers, or lose it."""
        for entry in self._servers.table.entries:
            sender = self._sender(entry.server.name)
            if sender is not None:
                sender.send_datagram(datagram)

    def close(self) -> None:
        """Give the sockets back."""
        for sender in self._senders.values():
            sender.close()

    def _sender(self, entry: str) -> NoticeSender | None:
        table = self._servers.table
        if table is not self._table:
            self._table, self._found = table, {}
        found = self._found  # another thread may begin anew: what is made here is of this table
        sender = found.get(entry)
        if sender is None and (sender := self._made(table, entry)) is not None:
            found[entry] = sender
        return sender

    def _made(self, table: ServerTable, entry: str) -> NoticeSender | None:
        try:
            address = table.feedback(entry, self._model)
        except KeyError:  # an entry server that is not there any more
            return None
        sender = self._senders.get(address)
        if sender is None:
            made = NoticeSender(address, self._keys, lambda: self._clocks.offset(entry))
            sender = self._senders.setdefault(address, made)
            if sender is not made:
                made.close()
            self._close_old()
        return sender

    def _close_old(self) -> None:
        """A notice that another thread sends there just now gets lost, as it would anyway."""
        addresses = {
            (entry.server.host, entry.feedback_ports[self._model])
            for entry in self._servers.table.entries
            if self._model in entry.feedback_ports
        }
        for address in list(self._senders):
            if address not in addresses and (old := self._senders.pop(address, None)) is not None:
                old.close()
