"""Every door tried against real servers, and a good client's service while each kind of attack goes on.

Tries: what a stranger on the host, a caller of the entry or a peer on the network could try
(helpers.doors.tries). Attacks: bombs, 5,000 callers, slow readers, replays, forged notices, both HTTP attacks
and 5,000 callers through the front, and through one that knows the good client (helpers.doors.floods), each
twice. docs/security.md says what each door is closed by.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.helpers.doors.floods import CALLERS, all_attacks, bear, memory_bytes, most_bytes
from benchmarks.helpers.doors.stand import Stand, stand
from benchmarks.helpers.doors.tries import all_tries, foreign_page
from benchmarks.helpers.report import main


def run(seconds: float = 6.0) -> Mapping[str, Any]:
    """The figures. seconds: of each attack; 0: tries alone."""
    with tempfile.TemporaryDirectory(prefix="ppipe-doors-") as folder, stand(Path(folder)) as tried:
        figures = try_all(tried)
        if seconds <= 0:
            return figures
        rest_bytes = memory_bytes(tried)
        most_mib = most_bytes(tried, rest_bytes, CALLERS) >> 20
        borne = {name: bear(tried, attack, seconds) for name, attack in all_attacks(tried).items()}
    return {
        **figures,
        "rest_mib": rest_bytes >> 20,
        "most_mib": most_mib,
        "peak_mib": max(max(each.peak_bytes) for each in borne.values()) >> 20,
        "attacks": {name: each.figures() for name, each in borne.items()},
        "attainment": min(each.attainment for each in borne.values()),
        "unanswered": sum(each.sent - each.answered for each in borne.values()),
        "ended": sorted({name for each in borne.values() for name in each.ended}),
        "growth": max(each.growth for each in borne.values()),
    }


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
    main("Doors tried, and attacks borne.", run, seconds=6.0)
