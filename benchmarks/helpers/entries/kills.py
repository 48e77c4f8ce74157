"""Kills of entries under load: two entries with a shard each, emulated workers on four stage servers, callers
who keep to one entry as long as it answers and go to the other one for a moment where it does not, as behind
a load balancer.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.helpers.entries.deployed import ENTRIES, LONGEST_S, deployed, owns, page_of, wait_until
from benchmarks.helpers.faults.strike import SLO_US, capacity_rps, emulated_model
from benchmarks.helpers.loads.tagged import TaggedFrame, TaggedLoad
from planner.manifest import DeploymentManifest
from planner.shards import Shard
from ppipe.serving.launcher import ServedDeployment
from python_backend.simulator.arrivals import Poisson

SHARDS = (
    Shard(ENTRIES, capacity_rps() / 2, (((0, 1), (0, 1)),)),
    Shard(ENTRIES[::-1], capacity_rps() / 2, (((2, 3), (2, 3)),)),
)
LOAD = 0.6
_AWAY_S = 0.5
"""How long callers leave an entry alone that did not answer."""
_BEFORE_S, _AFTER_S = 2.0, 1.0
_WINDOW_S, _STEP_S = 1.0, 0.1


class Callers(TaggedLoad):
    """Of every two, one keeps to each entry. door: the Triton model to call, which takes what the first model
    takes; '' for that one.
    """

    def __init__(self, manifest: DeploymentManifest, door: str = "", slo_us: int = SLO_US) -> None:
        model = manifest.models[0]
        targets = [(entry.grpc_address, door or model.dispatcher) for entry in manifest.entries]
        super().__init__(targets, model.input, model.outputs[0].name, slo_us)
        self._away_until_s = [0.0] * len(targets)

    def _target(self, number: int) -> int:
        home = number % len(ENTRIES)
        return 1 - home if time.monotonic() < self._away_until_s[home] else home

    def _failed(self, target: int, error: str) -> None:
        if "reason=" not in error:  # no dispatcher's answer
            self._away_until_s[target] = time.monotonic() + _AWAY_S


@dataclass(frozen=True)
class Kill:
    """Seconds from the start. back_s: when the killed entry's dispatcher answered again; returned_s: when it
    owned its shard again, and the other one that no more.
    """

    victim: int
    killed_s: float
    adopted_s: float
    back_s: float
    returned_s: float


def run_kills(kills: int, seed: int) -> dict[str, Any]:
    """The figures of so many kills of a random entry."""
    with deployed("entries", [emulated_model()], {"net": SHARDS}) as deployment:
        return _killed(deployment, kills, seed)


def _killed(deployment: ServedDeployment, kills: int, seed: int) -> dict[str, Any]:
    callers = Callers(deployment.manifest)
    arrivals = list(Poisson(LOAD * capacity_rps()).times_us(kills * LONGEST_S, seed, "net"))
    thread = threading.Thread(target=callers.run, args=(arrivals,))
    rng, began_s = random.Random(seed), time.monotonic() + 0.05
    thread.start()
    try:
        time.sleep(_BEFORE_S)
        done = [_kill(deployment, rng.randrange(2), began_s) for _ in range(kills)]
    finally:
        callers.stop()
        thread.join()
        callers.close()
    return figures(done, callers.frames)


def _kill(deployment: ServedDeployment, victim: int, began_s: float) -> Kill:
    time.sleep(_BEFORE_S)
    other = 1 - victim
    (pid,) = (status.pid for status in deployment.statuses if status.name == ENTRIES[victim])
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    wait_until(lambda: owns(deployment, other) == {"0", "1"})
    adopted_s = time.monotonic()
    wait_until(lambda: page_of(deployment, victim) is not None)
    back_s = time.monotonic()
    wait_until(lambda: owns(deployment, victim) == {str(victim)} and owns(deployment, other) == {str(other)})
    returned_s = time.monotonic()
    time.sleep(_AFTER_S)
    return Kill(victim, *(at_s - began_s for at_s in (killed_s, adopted_s, back_s, returned_s)))


def figures(kills: Sequence[Kill], frames: Sequence[TaggedFrame]) -> dict[str, Any]:
    """failed_at_others: share of the frames, from a kill to the return, of callers of the entry that was not
    killed, that failed or were late. adoption_s, recovery_s: from the kill; recovery_s until frames are
    answered in time at 98 % of the share before, and stay so. given_back_s: from the killed entry's first
    answer.
    """
    others = [
        frame
        for kill in kills
        for number, frame in enumerate(frames)
        if number % 2 != kill.victim and kill.killed_s <= frame.sent_s < kill.returned_s
    ]
    failed = sum(not frame.in_time(SLO_US / 1e6) for frame in others)
    recoveries = [_recovery_s(kill, frames) for kill in kills]
    adoptions = [kill.adopted_s - kill.killed_s for kill in kills]
    returns = [kill.returned_s - kill.back_s for kill in kills]
    return {
        "kills": len(kills),
        "failed_at_others": round(failed / max(1, len(others)), 4),
        "double": sum(frame.answers > 1 for frame in frames),
        "unanswered": sum(frame.answers == 0 for frame in frames),
        "wrong": sum(frame.wrong for frame in frames),
        "adoption_s_max": round(max(adoptions, default=0.0), 2),
        "recovery_s_max": round(max(recoveries, default=0.0), 2),
        "given_back_s_max": round(max(returns, default=0.0), 2),
        "frames": len(frames),
        "by_kill": [
            asdict(kill) | {"recovery_s": round(recovery, 2)}
            for kill, recovery in zip(kills, recoveries, strict=True)
        ],
    }


def _recovery_s(kill: Kill, frames: Sequence[TaggedFrame]) -> float:
    before = _share(frames, kill.killed_s - _BEFORE_S, kill.killed_s) or 1.0
    recovered_s = at_s = kill.killed_s
    while at_s < kill.returned_s:
        share = _share(frames, at_s, at_s + _WINDOW_S)
        at_s += _STEP_S
        if share is not None and share < 0.98 * before:
            recovered_s = at_s
    return recovered_s - kill.killed_s


def _share(frames: Sequence[TaggedFrame], start_s: float, end_s: float) -> float | None:
    """Of the frames that were sent then, those that were answered in time."""
    sent = [frame for frame in frames if start_s <= frame.sent_s < end_s]
    return sum(frame.in_time(SLO_US / 1e6) for frame in sent) / len(sent) if sent else None
