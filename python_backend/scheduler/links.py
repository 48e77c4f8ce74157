"""Reserved time of links: intervals with gaps between them.

Rules: a transfer holds its sender's uplink and its receiver's downlink at once, and is reserved where nothing
else is; it overlaps another only after it was moved because the stage before it ended late. One that is
reserved for later leaves the link to others until then. Each link's list is in order of starts; what has
passed is cut off when something is added.

A link that other models use too. A model keeps to its share of it: a transfer of L us takes L / share of
the model's time there, and starts only when that is not used up (the generic cell rate algorithm of ATM).
So a share bounds the rate and stretches no transfer. That time runs from when something is reserved, not
from when it starts: what is reserved for later keeps nothing waiting that is sent before it. Where what
others reserve is told (`taken`), that is kept clear of, and a model may run ahead of its time, by
RUN_AHEAD_US or by so many transfers as this one. Where it is not, running ahead would fill the link with what
nobody sees. What is sent may find one of the others' transfers under way (`others_us`).

A link that is slower than planned. What the dispatcher sees of its own transfers is told (`behind`): the link
is held until what is late has crossed it, and each transfer from the entry takes its time by plan times the
link's pace.
"""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.batches import Reservation

RUN_AHEAD_US: Final = 1_000_000
RUN_AHEAD_TRANSFERS: Final = 8
AS_PLANNED: Final = 1000
"""Pace of a link: the time of a transfer over that by plan, in thousandths."""
FORGOTTEN: Final = 32
"""With each transfer that is told, the longest one before it counts by one in so many parts less."""


class Links:
    """A model's uplinks and downlinks, by index. `up_free`, `down_free`: the end of all that was ever
    reserved, for policies that only append. `shares`: of links that are shared, by name."""

    __slots__ = (
        "down_busy", "down_due", "down_free", "down_held", "down_names", "down_pace", "down_share", "now_us",
        "others_us", "shares", "slow", "told", "up_busy", "up_due", "up_free", "up_held", "up_names",
        "up_pace", "up_share",
    )  # fmt: skip

    def __init__(self, shares: dict[str, float] | None = None) -> None:
        self.now_us: int = 0
        self.shares: dict[str, float] = shares if shares is not None else {}
        self.told: list[bool] = []
        """Of uplinks: whether what other models send over them is told."""
        self.others_us: list[int] = []
        """Of uplinks: the longest of the transfers that others told of lately."""
        self.up_share: list[float] = []
        self.down_share: list[float] = []
        self.up_due: list[float] = []
        self.down_due: list[float] = []
        """Of shared links: up to when this model has used its time."""
        self.slow: bool = False
        """Whether any link was ever slower than planned."""
        self.up_pace: list[int] = []
        self.down_pace: list[int] = []
        self.up_held: list[Reservation | None] = []
        self.down_held: list[Reservation | None] = []
        """What holds a link until what is late has crossed it."""
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
            self.up_share.append(self.shares.get(name, 1.0))
            self.up_due.append(0.0)
            self.up_pace.append(AS_PLANNED)
            self.up_held.append(None)
            self.told.append(False)
            self.others_us.append(0)
            self.up_busy.append([])
        return self.up_names[name]

    def downlink(self, name: str) -> int:
        """Index of a downlink, made when it is new."""
        if name not in self.down_names:
            self.down_names[name] = len(self.down_free)
            self.down_free.append(0)
            self.down_share.append(self.shares.get(name, 1.0))
            self.down_due.append(0.0)
            self.down_pace.append(AS_PLANNED)
            self.down_held.append(None)
            self.down_busy.append([])
        return self.down_names[name]

    def gap_us(self, uplink: int, from_us: int, length_us: int) -> int:
        """When an uplink is first free for a transfer of `length_us`, from `from_us` on."""
        share = self.up_share[uplink]
        if share < 1.0:
            from_us = max(from_us, _earliest_us(self.up_due[uplink], length_us, share, self.told[uplink]))
        if self.up_free[uplink] <= from_us:
            return from_us
        return _gap_us(self.up_busy[uplink], from_us, length_us, False)

    def down_gap_us(self, downlink: int, from_us: int, length_us: int) -> int:
        """The same of a downlink."""
        share = self.down_share[downlink]
        if share < 1.0:
            from_us = max(from_us, _earliest_us(self.down_due[downlink], length_us, share, False))
        if self.down_free[downlink] <= from_us:
            return from_us
        return _gap_us(self.down_busy[downlink], from_us, length_us, True)

    def fit_us(self, uplink: int, downlink: int, from_us: int, up_us: int, down_us: int) -> int:
        """When both links are, each for so long."""
        start_us = self.gap_us(uplink, from_us, up_us)
        while True:
            both_us = self.down_gap_us(downlink, start_us, down_us)
            if both_us == start_us:
                return start_us
            start_us = self.gap_us(uplink, both_us, up_us)
            if start_us == both_us:
                return start_us

    def add(self, hop: Reservation) -> None:
        """Reserve a hop's transfer on its two links."""
        start_us = hop.transfer_start_us
        uplink, downlink = hop.uplink, hop.downlink
        hop.up_until_us = start_us + hop.up_wire_us
        hop.down_until_us = start_us + hop.down_wire_us
        self.up_free[uplink] = max(self.up_free[uplink], hop.up_until_us)
        self.down_free[downlink] = max(self.down_free[downlink], hop.down_until_us)
        if hop.up_wire_us > 0:
            _insert(self.up_busy[uplink], hop, self.now_us, False)
            if self.up_share[uplink] < 1.0:
                self.up_due[uplink] = max(self.up_due[uplink], float(self.now_us))
                self.up_due[uplink] += hop.up_wire_us / self.up_share[uplink]
        if hop.down_wire_us > 0:
            _insert(self.down_busy[downlink], hop, self.now_us, True)
            if self.down_share[downlink] < 1.0:
                self.down_due[downlink] = max(self.down_due[downlink], float(self.now_us))
                self.down_due[downlink] += hop.down_wire_us / self.down_share[downlink]

    def taken(self, name: str, start_us: int, until_us: int) -> None:
        """Another model's transfer holds an uplink of this name, if there is one, from start_us until
        until_us."""
        if name not in self.up_names or until_us <= max(start_us, self.now_us):
            return
        uplink = self.up_names[name]
        longest_us = self.others_us[uplink]
        self.others_us[uplink] = max(until_us - start_us, longest_us - longest_us // FORGOTTEN)
        hop = Reservation(0, -1, 0)
        hop.moved = True  # it may overlap what is reserved already
        hop.transfer_start_us = start_us
        hop.transfer_end_us = until_us
        hop.up_until_us = until_us
        self.up_free[uplink] = max(self.up_free[uplink], until_us)
        _insert(self.up_busy[uplink], hop, self.now_us, False)

    def behind(self, name: str, is_down: bool, behind_us: int, pace: int) -> None:
        """What is late takes so much more of this link's time, if there is such a link; and its pace."""
        names = self.down_names if is_down else self.up_names
        if name not in names:
            return
        link = names[name]
        paces = self.down_pace if is_down else self.up_pace
        paces[link] = max(pace, AS_PLANNED)
        self.slow = self.slow or pace > AS_PLANNED
        held = self.down_held if is_down else self.up_held
        busy = (self.down_busy if is_down else self.up_busy)[link]
        before = held[link]
        if before is not None:
            _remove(busy, before)
        held[link] = None
        if behind_us <= 0:
            return
        hop = Reservation(0, -1, 0)
        hop.moved = True  # it overlaps what was reserved before this was known
        hop.transfer_start_us = self.now_us
        hop.transfer_end_us = hop.up_until_us = hop.down_until_us = _worked_us(
            busy, self.now_us, behind_us, is_down
        )
        held[link] = hop
        free = self.down_free if is_down else self.up_free
        free[link] = max(free[link], hop.transfer_end_us)
        _insert(busy, hop, self.now_us, is_down)

    def pace(self, uplink: int, downlink: int) -> int:
        """Of a transfer over both: that of the slower one."""
        return max(self.up_pace[uplink], self.down_pace[downlink])

    def remove(self, hop: Reservation) -> None:
        """Free what a hop's transfer still holds."""
        if hop.uplink >= 0:
            if _remove(self.up_busy[hop.uplink], hop):
                self.up_due[hop.uplink] -= hop.up_wire_us / self.up_share[hop.uplink]
            if _remove(self.down_busy[hop.downlink], hop):
                self.down_due[hop.downlink] -= hop.down_wire_us / self.down_share[hop.downlink]


def _earliest_us(due_us: float, length_us: int, share: float, told: bool) -> int:
    """When a transfer of `length_us` keeps to a share of which the time up to `due_us` is used."""
    if not told:
        return int(due_us)
    return int(due_us - max(float(RUN_AHEAD_US), RUN_AHEAD_TRANSFERS * length_us / share))


def _gap_us(busy: list[Reservation], from_us: int, length_us: int, is_down: bool) -> int:
    if length_us == 0:
        return from_us
    for hop in busy:
        until_us = hop.down_until_us if is_down else hop.up_until_us
        if until_us > from_us:
            if from_us + length_us <= hop.transfer_start_us:
                return from_us
            from_us = until_us
    return from_us


def paced_us(time_us: int, pace: int) -> int:
    """What by plan takes `time_us`, at a pace."""
    return time_us if pace == AS_PLANNED else time_us * pace // AS_PLANNED


def _worked_us(busy: list[Reservation], now_us: int, work_us: int, is_down: bool) -> int:
    """When a link that never rests has done `work_us` beside what is reserved until then."""
    time_us = now_us
    for hop in busy:
        idle_us = hop.transfer_start_us - time_us
        if idle_us >= work_us:
            break
        work_us -= max(0, idle_us)
        time_us = max(time_us, hop.down_until_us if is_down else hop.up_until_us)
    return time_us + work_us


def _insert(busy: list[Reservation], hop: Reservation, now_us: int, is_down: bool) -> None:
    while busy and (busy[0].down_until_us if is_down else busy[0].up_until_us) <= now_us:
        busy.pop(0)
    index = len(busy)
    while index > 0 and busy[index - 1].transfer_start_us > hop.transfer_start_us:
        index -= 1
    busy.insert(index, hop)


def _remove(busy: list[Reservation], hop: Reservation) -> bool:
    for index in range(len(busy)):
        if busy[index] is hop:
            busy.pop(index)
            return True
    return False
