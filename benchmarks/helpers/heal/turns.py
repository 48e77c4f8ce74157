"""The turns of heal: one loss, some rollouts, a load that moves, a server that flaps; each on a fleet of
its own.

Rates are shares of capacity: the load, in the mix that the plan is for, that a plan's tables serve at 99 %
in simulation.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.helpers.heal.fleet import MEMORY_GIB, TIGHT_GIB, HealFleet, make_fleet, weighted
from benchmarks.helpers.heal.load import FleetLoad, arrivals_us
from benchmarks.helpers.heal.simulated import AFTER_S, first_good, missed_at_best
from benchmarks.helpers.heal.tables_served import TablesServed
from benchmarks.helpers.heal.watch import LossParts, Watched, loop, serves_another
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.planning import plan as make_plan
from planner.rollout.steps import Step
from planner.serving import ServedModel
from ppipe.operate.loop import OperateSettings
from ppipe.operate.replan import Truth, attained, plan_now, problem_now, tables_of, what_is_left
from ppipe.operate.rules import RuleSettings
from ppipe.rollout.deployed import start_of
from ppipe.rollout.history import HistoryEntry
from ppipe.rollout.preparing import prepare
from ppipe.rollout.rollout import perform
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

SETTLED_S = 8.0
"""Of load before anything is done: the loop knows the rates then. Before a loss it also has its plans."""
READY_S = 60.0
"""At most, for these plans: they are made niced, on cores that have other things to do."""
MIXES = ({"cars": 1.0, "faces": 1.0}, {"cars": 1.0, "faces": 3.0})
ROLLOUT_LOAD = 0.8
"""Of what the lesser of the two plans was planned for, model by model."""
KILLED_WITHIN_S = 3.0, 6.0
"""Of the first step: make before break, and break before make, which has more of them."""
_SERVED = 0.99
_LOSS_MOMENTS = 40
"""That a loss of the same load is simulated at, a second apart."""


@dataclass(frozen=True)
class LossTurn:
    """attainment_after: of the frames of the 10 s after the loss; possible: what the plan before could
    serve of them with what was left. heal_s: None where it was never healed. missed_at_best: of losses of
    this load at other moments, the share that takes longer than 5 s in simulation, where healing could not
    be faster.
    """

    load: float
    victim: str
    plan_s: float
    heal_s: float | None
    missed_at_best: float
    parts: LossParts
    attainment_after: float
    possible: float
    unanswered: int
    wrong: int
    double: int


@dataclass(frozen=True)
class RolloutTurn:
    """expected: what the tables in between serve of the same frames in simulation, each for as long as it
    served. Of one that was killed, all from its beginning until another process had brought it to its end.
    """

    breaks: bool
    killed: bool
    seconds: float
    attained: float
    expected: float
    loads: int
    unanswered: int
    wrong: int
    double: int


@dataclass(frozen=True)
class LoopTurn:
    """What the loop did: rollouts by cause; of the planned capacity what was reached, and after how
    long.
    """

    rollouts: int
    causes: tuple[str, ...]
    reached: float
    reached_s: float | None
    unanswered: int
    wrong: int
    double: int


@contextlib.contextmanager
def served_fleet(
    memory_gib: float = MEMORY_GIB, mix: int = 0
) -> Iterator[tuple[HealFleet, ServedDeployment]]:
    """A new fleet, served from a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="ppipe-heal-") as folder:
        fleet = make_fleet(Path(folder), free_base(33_000, 40), MIXES[mix], memory_gib)
        workspace = fleet.deployed.workspace
        with ServedDeployment(workspace.repository, workspace.logs) as served:
            served.start()
            yield fleet, served


def capacity(tables: Mapping[str, ServedModel], mix: Mapping[str, float]) -> float:
    """The factor on `mix` up to which _SERVED of each model's frames are served in simulation."""
    low, high = 0.0, 1.2 * min(table.planned_rps / mix[model] for model, table in tables.items())
    for _ in range(9):
        middle = (low + high) / 2
        each = [attained({model: table}, {model: middle * mix[model]}) for model, table in tables.items()]
        low, high = (middle, high) if min(each) >= _SERVED else (low, middle)
    return low


@dataclass(frozen=True)
class Loss:
    """A stage server to kill, the plan without it and what made it wait, and the load that goes with it:
    frames/s by model, so much of the capacity of what remains. left: what is left of the plan before.
    possible: the share of the load that it could serve.
    """

    victim: str
    plan_s: float
    tables: Mapping[str, ServedModel]
    left: Mapping[str, ServedModel]
    rates: Mapping[str, float]
    possible: float


def drawn(fleet: HealFleet, load: float, seed: int) -> Loss:
    """The loss of this seed."""
    choose = random.Random(seed)
    victim = choose.choice([server.name for server in fleet.manifest.servers if server.models])
    mix = {model.model: model.throughput_rps for model in fleet.plan.models}
    truth = Truth(out=frozenset({victim}), rates_rps=mix)
    began_s = time.monotonic()
    plan = plan_now(fleet.problem, truth, fleet.plan)
    plan_s = time.monotonic() - began_s
    tables = tables_of(plan, problem_now(fleet.problem, truth))
    factor = load * capacity(tables, mix)
    rates = {model: factor * rate for model, rate in mix.items()}
    left = tables_of(what_is_left(fleet.plan, fleet.problem, truth), fleet.problem)
    possible = sum(min(rates[m], left[m].planned_rps) for m in rates if m in left) / sum(rates.values())
    return Loss(victim, plan_s, tables, left, rates, min(1.0, possible))


def lose(load: float, seed: int) -> LossTurn:
    """Kill a stage server for good under so much of the capacity of what remains."""
    with served_fleet(mix=seed % 2) as (fleet, served):
        loss = drawn(fleet, load, seed)
        stretches = [(READY_S + AFTER_S + 20.0, loss.rates)]
        arrivals = {model: arrivals_us(model, stretches, seed) for model in loss.rates}
        moments_s = [SETTLED_S + second for second in range(_LOSS_MOMENTS)]
        missed = missed_at_best(loss.left, loss.tables, arrivals, moments_s)
        watched = Watched()
        with FleetLoad(fleet.manifest, stretches, seed) as load_on, loop(fleet, watched=watched):
            time.sleep(SETTLED_S)
            watched.wait_until_ready(READY_S - SETTLED_S)
            lost_s = load_on.now_s
            end_for_good(served, loss.victim)
            served_s = None
            while load_on.now_s < lost_s + AFTER_S:
                if served_s is None and serves_another(fleet):
                    served_s = load_on.now_s
                time.sleep(0.05)
            end_s = load_on.now_s
        score = load_on.score()
        heal = None if served_s is None else first_good(load_on.attained, lost_s, served_s, end_s - 1.5)
        return LossTurn(
            load=load,
            victim=loss.victim,
            plan_s=round(loss.plan_s, 3),
            heal_s=None if heal is None else round(heal - lost_s, 2),
            missed_at_best=round(missed, 3),
            parts=watched.parts(load_on.start_s + lost_s, served_s and served_s - lost_s),
            attainment_after=round(load_on.attained(lost_s, lost_s + 10.0), 4),
            possible=round(loss.possible, 4),
            unanswered=score.unanswered,
            wrong=score.wrong,
            double=score.double,
        )


def roll(turns: int, breaks: bool, kills: int, seed: int) -> list[RolloutTurn]:
    """Rollouts between two plans on one fleet, there and back; the first `kills` of them are killed
    once.
    """
    choose = random.Random(seed)
    found = []
    with served_fleet(TIGHT_GIB if breaks else MEMORY_GIB) as (fleet, served):
        other = make_plan(weighted(fleet.problem, MIXES[1]), mode="fast")
        there = prepare(fleet.deployed, other, fleet.deployed.kept.next_number(1))
        fleet.deployed.kept.keep(fleet.manifest, fleet.plan)
        rates = {
            model.model: ROLLOUT_LOAD * min(model.throughput_rps, other.model(model.model).throughput_rps)
            for model in fleet.plan.models
        }
        for turn in range(turns):
            target = there if turn % 2 == 0 else fleet.manifest
            found.append(_roll_once(fleet, target, rates, breaks, turn < kills, choose, seed + turn))
        del served
    return found


def _roll_once(
    fleet: HealFleet,
    target: DeploymentManifest,
    rates: Mapping[str, float],
    breaks: bool,
    killed: bool,
    choose: random.Random,
    seed: int,
) -> RolloutTurn:
    seen: list[tuple[float, Sequence[Step]]] = []
    stretches = [(90.0, rates)]
    with FleetLoad(fleet.manifest, stretches, seed) as load, TablesServed(fleet) as tables:
        time.sleep(1.5)
        began_s = load.now_s
        if killed:
            began_s = _begin_and_kill(fleet, target, breaks, choose) - load.start_s
        perform(
            fleet.deployed,
            target,
            "rollout",
            "measured",
            progress=lambda done, steps: seen.append((load.now_s, steps)),
            wanted_rps=rates,
            before={},
        )
        made_s = seen[-1][0] if seen else load.now_s
    score = load.score()
    arrivals = {model: arrivals_us(model, stretches, seed) for model in rates}
    began_at_s, made_at_s = load.start_s + began_s, load.start_s + made_s
    return RolloutTurn(
        breaks=breaks,
        killed=killed,
        seconds=round(made_s - began_s, 2),
        attained=round(load.attained(began_s, made_s), 4),
        expected=round(tables.simulated(began_at_s, made_at_s, arrivals, load.start_s), 4),
        loads=sum(len(step.workers) for _, steps in seen[:1] for step in steps),
        unanswered=score.unanswered,
        wrong=score.wrong,
        double=score.double,
    )


def _begin_and_kill(
    fleet: HealFleet, target: DeploymentManifest, breaks: bool, choose: random.Random
) -> float:
    """Another process begins the rollout and is killed at a random moment of it. When it was begun."""
    root = str(fleet.deployed.workspace.root)
    command = [sys.executable, "-m", "ppipe", "rollout", str(fleet.file), "--work", root]
    began = subprocess.Popen([*command, "--to", str(target.epoch)], stderr=subprocess.DEVNULL)
    record = Path(root) / "rollout.json"
    before = record.stat().st_mtime_ns if record.exists() else 0
    while began.poll() is None and (not record.exists() or record.stat().st_mtime_ns == before):
        time.sleep(0.02)
    began_s = time.monotonic()
    time.sleep(choose.uniform(0.0, KILLED_WITHIN_S[breaks]))
    began.kill()
    began.wait()
    return began_s


def turn_load(seed: int) -> LoopTurn:
    """The load moves from 8 to 2 over to 2 to 8, at 70 % of what the plan for 8 to 2 carries."""
    with served_fleet() as (fleet, _served):
        first = {"cars": 8.0, "faces": 2.0}
        plan = make_plan(weighted(fleet.problem, first), mode="fast")
        target = prepare(fleet.deployed, plan, fleet.deployed.kept.next_number(1))
        perform(fleet.deployed, target, "rollout", "measured", before={})
        factor = 0.7 * min(plan.model(model).throughput_rps / rate for model, rate in first.items())
        before = {model: factor * rate for model, rate in first.items()}
        after = {"cars": before["faces"], "faces": before["cars"]}
        wanted = plan_now(fleet.problem, Truth(rates_rps=after), plan)
        best = min(wanted.model(model).throughput_rps / rate for model, rate in after.items())
        settings = OperateSettings(rules=RuleSettings(between_s=10.0))
        stretches = [(12.0, before), (30.0, after)]
        with FleetLoad(fleet.manifest, stretches, seed) as load, loop(fleet, settings) as done:
            reached, reached_s = 0.0, None
            while (now_s := load.now_s) < 40.0:
                served = fleet.deployed.kept.plan(start_of(fleet.deployed).manifest.epoch)
                reached = _of_best(served, after, best)
                if reached_s is None and now_s > 12.0 and reached >= 0.95:
                    reached_s = now_s - 12.0
                time.sleep(0.2)
        score = load.score()
        return _loop_turn(done, reached, reached_s, score.unanswered, score.wrong, score.double)


def _of_best(served: Plan | None, rates: Mapping[str, float], best: float) -> float:
    if served is None:
        return 0.0
    return min(served.model(model).throughput_rps / rate for model, rate in rates.items()) / best


def flap(seconds: float, seed: int) -> LoopTurn:
    """A server that is stopped and goes on every 3 s."""
    with served_fleet() as (fleet, served):
        rates = {model.model: 0.4 * model.throughput_rps for model in fleet.plan.models}
        victim = next(server.name for server in fleet.manifest.servers if server.models)
        with FleetLoad(fleet.manifest, [(seconds + 30.0, rates)], seed) as load, loop(fleet) as done:
            time.sleep(SETTLED_S)
            until_s = time.monotonic() + seconds
            while time.monotonic() < until_s:
                pid = next(status.pid for status in served.statuses if status.name == victim)
                if pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                        time.sleep(3.0)
                        os.kill(pid, signal.SIGCONT)
                time.sleep(3.0)
        score = load.score()
        return _loop_turn(done, 0.0, None, score.unanswered, score.wrong, score.double)


def constant(seconds: float, seed: int) -> tuple[LoopTurn, float]:
    """A load that stays as it is, under `ppipe operate` as a process; and that process's share of a
    core.
    """
    with served_fleet() as (fleet, _served):
        rates = {model.model: 0.6 * model.throughput_rps for model in fleet.plan.models}
        root = str(fleet.deployed.workspace.root)
        command = [sys.executable, "-m", "ppipe", "operate", str(fleet.file), "--work", root]
        with FleetLoad(fleet.manifest, [(seconds + 60.0, rates)], seed) as load:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                time.sleep(20.0)
                before_s, at_s = _cpu_s(process.pid), time.monotonic()
                time.sleep(seconds)
                share = (_cpu_s(process.pid) - before_s) / (time.monotonic() - at_s)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait()
        score = load.score()
        entries = list(fleet.deployed.history.entries())
        return _loop_turn(entries, 0.0, None, score.unanswered, score.wrong, score.double), share


def _cpu_s(pid: int) -> float:
    """Of this process, without its children: planning in idle time is theirs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _loop_turn(
    done: Sequence[HistoryEntry], reached: float, reached_s: float | None, *counts: int
) -> LoopTurn:
    seconds = None if reached_s is None else round(reached_s, 1)
    return LoopTurn(len(done), tuple(entry.cause for entry in done), round(reached, 3), seconds, *counts)


def end_for_good(served: ServedDeployment, server: str) -> None:
    """Kill a server, and keep it from being started again."""
    served.hold(server)
    pid = next(status.pid for status in served.statuses if status.name == server)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
