"""What is seen of the loop while heal runs it: what it says and does, and when dispatchers serve by another
revision.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.helpers.heal.fleet import HealFleet
from planner.revision import read_acks, read_hand_over
from planner.rollout.steps import Step, StepKind
from ppipe.operate.looks import Watch
from ppipe.operate.loop import OperateLoop, OperateSettings
from ppipe.operate.planners import Planners
from ppipe.operate.served import what_is_served
from ppipe.rollout.history import HistoryEntry
from ppipe.rollout.revisions import tables_of


@dataclass(frozen=True)
class LossParts:
    """Where the time of a loss went: seconds from it until the server was out, until the rollout was begun,
    until the workers that it loads answered, until all dispatchers served by the new revision's table, and
    until the old workers were gone. loads: workers that were loaded.
    """

    out_s: float | None = None
    begun_s: float | None = None
    loaded_s: float | None = None
    served_s: float | None = None
    ended_s: float | None = None
    loads: int = 0


class Watched:
    """When what was said and done by the loop, by time.monotonic."""

    def __init__(self) -> None:
        self._said: list[tuple[float, str]] = []
        self.operate: OperateLoop | None = None
        self._steps: list[tuple[float, int, Sequence[Step]]] = []

    def wait_until_ready(self, limit_s: float) -> None:
        """Until the loop has a plan for the loss of each server."""
        until_s = time.monotonic() + limit_s
        while time.monotonic() < until_s and not (self.operate and self.operate.is_ready):
            time.sleep(0.1)

    def say(self, text: str) -> None:
        """Hear what is decided."""
        self._said.append((time.monotonic(), text))
        print(f"  {text}", file=sys.stderr, flush=True)

    def progress(self, done: int, steps: Sequence[Step]) -> None:
        """Hear how far a rollout has come."""
        self._steps.append((time.monotonic(), done, steps))

    def parts(self, lost_s: float, served_s: float | None) -> LossParts:
        """Of the first rollout after a loss."""
        begun = next((at for at, done, _ in self._steps if done == 0 and at > lost_s), None)
        out = next((at for at, text in self._said if ": out after" in text and at > lost_s), None)
        if begun is None:
            return LossParts(out_s=_since(lost_s, out), served_s=served_s)
        made = [(at, done, steps) for at, done, steps in self._steps if at >= begun]
        ended = {steps[done - 1].kind: at for at, done, steps in made if done}
        loads = [step for step in made[0][2] if step.kind is StepKind.LOAD]
        return LossParts(
            out_s=_since(lost_s, out),
            begun_s=_since(lost_s, begun),
            loaded_s=_since(lost_s, ended.get(StepKind.LOAD)),
            served_s=None if served_s is None else round(served_s, 2),
            ended_s=_since(lost_s, made[-1][0] if made[-1][1] == len(made[-1][2]) else None),
            loads=sum(len(step.workers) for step in loads),
        )


def _since(lost_s: float, at: float | None) -> float | None:
    return None if at is None else round(at - lost_s, 2)


def serves_another(fleet: HealFleet) -> bool:
    """Whether all dispatchers serve by the whole table of another revision than was generated."""
    table = read_hand_over(fleet.deployed.tables)
    if table is None or table.manifest.epoch == fleet.manifest.epoch:
        return False
    whole = fleet.deployed.kept.manifest(table.manifest.epoch)
    if tables_of(table.manifest) != tables_of(whole):
        return False
    dispatchers = {entry.dispatcher for entry in fleet.manifest.models}
    acks = read_acks(fleet.deployed.answers, dispatchers)
    return acks.keys() == dispatchers and all(ack.number == table.number for ack in acks.values())


@contextlib.contextmanager
def loop(
    fleet: HealFleet, settings: OperateSettings | None = None, watched: Watched | None = None
) -> Iterator[list[HistoryEntry]]:
    """The loop, in a thread; yields the rollouts that it has made."""
    watched = watched or Watched()
    done: list[HistoryEntry] = []
    stop = threading.Event()
    start = what_is_served(fleet.deployed)
    with Watch(start.manifest) as watch, Planners() as planners:
        operate = OperateLoop(
            fleet.deployed,
            start,
            settings or OperateSettings(),
            watch,
            planners,
            watched.say,
            rolled_out=done.append,
            progress=watched.progress,
        )
        watched.operate = operate
        thread = threading.Thread(target=operate.run, args=(stop,))
        thread.start()
        try:
            yield done
        finally:
            stop.set()
            thread.join()
