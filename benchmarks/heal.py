"""A fleet that is planned again under load: losses, planned changes, load that moves, a server that flaps.

Two models on four stage servers of two classes, emulated, on real tritonservers; arrivals are Poisson and
seeded. Every turn is kept in the results file, so a run goes on where another ended.

Losses are permanent, of a random stage server, half at 70 % and half at 95 % of what the plan for what
remains serves at 99 % in simulation. Healed: the new revision serves, and every later second attains 0.97.
missed_at_best: the share of losses, 40 a turn, that would miss 5 s in simulation if the new revision served
0.1 s after a server is known to be lost: near capacity, chance leaves seconds short.
Rollouts go between two plans, half of them on GPUs whose memory does not hold both; some are killed and
taken up again. Loads: rollouts there and back until so many workers were loaded, and what is held more by it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.helpers.heal.loads import load_and_unload
from benchmarks.helpers.heal.turns import constant, flap, lose, roll, turn_load
from benchmarks.helpers.kept import Kept
from benchmarks.helpers.report import main

_LOADS = (0.7, 0.95)
_NO_END_S = 1e9


def run(
    losses: int = 20,
    rollouts: int = 20,
    kills: int = 5,
    moves: int = 1,
    flap_s: float = 60.0,
    constant_s: float = 600.0,
    loads: int = 200,
    seed: int = 1,
    results: str = "",
    limit_s: float = _NO_END_S,
    only: str = "",
) -> Mapping[str, Any]:
    """The figures of this benchmark, over all turns so far. limit_s: begin no turn after that long; 0 for
    moves, flap_s, constant_s or loads leaves these out. only: turns whose names begin so.
    """
    settings = {
        "rollouts": rollouts,
        "kills": kills,
        "moves": moves,
        "flap_s": flap_s,
        "constant_s": constant_s,
        "loads": loads,
    }
    kept = Kept(Path(results) if results else None, settings)
    end_s = time.monotonic() + limit_s
    left = 0
    for name, turn in _turns(losses, rollouts, kills, moves, flap_s, constant_s, loads, seed):
        if name in kept or not name.startswith(only):
            continue
        if time.monotonic() > end_s:
            left += 1
            continue
        kept.add(name, turn())
        print(f"{name}: {kept[name]}", file=sys.stderr, flush=True)
    return {**figures(kept), "turns_left": left}


def _turns(
    losses: int,
    rollouts: int,
    kills: int,
    moves: int,
    flap_s: float,
    constant_s: float,
    loads: int,
    seed: int,
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
    for number in range(moves):
        yield f"moved/{seed + number}", lambda s=seed + number: asdict(turn_load(s))  # type: ignore[misc]
    if flap_s:
        yield f"flap/{seed}", lambda: asdict(flap(flap_s, seed))
    if constant_s:
        yield f"constant/{seed}", lambda: _constant(constant_s, seed)
    if loads:
        yield f"loads/{loads}", lambda: asdict(load_and_unload(loads))


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
    loaded = list(kept.named("loads/"))
    return {
        "emulated": True,
        "losses": len(lost),
        "rollouts": len(rolled),
        **{key: sum(turn[key] for turn in every) for key in ("unanswered", "wrong", "double")},
        "plan_s_max": max((turn["plan_s"] for turn in lost), default=None),
        "heal_s_max": max(healed, default=None),
        "heal_s_median": statistics.median(healed) if healed else None,
        **{
            f"missed_at_best_{load:g}": round(statistics.mean(each), 3)
            for load in _LOADS
            if (each := [turn["missed_at_best"] for turn in lost if turn["load"] == load])
        },
        "heal_parts_max": parts_of(lost),
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
        "loads_and_unloads": sum(turn["loads"] for turn in loaded),
        "rss_mib_per_100_loads": max((turn["rss_mib_per_100"] for turn in loaded), default=None),
        "files_per_100_loads": max((turn["files_per_100"] for turn in loaded), default=None),
        "shm_mib_more_after_loads": max((turn["shm_mib"] for turn in loaded), default=None),
        "moved_load_reached_s": max((turn["reached_s"] or 1e9 for turn in moved), default=None),
        "moved_load_reached": min((turn["reached"] for turn in moved), default=None),
        "flaps": sum(max(0, turn["rollouts"] - 1) for turn in flaps),
        "rollouts_at_constant_load": sum(turn["rollouts"] for turn in still),
        "watching_share": max((turn["watching_share"] for turn in still), default=None),
    }


def parts_of(lost: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The longest of each part of a loss, in seconds: until the server is out, from then to the first step,
    the loads, the hand-over, and the first good window.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for turn in lost:
        before = 0.0
        for name in ("out_s", "begun_s", "loaded_s", "served_s"):
            at = turn["parts"][name]
            if at is not None:  # nothing to load: the next part begins where this one would have
                found[name].append(at - before)
                before = at
        if turn["heal_s"] is not None:
            found["good_s"].append(turn["heal_s"] - before)
    return {name: round(max(values), 2) for name, values in found.items()}


if __name__ == "__main__":
    main(
        __doc__.split("\n")[0],
        run,
        losses=20,
        rollouts=20,
        kills=5,
        moves=1,
        flap_s=60.0,
        constant_s=600.0,
        loads=200,
        seed=1,
        results="",
        limit_s=_NO_END_S,
        only="",
    )
