"""Reserved time of links: intervals with gaps between them.

Rules: a transfer holds its sender's uplink and its receiver's downlink at once, and is reserved where nothing
else is; it overlaps another only after it was moved because the stage before it ended late. One that is
reserved for later leaves the link to others until then. Each link's list is in order of starts; what has
passed is cut off when something is added.
"""

from __future__ import annotations

from python_backend.scheduler.batches import Reservation


class Links:
    """A model's uplinks and downlinks, by index. `up_free`, `down_free`: the end of all that was ever
    reserved, for policies that only append."""

    __slots__ = ("down_busy", "down_free", "down_names", "now_us", "up_busy", "up_free", "up_names")

    def __init__(self) -> None:
        self.now_us: int = 0
        self.up_names: dict[str, int] = {}
        self.down_names: dict[str, int] = {}
        self.up_free: list[int] = []
        self.down_free: list[int] = []
        self.up_busy: list[list[Reservation]] = []
        self.down_busy: list[list[Reservation]] = []

    def uplink(self, name: str) -> int:
        """Index of an uplink, made when it is new."""
        if name not in self.up_names:
            self.up_names[name] = len(self.up_free)
            self.up_free.append(0)
            self.up_busy.append([])
        return self.up_names[name]

    def downlink(self, name: str) -> int:
        """Index of a downlink, made when it is new."""
        if name not in self.down_names:
            self.down_names[name] = len(self.down_free)
            self.down_free.append(0)
            self.down_busy.append([])
        return self.down_names[name]

    def gap_us(self, uplink: int, from_us: int, length_us: int) -> int:
        """When an uplink is first free for `length_us` on end, from `from_us` on."""
        if self.up_free[uplink] <= from_us:
            return from_us
        return _gap_us(self.up_busy[uplink], from_us, length_us)

    def down_gap_us(self, downlink: int, from_us: int, length_us: int) -> int:
        """The same of a downlink."""
        if self.down_free[downlink] <= from_us:
            return from_us
        return _gap_us(self.down_busy[downlink], from_us, length_us)

    def fit_us(self, uplink: int, downlink: int, from_us: int, length_us: int) -> int:
        """When both links are."""
        start_us = self.gap_us(uplink, from_us, length_us)
        while True:
            both_us = self.down_gap_us(downlink, start_us, length_us)
            if both_us == start_us:
                return start_us
            start_us = self.gap_us(uplink, both_us, length_us)
            if start_us == both_us:
                return start_us

    def add(self, hop: Reservation) -> None:
        """Reserve a hop's transfer on its two links."""
        end_us = hop.transfer_end_us
        self.up_free[hop.uplink] = max(self.up_free[hop.uplink], end_us)
        self.down_free[hop.downlink] = max(self.down_free[hop.downlink], end_us)
        if end_us > hop.transfer_start_us:
            _insert(self.up_busy[hop.uplink], hop, self.now_us)
            _insert(self.down_busy[hop.downlink], hop, self.now_us)

    def remove(self, hop: Reservation) -> None:
        """Free what a hop's transfer still holds."""
        if hop.uplink >= 0:
            _remove(self.up_busy[hop.uplink], hop)
            _remove(self.down_busy[hop.downlink], hop)


def _gap_us(busy: list[Reservation], from_us: int, length_us: int) -> int:
    if length_us == 0:
        return from_us
    for hop in busy:
        if hop.transfer_end_us > from_us:
            if from_us + length_us <= hop.transfer_start_us:
                return from_us
            from_us = hop.transfer_end_us
    return from_us


def _insert(busy: list[Reservation], hop: Reservation, now_us: int) -> None:
    while busy and busy[0].transfer_end_us <= now_us:
        busy.pop(0)
    index = len(busy)
    while index > 0 and busy[index - 1].transfer_start_us > hop.transfer_start_us:
        index -= 1
    busy.insert(index, hop)


def _remove(busy: list[Reservation], hop: Reservation) -> None:
    for index in range(len(busy)):
        if busy[index] is hop:
            busy.pop(index)
            return
