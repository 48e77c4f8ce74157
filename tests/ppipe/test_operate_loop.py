"""The loop, with told time: what it asks planners for, what it takes, and that it survives faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.helpers.heal.fleet import HealFleet, make_fleet, weighted
from planner import serial
from planner.deployment import load_deployment
from planner.deployment.asked import asked_hash
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem
from planner.revision import HandOver, hand_over
from planner.rollout.check import RolloutFault
from planner.rollout.fleet import Tables
from ppipe.operate import loop as loop_module
from ppipe.operate import loss_plans, served
from ppipe.operate.looks import Pages
from ppipe.operate.loop import OperateLoop, OperateSettings
from ppipe.operate.loss_plans import ServedNow
from ppipe.operate.planners import Made, make_plan
from ppipe.operate.replan import Truth, problem_now, promise_of
from ppipe.operate.rules import Cause, Decision, PlanPromise, RuleSettings
from ppipe.rollout.deployed import Deployed
from ppipe.rollout.early import Early, forget_early, save_early
from ppipe.rollout.history import HistoryEntry, HistoryFault
from ppipe.rollout.lock import RolloutBusy
from ppipe.rollout.preparing import prepare
from ppipe.rollout.record import RolloutRecord, RolloutStatus, save_record
from ppipe.rollout.run import StepFailed
from ppipe.simulation.margined import with_margins
from ppipe.workspace import save
from tests.ppipe.test_rollout_run import entry

SERVERS = ("fast-0", "fast-1", "slow-0", "slow-1")
EVEN, TURNED = {"cars": 50.0, "faces": 50.0}, {"cars": 10.0, "faces": 90.0}


class SeenServers:
    """Stands for Watch: what is seen is told."""

    def __init__(self) -> None:
        self.servers = SERVERS
        self.silent: set[str] = set()
        self.pages = Pages(at_s=0.0)
        self.counted = {"cars": 0.0, "faces": 0.0}

    def answering(self, tables: Tables, now_s: float) -> frozenset[str]:
        self.pages = Pages(at_s=now_s, frames=dict(self.counted))
        return frozenset(SERVERS) - self.silent

    def come(self, rates: Mapping[str, float], seconds: float) -> None:
        for model, rate in rates.items():
            self.counted[model] += rate * seconds


class PlannersHere:
    """Plans in this process, and keeps what was asked for."""

    def __init__(self) -> None:
        self.ready: DeploymentManifest | None = None
        self.asked: list[Truth] = []
        self.idle: list[Truth] = []

    def now(self, problems: Sequence[Problem], truth: Truth, served: Plan) -> Future[Made]:
        self.asked.append(truth)
        return self._made(problems, truth, served)

    def idly(
        self, deployed: Deployed, problems: Sequence[Problem], truth: Truth, served: Plan
    ) -> Future[Made]:
        self.idle.append(truth)
        made = self._made(problems, truth, served)
        if made.exception() is not None:
            return made
        ready: Future[Made] = Future()
        ready.set_result(replace(made.result(), ready=self.ready))
        return ready

    def _made(self, problems: Sequence[Problem], truth: Truth, served: Plan) -> Future[Made]:
        future: Future[Made] = Future()
        try:
            future.set_result(make_plan(problems, truth, served))
        except ValueError as error:
            future.set_exception(error)
        return future


class LoopStand:
    """A loop, turned twice a second, that only advises unless it is told otherwise."""

    def __init__(self, fleet: HealFleet, advise: bool = True, between_s: float = 60.0) -> None:
        self.seen, self.planners, self.said = SeenServers(), PlannersHere(), list[str]()
        start = ServedNow(fleet.manifest, fleet.plan, Truth(rates_rps=EVEN))
        self.loop = OperateLoop(
            fleet.deployed,
            start,
            OperateSettings(rules=RuleSettings(between_s=between_s), advise=advise),
            self.seen,  # type: ignore[arg-type]
            self.planners,  # type: ignore[arg-type]
            self.said.append,
            now_s=0.0,
        )
        self.now_s = 0.0

    def turn(self, rates: Mapping[str, float], seconds: float) -> list[Decision]:
        decisions = []
        for _ in range(round(seconds * 2)):
            self.seen.come(rates, 0.5)
            self.now_s += 0.5
            decisions.append(self.loop.turn(self.now_s))
        return decisions


@pytest.fixture
def stand(tmp_path: Path) -> LoopStand:
    return LoopStand(make_fleet(tmp_path / "work", 30_000))


def test_at_constant_load_only_losses_are_planned_for_one_by_one(stand: LoopStand) -> None:
    decisions = stand.turn(EVEN, 20.0)
    assert {decision.cause for decision in decisions} == {None}
    assert stand.planners.asked == []
    latest = {next(iter(truth.out)): truth for truth in stand.planners.idle}
    assert set(latest) == set(SERVERS)
    assert all(sum(truth.rates_rps.values()) == pytest.approx(100.0, rel=0.1) for truth in latest.values())
    assert len(stand.planners.idle) <= 3 * len(SERVERS)


def test_servers_that_do_not_run_are_not_planned_with(tmp_path: Path) -> None:
    """They had no work when the deployment was generated."""
    fleet = make_fleet(tmp_path / "work", 30_000)
    running = tuple(server for server in fleet.manifest.servers if server.name != "slow-1")
    stand = LoopStand(replace(fleet, manifest=replace(fleet.manifest, servers=running)))
    names = [server.name for server in stand.loop._problem.cluster.servers]
    assert sorted(names) == ["fast-0", "fast-1", "slow-0"]


def test_a_lost_server_is_healed_by_the_plan_that_was_kept(stand: LoopStand) -> None:
    stand.turn(EVEN, 20.0)
    stand.seen.silent = {"fast-0"}
    decisions = stand.turn(EVEN, 2.5)
    assert [decision.roll_out for decision in decisions][-1]
    assert decisions[-1].cause is Cause.LOSS
    assert stand.planners.asked == [], "its plan was there"
    assert any(line.startswith("server fast-0: out") for line in stand.said)


def test_what_the_loss_of_a_silent_server_needs_is_loaded_early_and_unloaded_if_it_answers_again(
    stand: LoopStand, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def load(deployed: Deployed, target: DeploymentManifest) -> None:
        done.append("load")
        save_early(Early(target, "", ("w",), {}), deployed.workspace.root)

    def unload(deployed: Deployed) -> None:
        done.append("unload")
        forget_early(deployed.workspace.root)

    monkeypatch.setattr(loss_plans, "load_early", load)
    monkeypatch.setattr(loss_plans, "unload_early", unload)
    stand.loop._settings = replace(stand.loop._settings, advise=False)
    monkeypatch.setattr(stand.loop, "_act", lambda decision, made, truth: done.append("roll out"))
    stand.planners.ready = stand.loop.served.manifest
    stand.turn(EVEN, 20.0)
    assert done == []
    for _ in range(5):
        stand.seen.silent = {"fast-0"}
        stand.turn(EVEN, 1.0)
        stand.seen.silent = set()
        stand.turn(EVEN, 2.0)
    assert done == ["load", "unload"], "short silences do not make the fleet flap"
    stand.turn(EVEN, 60.0)
    stand.seen.silent = {"fast-0"}
    stand.turn(EVEN, 2.5)
    assert done[2] == "load"
    assert set(done[3:]) == {"roll out"}


def test_a_load_that_turns_is_planned_for_as_it_is_in_the_end(stand: LoopStand) -> None:
    stand.turn(EVEN, 20.0)
    decisions = stand.turn(TURNED, 12.0)
    first = next(number for number, decision in enumerate(decisions) if decision.roll_out)
    assert 0.5 * first < 12.0
    assert decisions[first].cause is Cause.LOAD
    rates = stand.planners.asked[-1].rates_rps
    assert rates["faces"] / sum(rates.values()) == pytest.approx(0.9, abs=0.03)


def fleet_and_another(tmp_path: Path) -> tuple[HealFleet, DeploymentManifest]:
    """A fleet, and another revision of it, of number 2; what is served is kept."""
    fleet = make_fleet(tmp_path / "work", 30_000)
    other = plan(weighted(fleet.problem, {"cars": 1.0, "faces": 6.0}), mode="fast")
    target = prepare(fleet.deployed, other, 2)
    fleet.deployed.kept.keep(fleet.manifest, fleet.plan)
    return fleet, target


def test_a_rollout_that_was_stopped_is_taken_up_or_turned_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, target = fleet_and_another(tmp_path)
    deployed = fleet.deployed
    stopped = RolloutRecord("heal", 1, 2, "lost: x", "now", ("load",))
    save_record(stopped, deployed.workspace.root)
    asked: list[int] = []
    faults: list[Exception] = [StepFailed("the way back failed"), RolloutFault("needs a lost server")]

    def perform(deployed: Deployed, wanted: DeploymentManifest, *_: object, **__: object) -> HistoryEntry:
        asked.append(wanted.epoch)
        if faults:
            raise faults.pop(0)
        save(wanted, deployed.repository / "deployment.json")
        save_record(replace(stopped, status=RolloutStatus.DONE), deployed.workspace.root)
        return entry(target=wanted.epoch)

    monkeypatch.setattr(served, "perform", perform)
    monkeypatch.setattr(loss_plans.LossPlans, "plan_next", lambda *_: None)
    advised = LoopStand(fleet)
    advised.turn(EVEN, 2.0)
    assert asked == [], "one that only advises does nothing"
    stand = LoopStand(fleet, advise=False, between_s=2.0)
    stand.turn(EVEN, 1.5)
    assert asked == [2], "it is not tried again at each turn"
    assert any("the way back failed" in line for line in stand.said)
    stand.turn(EVEN, 1.5)
    assert asked == [2, 2, 1]
    assert stand.loop.served.manifest == fleet.manifest
    stand.turn(EVEN, 3.0)
    assert asked == [2, 2, 1]
    save_record(stopped, deployed.workspace.root)
    again = LoopStand(fleet, advise=False)
    again.turn(EVEN, 1.0)
    assert asked[3:] == [2]
    assert (again.loop.served.manifest, again.loop.served.plan) == (target, deployed.kept.plan(2))


def test_losing_all_servers_is_said_and_survived(stand: LoopStand) -> None:
    stand.turn(EVEN, 6.0)
    stand.seen.silent = set(SERVERS)
    decisions = stand.turn(EVEN, 6.0)
    assert not any(decision.roll_out for decision in decisions)
    assert any("no plan without fast-0, fast-1, slow-0, slow-1" in line for line in stand.said)


def test_two_losses_within_a_second_are_healed_by_one_rollout(stand: LoopStand) -> None:
    """The plan for the first alone would need the second, and fail."""
    stand.turn(EVEN, 20.0)
    stand.seen.silent = {"fast-0"}
    decisions = stand.turn(EVEN, 0.5)
    stand.seen.silent = {"fast-0", "slow-0"}
    decisions += stand.turn(EVEN, 3.0)
    first = next(decision for decision in decisions if decision.roll_out)
    assert first.cause is Cause.LOSS
    assert first.why.startswith("lost: fast-0, slow-0;")
    assert [truth.out for truth in stand.planners.asked] == [frozenset({"fast-0", "slow-0"})]


def test_a_silence_beside_a_loss_holds_it_up_no_longer_than_until_it_is_a_loss_or_none(
    stand: LoopStand,
) -> None:
    stand.turn(EVEN, 20.0)
    stand.seen.silent = {"fast-0"}
    stand.turn(EVEN, 0.5)
    stand.seen.silent = {"fast-0", "slow-0"}
    decisions = stand.turn(EVEN, 1.0)
    assert decisions[-1].why == "lost: fast-0; slow-0 may be out in a moment too"
    stand.seen.silent = {"fast-0"}
    assert stand.turn(EVEN, 0.5)[-1].roll_out


def handed(fleet: HealFleet, manifest: DeploymentManifest, number: int) -> None:
    """As somebody else's rollout leaves it."""
    fleet.deployed.tables.mkdir(parents=True, exist_ok=True)
    hand_over(fleet.deployed.tables, HandOver(number, manifest))


def test_what_others_roll_out_is_what_is_served_from_then_on(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "work", 30_000)
    other = plan(weighted(fleet.problem, {"cars": 1.0, "faces": 6.0}), mode="fast")
    target = prepare(fleet.deployed, other, 2)
    fleet.deployed.kept.keep(fleet.manifest, fleet.plan)
    stand = LoopStand(fleet)
    stand.turn(EVEN, 2.0)
    handed(fleet, target, 1)
    stand.turn(EVEN, 0.5)
    assert (stand.loop.served.manifest, stand.loop.served.plan) == (target, fleet.deployed.kept.plan(2))
    assert stand.said == ["revision 2 is served, which somebody else rolled out"]
    handed(fleet, fleet.manifest, 2)
    stand.turn(EVEN, 2.0)
    assert stand.loop.served.plan == fleet.plan
    assert len(stand.said) == 2


def test_a_rollout_of_others_that_was_killed_meanwhile_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, target = fleet_and_another(tmp_path)
    deployed = fleet.deployed
    asked: list[int] = []
    stopped = RolloutRecord("heal", 1, 2, "asked", "now", ("load",))

    def perform(deployed: Deployed, wanted: DeploymentManifest, *_: object, **__: object) -> HistoryEntry:
        asked.append(wanted.epoch)
        save_record(replace(stopped, status=RolloutStatus.DONE), deployed.workspace.root)
        return entry(target=wanted.epoch)

    monkeypatch.setattr(served, "perform", perform)
    monkeypatch.setattr(loss_plans.LossPlans, "plan_next", lambda *_: None)
    stand = LoopStand(fleet, advise=False, between_s=2.0)
    stand.turn(EVEN, 3.0)
    assert asked == []
    save_record(stopped, deployed.workspace.root)
    handed(fleet, target, 1)
    stand.turn(EVEN, 1.5)
    assert asked == [], "it may be under way"
    stand.turn(EVEN, 2.0)
    assert asked == [2]
    assert stand.loop.served.manifest == target


@pytest.mark.parametrize("cause", [Cause.LOSS, Cause.RETURN, Cause.DRIFT])
def test_what_no_plan_serves_much_better_is_planned_for_once_and_losses_go_on_being_planned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Cause
) -> None:
    """Else the loop would plan every few seconds for as long as that lasts, and be unready for a loss."""
    stand = LoopStand(make_fleet(tmp_path / "work", 30_000))
    if cause is Cause.RETURN:
        start = stand.loop.served
        stand.loop.served = replace(start, truth=replace(start.truth, out=frozenset({"slow-1"})))
    same = PlanPromise(served=1.0, planned=1.0, simulated_served=1.0, simulated_planned=1.0)
    make = stand.planners._made

    def as_good(problems: Sequence[Problem], truth: Truth, served: Plan) -> Future[Made]:
        future: Future[Made] = Future()
        future.set_result(replace(make(problems, truth, served).result(), promise=same))
        return future

    monkeypatch.setattr(stand.planners, "_made", as_good)
    answering = stand.seen.answering

    def drifting(tables: Tables, now_s: float) -> frozenset[str]:
        alive = answering(tables, now_s)
        stand.seen.pages = replace(stand.seen.pages, drift={("cars", "fast"): 1.3})
        return alive

    if cause is Cause.DRIFT:
        monkeypatch.setattr(stand.seen, "answering", drifting)
    stand.turn(EVEN, 12.0)
    stand.planners.idle.clear()
    if cause is Cause.LOSS:
        stand.seen.silent = {"slow-1"}
    decisions = stand.turn(EVEN, 40.0)
    assert not any(decision.roll_out for decision in decisions)
    assert decisions[-1].cause is None
    assert len(stand.planners.asked) <= 2
    assert stand.loop.is_ready
    if cause is Cause.LOSS:
        stand.seen.silent = set()
        assert Cause.RETURN in {decision.cause for decision in stand.turn(EVEN, 40.0)}


def test_revisions_that_were_never_begun_are_not_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the history cannot be written, or another rollout is under way for long."""
    fleet = make_fleet(tmp_path / "work", 30_000)
    stand = LoopStand(fleet, advise=False)
    monkeypatch.setattr(loop_module, "make_ready", lambda deployed, made: fleet.manifest)
    faults = [HistoryFault("history.jsonl: no"), RolloutBusy("another")]

    def perform(*_: object, **__: object) -> HistoryEntry:
        raise faults[0]

    monkeypatch.setattr(loop_module, "perform", perform)
    made = make_plan([stand.loop._problem], Truth(rates_rps=EVEN), fleet.plan)
    for _ in range(3):
        stand.loop._act(Decision(True, Cause.LOSS, "lost: x"), made, Truth(rates_rps=EVEN))
        assert fleet.deployed.kept.numbers() == ()
        faults.reverse()
    begun = RolloutRecord("heal", 1, 2, "lost: x", "now", ("load",), status=RolloutStatus.TURNED_BACK)
    save_record(begun, fleet.deployed.workspace.root)
    stand.loop._act(Decision(True, Cause.LOSS, "lost: x"), made, Truth(rates_rps=EVEN))
    assert fleet.deployed.kept.numbers() == (2,)


def _search(fleet: HealFleet, margin: float) -> Problem:
    """As `ppipe plan --margin auto` leaves the working folder, had it found this margin."""
    deployed = fleet.deployed
    stated = deployed.deployment.to_problem(deployed.profile)
    found = with_margins(stated, [margin] * len(stated.demands), 0.01)
    save(found, deployed.workspace.problem)
    asked = asked_hash(deployed.deployment, stated)
    save(replace(plan(found, mode="fast"), asked_hash=asked), deployed.workspace.plan)
    return found


def test_margins_that_were_searched_are_planned_with_too(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "work", 30_000)
    found = _search(fleet, 0.2)
    stated, searched = served.problems_of(fleet.deployed)
    assert stated == fleet.deployed.deployment.to_problem(fleet.deployed.profile)
    assert serial.content_hash(searched) == serial.content_hash(found)
    assert {demand.slo_margin for demand in stated.demands} == {None}


@pytest.mark.parametrize("problem", ["of another plan", "gone", "damaged", "not searched"])
def test_without_a_search_for_what_is_asked_the_stated_margins_count(tmp_path: Path, problem: str) -> None:
    fleet = make_fleet(tmp_path / "work", 30_000)
    workspace = fleet.deployed.workspace
    found = _search(fleet, 0.2)
    if problem == "of another plan":
        save(replace(found, demands=found.demands[:1]), workspace.problem)
    elif problem == "gone":
        workspace.problem.unlink()
    elif problem == "damaged":
        workspace.problem.write_bytes(b"\xff{")
    else:
        _search(fleet, 0.2)
        stated = fleet.deployed.deployment.to_problem(fleet.deployed.profile)
        save(stated, workspace.problem)
        save(replace(plan(stated, mode="fast"), asked_hash=""), workspace.plan)
    assert len(served.problems_of(fleet.deployed)) == 1


def test_margins_that_were_searched_for_another_question_do_not_count(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "work", 30_000)
    _search(fleet, 0.2)
    fleet.file.write_text(fleet.file.read_text().replace("slo_ms: 600", "slo_ms: 900"))
    asks = replace(fleet.deployed, deployment=load_deployment(fleet.file))
    assert len(served.problems_of(asks)) == 1


@pytest.mark.parametrize("lost", SERVERS)
def test_of_several_margins_the_plan_that_serves_most_counts(tmp_path: Path, lost: str) -> None:
    fleet = make_fleet(tmp_path / "work", 30_000)
    _search(fleet, 0.2)
    problems = served.problems_of(fleet.deployed)
    truth = Truth(out=frozenset({lost}), rates_rps=EVEN)
    each = [make_plan([problem], truth, fleet.plan) for problem in problems]
    for order in (problems, problems[::-1]):
        best = make_plan(order, truth, fleet.plan)
        assert best.promise.simulated_planned >= min(0.99, *(made.promise.simulated_planned for made in each))
        assert best.promise in [made.promise for made in each]
        enough = [made.promise.planned for made in each if made.promise.simulated_planned >= 0.99]
        assert not enough or best.promise.planned == max(enough)


def test_margins_that_leave_no_plan_are_passed_over(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "work", 30_000)
    stated = fleet.deployed.deployment.to_problem(fleet.deployed.profile)
    hopeless = with_margins(stated, [0.999] * len(stated.demands), 0.01)
    truth = Truth(rates_rps=EVEN)
    made = make_plan([hopeless, stated], truth, fleet.plan)
    assert made.promise == promise_of(made.plan, fleet.plan, stated, truth)
    assert problem_now(stated, truth).options.slo_margin == made.plan.models[0].slo_margin
    with pytest.raises(ValueError, match=r"cars|faces"):
        make_plan([hopeless, hopeless], truth, fleet.plan)


def test_a_plan_that_takes_long_is_used_once_it_is_there(stand: LoopStand) -> None:
    """As with many servers and searched margins: longer than a plan counts as fresh once it is made."""
    made_at_once = stand.planners.now
    asked: list[tuple[Future[Made], Made]] = []

    def now(problems: Sequence[Problem], truth: Truth, served: Plan) -> Future[Made]:
        asked.append((Future(), made_at_once(problems, truth, served).result()))
        return asked[-1][0]

    stand.planners.now = now  # type: ignore[method-assign]
    stand.turn(EVEN, 20.0)
    stand.turn(TURNED, 30.0)
    number = len(asked)
    assert number >= 1
    future, made = asked[-1]
    assert all("no plan for that yet" in decision.why for decision in stand.turn(TURNED, 6.0))
    assert len(asked) == number
    future.set_result(made)
    assert "with another plan" in stand.turn(TURNED, 0.5)[0].why
    assert len(asked) == number
