"""Planning again with what is true now: without what is out, for what comes, at latencies as they are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from planner.cascades.data import Cascade, Fanout, Member
from planner.cascades.demands import parts_of
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem
from planner.rollout.keeping import held_by, kept_workers
from ppipe.operate.replan import (
    LEAST_SHARE,
    Truth,
    attained,
    factor,
    flows,
    plan_now,
    problem_now,
    promise_of,
    tables_of,
    wanted_rps,
    what_is_left,
)
from tests.fixtures.made_problems import MadeSize, made_problem


def fleet() -> Problem:
    problem = made_problem(MadeSize(gpus=8, classes=2, models=2, blocks=5, max_slices=2), seed=3)
    servers = tuple(
        replace(server, name=f"{server.name}-{part}", gpu_count=1)
        for server in problem.cluster.servers
        for part in range(server.gpu_count)
    )
    options = replace(problem.options, batch_build_factor=0.0)
    return replace(problem, cluster=replace(problem.cluster, servers=servers), options=options)


PROBLEM = fleet()
MADE = plan(PROBLEM, mode="fast")
A, B = (model.model for model in MADE.models)
RATES = {model.model: model.throughput_rps for model in MADE.models}


def used_server() -> str:
    assert MADE.placement is not None
    return MADE.placement.workers[0].server


def test_after_a_loss_more_is_served_than_what_is_left() -> None:
    truth = Truth(out=frozenset({used_server()}), rates_rps=RATES)
    other = plan_now(PROBLEM, truth, MADE)
    assert other.placement is not None
    assert not {worker.server for worker in other.placement.workers} & truth.out
    promise = promise_of(other, MADE, PROBLEM, truth)
    assert promise.planned >= promise.served
    assert promise.simulated_planned >= promise.simulated_served
    held = {gpu: there for gpu, there in held_by(MADE).items() if gpu.server not in truth.out}
    assert kept_workers(other, held) > 0


def test_what_comes_decides_who_gets_most() -> None:
    turned = {A: 0.2 * RATES[A], B: 1.8 * RATES[B]}
    truth = Truth(rates_rps=turned)
    other = plan_now(PROBLEM, truth, MADE)
    assert other.model(B).throughput_rps > MADE.model(B).throughput_rps
    promise = promise_of(other, MADE, PROBLEM, truth)
    assert promise.gain > 0.1
    assert promise.planned == pytest.approx(
        min(other.model(model).throughput_rps / rate for model, rate in turned.items()), rel=1e-6
    )


def test_the_same_load_promises_nothing_new() -> None:
    truth = Truth(rates_rps={model: 0.9 * rate for model, rate in RATES.items()})
    promise = promise_of(plan_now(PROBLEM, truth, MADE), MADE, PROBLEM, truth)
    assert abs(promise.gain) < 0.05


def test_a_model_that_rests_keeps_a_share() -> None:
    wanted = wanted_rps(PROBLEM, Truth(rates_rps={A: 100.0, B: 0.0}))
    assert wanted == {A: 100.0, B: LEAST_SHARE * 100.0}
    assert wanted_rps(PROBLEM, Truth()) == {}
    other = plan_now(PROBLEM, Truth(rates_rps={A: 100.0, B: 0.0}), MADE)
    assert other.model(B).throughput_rps > 0


def test_drift_stretches_what_it_was_seen_on() -> None:
    gpu = PROBLEM.cluster.gpu_classes[0].name
    now = problem_now(PROBLEM, Truth(factors={(A, gpu): 1.5}))
    for profile in PROBLEM.profile.models:
        for before, after in zip(profile.tables, now.profile.model(profile.model).tables, strict=True):
            expected = 1.5 if (profile.model, before.gpu) == (A, gpu) else 1.0
            assert after.latency_us[0][0] == pytest.approx(expected * before.latency_us[0][0])


def test_slower_stages_serve_less_of_what_comes() -> None:
    slow = Truth(rates_rps=RATES, factors={(A, each.name): 2.0 for each in PROBLEM.cluster.gpu_classes})
    as_profiled = factor(tables_of(MADE, PROBLEM), RATES)
    whole = problem_now(PROBLEM, slow)
    assert factor(tables_of(what_is_left(MADE, PROBLEM, slow), whole), RATES) < 0.6 * as_profiled


def test_nothing_left_serves_nothing() -> None:
    everything = frozenset(server.name for server in PROBLEM.cluster.servers)
    left: Plan = what_is_left(MADE, PROBLEM, Truth(out=everything))
    assert tables_of(left, PROBLEM) == {}
    assert factor({}, RATES) == 0.0
    assert not math.isnan(factor({}, {}))


# Cascades


def cascaded() -> Problem:
    """The first model's answers make two frames each for the second."""
    first, second = PROBLEM.demands
    members = (Member(first.model), Member(second.model, first.model, Fanout(2.0, 1.0, 6), "crops"))
    return replace(PROBLEM, cascades=(Cascade("both", first.slo_us + second.slo_us, members, weight=1.0),))


CASCADED = cascaded()


def test_what_comes_of_a_cascades_frames_is_wanted_with_them() -> None:
    assert flows(CASCADED) == {A}
    assert wanted_rps(CASCADED, Truth(rates_rps={A: 10.0})) == {A: 10.0, B: 20.0}
    now = problem_now(CASCADED, Truth(rates_rps={A: 10.0, B: 500.0}))
    assert now.cascades[0].weight == 10.0, "frames that the second model gets follow from the first's"


def test_a_cascade_is_planned_again_around_a_loss_and_by_whole_frames() -> None:
    made = plan(CASCADED, mode="fast")
    assert made.placement is not None
    rate = made.cascades[0].throughput_rps
    truth = Truth(out=frozenset({made.placement.workers[0].server}), rates_rps={A: rate})
    other = plan_now(CASCADED, truth, made)
    assert other.placement is not None
    assert not {worker.server for worker in other.placement.workers} & truth.out
    (planned,) = other.cascades
    assert sum(part.slo_us for part in planned.parts) <= planned.slo_us
    promise = promise_of(other, made, CASCADED, truth)
    assert promise.planned == pytest.approx(planned.throughput_rps / rate, rel=1e-6)
    assert 0 < promise.simulated_planned <= 1
    assert promise.simulated_planned >= promise.simulated_served
    tables = tables_of(other, CASCADED)
    assert {model: table.slo_us for model, table in tables.items()} == {
        part.model: part.slo_us for part in planned.parts
    }
    wanted = wanted_rps(CASCADED, truth)
    light = {model: 0.2 * one for model, one in wanted.items()}
    assert attained(tables, light, CASCADED.cascades) >= attained(tables, wanted, CASCADED.cascades)
    assert attained({A: tables[A]}, wanted, CASCADED.cascades) == 0.0, "nothing is whole without its crops"


def test_a_cascade_is_planned_again_with_the_division_that_is_served() -> None:
    """Its margins were searched for that one, and may leave little where another is."""
    free = plan(CASCADED, mode="fast")
    parts = parts_of(CASCADED, free)
    assert parts is not None
    served_parts = {A: parts[A] + 1_000, B: parts[B] - 1_000}
    served = plan(CASCADED, mode="fast", parts=served_parts)
    assert served.placement is not None
    out = Truth(out=frozenset({served.placement.workers[0].server}))
    for truth in (out, replace(out, rates_rps={A: served.cascades[0].throughput_rps})):
        again = plan_now(CASCADED, truth, served)
        assert {part.model: part.slo_us for part in again.cascades[0].parts} == served_parts
    drifted = plan_now(CASCADED, replace(out, factors={(A, "C0"): 1.3, (A, "C1"): 1.3}), served)
    assert sum(part.slo_us for part in drifted.cascades[0].parts) == CASCADED.cascades[0].slo_us
    assert drifted.cascades[0].parts[0].slo_us != served_parts[A], "what takes longer has another part"


def test_another_division_is_found_where_the_served_one_serves_nothing() -> None:
    slo_us = CASCADED.cascades[0].slo_us
    free = plan(CASCADED, mode="fast")
    squeezed = {A: slo_us - 1, B: 1}
    models = tuple(replace(model, slo_us=squeezed[model.model]) for model in free.models)
    again = plan_now(CASCADED, Truth(), replace(free, models=models))
    assert again.cascades[0].throughput_rps > 0
    assert parts_of(CASCADED, replace(free, models=models[:1])) is None
