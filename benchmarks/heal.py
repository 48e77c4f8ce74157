"""A fleet that is planned again under load: losses, planned changes, load that moves, a server that flaps.

Two models on four stage servers of two classes, emulated, on real tritonservers; arrivals are Poisson and
seeded. Every turn is kept in the results file, so a run goes on where another ended.

Losses are permanent, of a random stage server, half at 70 % and half at 95 % of what the plan for what
remains serves at 99 % in simulation. Healed: the new revision serves, and every later second attains 0.97.
Rollouts go between two plans, half of them on GPUs whose memory does not hold both; some are killed and
taken up again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.helpers.heal_turns import constant, flap, lose, roll, turn_load
from benchmarks.helpers.kept import Kept
from benchmarks.helpers.report import main

_LOADS = (0.7, 0.95)
_NO_END_S = 1e9


def run(
    losses: int = 20,
    rollouts: int = 20,
    kills: int = 5,
    flap_s: float = 60.0,
    constant_s: float = 600.0,
    seed: int = 1,
    results: str = "",
    limit_s: float = _NO_END_S,
) -> Mapping[str, Any]:
    """The figures of this benchmark, over all turns so far. limit_s: begin no turn after that long; 0 for
    flap_s or constant_s leaves these out.
    """
    settings = {"rollouts": rollouts, "kills": kills, "flap_s": flap_s, "constant_s": constant_s}
    kept = Kept(Path(results) if results else None, settings)
    end_s = time.monotonic() + limit_s
    left = 0
    for name, turn in _turns(losses, rollouts, kills, flap_s, constant_s, seed):
        if name in kept:
            continue
        if time.monotonic() > end_s:
            left += 1
            continue
        kept.add(name, turn())
        print(f"{name}: {kept[name]}", file=sys.stderr, flush=True)
    return {**figures(kept), "turns_left": left}


def _turns(
    losses: int, rollouts: int, kills: int, flap_s: float, constant_s: float, seed: int
) -> Iterator[tuple[str, Callable[[], Mapping[str, Any]]]]:
    for number in range(losses):
        load = _LOADS[number % len(_LOADS)]
        yield f"loss/{load}/{seed + number}", lambda load=load, s=seed + number: asdict(lose(load, s))  # type: ignore[misc]
    half, killed = rollouts // 2, kills // 2
    for breaks, count, dead in ((False, half, killed), (True, rollouts - half, kills - killed)):
        if count:
            yield (
                f"rollouts/{'break' if breaks else 'make'}/{seed}",
                lambda b=breaks, n=count, k=dead: {"turns": [asdict(t) for t in roll(n, b, k, seed)]},  # type: ignore[misc]
            )
    yield f"moved/{seed}", lambda: asdict(turn_load(seed))
    if flap_s:
        yield f"flap/{seed}", lambda: asdict(flap(flap_s, seed))
    if constant_s:
        yield f"constant/{seed}", lambda: _constant(constant_s, seed)


def _constant(seconds: float, seed: int) -> Mapping[str, Any]:
    turn, share = constant(seconds, seed)
    return {**asdict(turn), "watching_share": round(share, 4)}


def figures(kept: Kept) -> dict[str, Any]:
    """See the module; None where no turn of the kind is there yet."""
    lost = list(kept.named("loss/"))
    rolled = [turn for part in kept.named("rollouts/") for turn in part["turns"]]
    made = [turn for turn in rolled if not turn["breaks"]]
    broke = [turn for turn in rolled if turn["breaks"]]
    moved, flaps, still = (list(kept.named(f"{kind}/")) for kind in ("moved", "flap", "constant"))
    every = [*lost, *rolled, *moved, *flaps, *still]
    healed = [turn["heal_s"] for turn in lost if turn["heal_s"] is not None]
    return {
        "emulated": True,
        "losses": len(lost),
        "rollouts": len(rolled),
        **{key: sum(turn[key] for turn in every) for key in ("unanswered", "wrong", "double")},
        "plan_s_max": max((turn["plan_s"] for turn in lost), default=None),
        "heal_s_max": max(healed, default=None),
        "never_healed": len(lost) - len(healed),
        "attainment_after_loss_min": min((turn["attainment_after"] for turn in lost), default=None),
        "after_loss_shortfall_max": max(
            (round(turn["possible"] - turn["attainment_after"], 4) for turn in lost), default=None
        ),
        "make_before_break_attainment_min": min((turn["attained"] for turn in made), default=None),
        "break_before_make_shortfall_max": max(
            (round(turn["expected"] - turn["attained"], 4) for turn in broke), default=None
        ),
        "killed_and_resumed": sum(turn["killed"] for turn in rolled),
        "loads_and_unloads": sum(turn["loads"] for turn in rolled),
        "moved_load_reached_s": max((turn["reached_s"] or 1e9 for turn in moved), default=None),
        "moved_load_reached": min((turn["reached"] for turn in moved), default=None),
        "flaps": sum(max(0, turn["rollouts"] - 1) for turn in flaps),
        "rollouts_at_constant_load": sum(turn["rollouts"] for turn in still),
        "watching_share": max((turn["watching_share"] for turn in still), default=None),
    }


if __name__ == "__main__":
    main(
        __doc__.split("\n")[0],
        run,
        losses=20,
        rollouts=20,
        kills=5,
        flap_s=60.0,
        constant_s=600.0,
        seed=1,
        results="",
        limit_s=_NO_END_S,
    )
