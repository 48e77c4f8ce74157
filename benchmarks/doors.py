"""Every door tried against real servers, and a good client's service while each kind of attack goes on.

Tries: what a stranger on the host, a caller of the entry or a peer on the network could try
(helpers.doors.tries). Attacks: bombs, 5,000 callers, slow readers, replays, forged notices, both HTTP attacks
and 5,000 callers through the front, and through one that knows the good client (helpers.doors.floods), each
twice, or as often as --times says. docs/security.md says what each door is closed by. Beside them, what
callers cost a good client by the processors that they have in common with it (`compared`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.helpers.doors.floods import (
    CALLERS,
    FRONT_SOURCES,
    SETTLE_S,
    all_attacks,
    bear,
    compared,
    memory_bytes,
    most_bytes,
)
from benchmarks.helpers.doors.stand import Stand, stand
from benchmarks.helpers.doors.tries import all_tries, foreign_page
from benchmarks.helpers.report import main

T = TypeVar("T")
_MOST_ADDRESSES = 254
"""They are 127.0.1.1 and the following."""


def run(
    seconds: float = 6.0, only: str = "", addresses: Sequence[float] = FRONT_SOURCES, times: int = 2
) -> Mapping[str, Any]:
    """The figures. seconds: of each attack; 0: tries alone. only: attacks of this name alone, where * is
    anything. addresses: from how many callers come through the front, such as 2,4,16; one attack each.
    times: how often each attack is made, one after the other. Raises ValueError.
    """
    counts = address_counts(addresses)
    if times < 2:
        raise ValueError(f"--times {times}: expected 2 or more, for memory is compared between attacks")
    with tempfile.TemporaryDirectory(prefix="ppipe-doors-") as folder, stand(Path(folder)) as tried:
        groups = tuple(make(tried, counts) for make in (all_attacks, compared))
        asked = tuple(named_so(attacks, only) for attacks in groups)
        if not any(asked):
            raise ValueError(f"--only {only!r}: expected one of {', '.join(chain(*groups))}")
        figures = {} if only else try_all(tried)
        if seconds <= 0:
            return figures
        time.sleep(SETTLE_S)
        rest_bytes = memory_bytes(tried)
        most_mib = most_bytes(tried, rest_bytes, CALLERS) >> 20
        borne, beside = (
            {name: bear(tried, attack, seconds, times) for name, attack in attacks.items()}
            for attacks in asked
        )
    return {
        **figures,
        "rest_mib": rest_bytes >> 20,
        "most_mib": most_mib,
        "peak_mib": max((max(each.peak_bytes) for each in borne.values()), default=0) >> 20,
        "attacks": {name: each.figures() for name, each in borne.items()},
        "compared": {name: each.figures() for name, each in beside.items()},
        "attainment": min((each.attainment for each in borne.values()), default=None),
        "unanswered": sum(each.sent - each.answered for each in borne.values()),
        "ended": sorted({name for each in borne.values() for name in each.ended}),
        "growth": max((each.growth for each in borne.values()), default=None),
    }


def address_counts(addresses: Sequence[float]) -> tuple[int, ...]:
    """As whole numbers. Raises ValueError for what loopback has no addresses for."""
    for number in addresses:
        if not (1 <= number <= _MOST_ADDRESSES and number == int(number)):
            raise ValueError(f"--addresses {number:g}: expected whole numbers from 1 to {_MOST_ADDRESSES}")
    return tuple(map(int, addresses))


def named_so(attacks: Mapping[str, T], only: str) -> dict[str, T]:
    """Those that are to be made; all of them where `only` is ''."""
    return {name: attack for name, attack in attacks.items() if not only or fnmatch(name, only)}


def try_all(tried: Stand) -> dict[str, Any]:
    """Each door once."""
    before = tried.processes()
    found = {name: attempt(tried) for name, attempt in all_tries(tried).items()}
    open_ = {name: said for name, said in found.items() if said}
    now = tried.processes()
    return {
        "tries": len(found),
        "held": len(found) - len(open_),
        "open": [f"{name}: {said}" for name, said in open_.items()],
        "front": bool(tried.front_http),
        "a foreign page at the entry itself": foreign_page(tried),
        "ended_by_tries": [name for name, pid in before.items() if now.get(name) != pid],
    }


if __name__ == "__main__":
    main("Doors tried, and attacks borne.", run, seconds=6.0, only="", addresses=FRONT_SOURCES, times=2)
