"""When a fleet is planned and rolled out anew: each rule by its decisions, with told time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import pytest

from ppipe.operate.measured import DriftWatch, MeasureSettings, Rates, has_moved
from ppipe.operate.retries import Retries
from ppipe.operate.rules import Cause, Decider, Decision, PlanPromise, RuleSettings, View
from ppipe.operate.server_health import ServerChange, ServerHealth, SilenceSettings

TICK_S = 0.5
BETTER = PlanPromise(served=0.6, planned=0.9, simulated_served=0.6, simulated_planned=0.9)
SAME = PlanPromise(served=0.8, planned=0.81, simulated_served=0.8, simulated_planned=0.8)


def watch(
    health: ServerHealth, answers: Callable[[float], Iterable[str]], seconds: float
) -> list[tuple[float, ServerChange]]:
    """Looks every TICK_S; (when, change)."""
    found = []
    for tick in range(1, round(seconds / TICK_S) + 1):
        now_s = tick * TICK_S
        found += [(now_s, change) for change in health.saw(set(answers(now_s)), now_s)]
    return found


def test_a_server_is_out_after_its_silence_and_back_after_its_health() -> None:
    health = ServerHealth(["a", "b"], SilenceSettings(), 0.0)
    changes = watch(health, lambda now_s: ["b"] if 10 < now_s <= 20 else ["a", "b"], 60)
    assert [(at, change.server, change.is_out) for at, change in changes] == [
        (11.5, "a", True),
        (50.0, "a", False),
    ]
    assert str(changes[0][1]) == "server a: out after 1.5 s of silence"
    assert str(changes[1][1]) == "server a: back after 30 s of health"


def test_a_short_silence_is_none() -> None:
    health = ServerHealth(["a"], SilenceSettings(), 0.0)
    assert watch(health, lambda now_s: [] if now_s % 2 < 1 else ["a"], 60) == []


def test_a_silent_server_is_suspected_before_it_is_out_unless_it_was_out_lately() -> None:
    health = ServerHealth(["a", "b"], SilenceSettings(silent_s=1.5, healthy_s=5, suspect_s=0.6), 0.0)
    watch(health, lambda _: ["a", "b"], 10)
    now_s, seen = 10.0, []
    for _ in range(6):
        now_s += 0.3
        health.saw({"b"}, now_s)
        seen.append((sorted(health.suspected), sorted(health.out)))
    assert seen[:5] == [([], []), (["a"], []), (["a"], []), (["a"], []), ([], ["a"])]
    for _ in range(20):
        now_s += 0.3
        health.saw({"a", "b"}, now_s)
    assert health.out == frozenset()
    for _ in range(4):
        now_s += 0.3
        health.saw({"b"}, now_s)
    assert health.suspected == frozenset(), "it has flapped"


def test_a_server_that_flaps_every_3_s_moves_the_fleet_once() -> None:
    health = ServerHealth(["a", "b"], SilenceSettings(), 0.0)
    changes = watch(health, lambda now_s: ["b"] if now_s % 6 < 3 else ["a", "b"], 600)
    assert [(change.server, change.is_out) for _, change in changes] == [("a", True)]
    assert health.out == {"a"}


def test_a_server_that_goes_again_must_be_healthy_twice_as_long() -> None:
    health = ServerHealth(["a"], SilenceSettings(silent_s=1.5, healthy_s=10), 0.0)
    changes = watch(health, lambda now_s: [] if now_s % 25 < 2 else ["a"], 200)
    waits = [change.after_s for _, change in changes if not change.is_out]
    assert waits[:2] == [10.0, 20.0]
    assert len(waits) == 2, "23 s of health at a time are never 40"


def test_a_loop_that_was_stopped_finds_nobody_out() -> None:
    health = ServerHealth(["a", "b"], SilenceSettings(), 0.0)
    health.saw({"a", "b"}, 0.5)
    assert health.saw(set(), 60.0) == ()
    assert health.saw({"a", "b"}, 60.5) == ()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_times_that_make_no_sense_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"silent_s: .* must be above 0"):
        SilenceSettings(silent_s=bad)


def test_servers_that_were_planned_without_are_out_from_the_start() -> None:
    health = ServerHealth(["a", "b"], SilenceSettings(healthy_s=5), 0.0, out={"a"})
    assert health.out == {"a"}
    assert [change.server for _, change in watch(health, lambda _: ["a", "b"], 10)] == ["a"]


# Decisions


def test_a_loss_is_healed_at_once_and_right_after_another_rollout() -> None:
    decider = Decider(RuleSettings(), last_rollout_s=99.0)
    decision = decider.decide(View(lost=frozenset({"a"}), promise=BETTER), 100.0)
    assert decision == Decision(
        True, Cause.LOSS, "lost: a; 0.60 of what comes is served, 0.90 with another plan"
    )


def test_a_loss_that_no_plan_makes_good_changes_nothing() -> None:
    decision = Decider(RuleSettings()).decide(View(lost=frozenset({"a"}), promise=SAME), 0.0)
    assert (decision.roll_out, decision.why.rpartition(": ")[2]) == (False, "what is served is as good")


def test_without_a_plan_nothing_is_done_yet() -> None:
    decision = Decider(RuleSettings()).decide(View(lost=frozenset({"a"})), 0.0)
    assert decision == Decision(False, Cause.LOSS, "lost: a; no plan for that yet")


def test_moved_load_must_promise_enough_for_long_enough() -> None:
    decider = Decider(RuleSettings(gain=0.1, gain_s=4.0))
    view = View(load_moved=True, promise=BETTER)
    assert [decider.decide(view, at).roll_out for at in (0.0, 2.0, 3.9, 4.0)] == [False, False, False, True]


def test_a_gain_that_comes_and_goes_is_no_gain() -> None:
    decider = Decider(RuleSettings(gain=0.1, gain_s=4.0))
    for at in range(60):
        promise = SAME if at % 3 == 0 else BETTER
        assert not decider.decide(View(load_moved=True, promise=promise), float(at)).roll_out


def test_at_most_one_rollout_per_stated_time() -> None:
    decider = Decider(RuleSettings(between_s=60, gain_s=0))
    view = View(load_moved=True, promise=BETTER)
    rolled = []
    for at in range(200):
        if decider.decide(view, float(at)).roll_out:
            rolled.append(at)
            decider.rolled_out(float(at))
    assert rolled == [0, 60, 120, 180]


def test_a_plan_that_simulates_worse_is_not_rolled_out_whatever_it_promises() -> None:
    worse = PlanPromise(served=0.5, planned=2.0, simulated_served=0.5, simulated_planned=0.49)
    for view in (
        View(lost=frozenset({"a"}), promise=worse),
        View(returned=frozenset({"a"}), promise=worse),
        View(load_moved=True, promise=worse),
    ):
        decision = Decider(RuleSettings(gain_s=0)).decide(view, 0.0)
        assert not decision.roll_out
        assert decision.why.endswith("it simulates worse than what is served")


def test_a_fleet_with_room_is_left_alone_but_takes_a_server_back() -> None:
    ample = PlanPromise(served=1.6, planned=2.0, simulated_served=1.0, simulated_planned=1.0)
    decider = Decider(RuleSettings(gain_s=0))
    assert not decider.decide(View(load_moved=True, promise=ample), 0.0).roll_out
    assert decider.decide(View(returned=frozenset({"a"}), promise=ample), 0.0).roll_out


def test_nothing_changed_is_nothing_done() -> None:
    assert Decider(RuleSettings()).decide(View(promise=BETTER), 0.0) == Decision(
        False, None, "nothing has changed"
    )


# What is measured


def test_rates_are_over_the_window_and_forget_a_dispatcher_that_started_again() -> None:
    rates = Rates(MeasureSettings(window_s=5.0))
    for second in range(20):
        rates.saw({"m": 10.0 * second if second < 10 else 90 + 40.0 * (second - 9)}, float(second))
    assert rates.is_full
    assert rates.now_rps() == {"m": pytest.approx(40.0)}
    rates.saw({"m": 3.0}, 20.0)
    assert rates.now_rps() == {}
    assert not rates.is_full


def test_a_look_that_misses_a_page_does_not_make_a_rate_of_all_that_was_ever_counted() -> None:
    rates = Rates(MeasureSettings(window_s=5.0))
    for second in range(20):
        counted = {"a": 1e6 + 10.0 * second, "b": 1e6 + 20.0 * second}
        rates.saw({"b": counted["b"]} if second in (3, 14) else counted, float(second))
    assert rates.is_full
    assert rates.now_rps() == {"a": pytest.approx(10.0), "b": pytest.approx(20.0)}


@pytest.mark.parametrize("before", [{"a": 80, "b": 20}, {"a": 10, "b": 90}, {"a": 0, "b": 60}])
def test_rates_hold_nothing_of_the_mix_before(before: dict[str, int]) -> None:
    rates, after = Rates(MeasureSettings(window_s=5.0, settled_s=2.0)), {"a": 50, "b": 40}
    counted = {"a": 0.0, "b": 0.0}
    for second in range(12):
        rates.saw(counted, float(second))
        mix = before if second < 9 else after
        counted = {model: count + mix[model] for model, count in counted.items()}
    assert rates.is_full
    assert rates.seconds == 2.0
    assert rates.now_rps() == after


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_load_never_moves(seed: int) -> None:
    """Ten minutes of Poisson arrivals, 8 to 2, a look a second."""
    random, settings = Random(seed), MeasureSettings()
    planned = {"a": 80.0, "b": 20.0}
    rates, counted, moved = Rates(settings), dict.fromkeys(planned, 0.0), 0
    due = {model: random.expovariate(rate) for model, rate in planned.items()}
    for second in range(600):
        for model, rate in planned.items():
            while due[model] < second:
                counted[model] += 1
                due[model] += random.expovariate(rate)
        rates.saw(counted, float(second))
        moved += rates.is_full and has_moved(rates.now_rps(), planned, rates.seconds, settings)
    assert moved == 0


def test_a_load_that_turns_has_moved_within_a_window() -> None:
    settings = MeasureSettings()
    assert has_moved({"a": 20.0, "b": 80.0}, {"a": 80.0, "b": 20.0}, 5.0, settings)
    assert not has_moved({"a": 40.0, "b": 10.0}, {"a": 80.0, "b": 20.0}, 5.0, settings), (
        "less, but the same mix"
    )
    assert not has_moved({"a": 0.0, "b": 0.0}, {"a": 80.0, "b": 20.0}, 5.0, settings), "nothing comes"


def test_drift_must_last_and_is_judged_by_what_was_planned_with() -> None:
    watch_drift = DriftWatch(MeasureSettings(margin=0.15, drift_s=10.0))
    assert [watch_drift.saw({"net on T4": 1.3}, float(at)) for at in (0, 5, 9)] == [{}, {}, {}]
    assert watch_drift.saw({"net on T4": 1.3}, 10.0) == {"net on T4": 1.3}
    watch_drift.planned_with({"net on T4": 1.3})
    assert [watch_drift.saw({"net on T4": 1.35}, float(at)) for at in (20, 40)] == [{}, {}]
    assert [watch_drift.saw({"net on T4": 1.0}, float(at)) for at in (50, 60)] == [{}, {"net on T4": 1.0}]


def test_drift_that_comes_and_goes_is_none() -> None:
    watch_drift = DriftWatch(MeasureSettings(drift_s=3.0))
    assert all(watch_drift.saw({"k": 1.5 if at % 3 else 1.0}, float(at)) == {} for at in range(60))


# A rollout that fails


def test_a_rollout_that_fails_is_tried_again_later_each_time_and_at_once_for_another_loss() -> None:
    retries, one, both = Retries(longest_s=10.0), frozenset({"a"}), frozenset({"a", "b"})
    assert retries.wait_s(one, 0.0) == 0.0
    waits = []
    for _ in range(5):
        retries.failed(one, 100.0)
        waits.append(retries.wait_s(one, 100.0))
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert (retries.wait_s(one, 109.0), retries.wait_s(one, 111.0)) == (1.0, 0.0)
    assert retries.wait_s(both, 100.0) == 0.0
    retries.failed(both, 100.0)
    assert retries.wait_s(both, 100.0) == 2.0
    retries.done()
    assert retries.wait_s(both, 100.0) == 0.0
