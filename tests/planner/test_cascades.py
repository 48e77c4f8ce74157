"""Cascades planned: rates, dispersion, and the division of the SLO against all divisions there are."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import pytest

from planner.cascades.data import Cascade, Fanout, Member
from planner.cascades.demands import divided, divided_as_planned, with_passing
from planner.cascades.outlook import Outlook
from planner.cascades.planning import _by_need
from planner.entry import entry_rows
from planner.explain import Infeasible, ProblemError
from planner.feasibility import violations
from planner.frames import FrameSize
from planner.owned import HOP_US
from planner.planning import plan
from planner.problem import Demand, InnerFlow, Objective, Problem
from planner.rates import batch_build_us, budget_us, bunch_us
from tests.fixtures.made_problems import MadeSize, made_problem

SIZE = MadeSize(gpus=5, classes=2, models=2, blocks=3, max_slices=1)


TWO = Fanout(2.0, 1.0, 6)


def cascaded(seed: int, size: MadeSize = SIZE, fanout: Fanout = TWO, slack: float = 1.0) -> Problem:
    """The made problem, its first model feeding the others; SLO: the sum of what they had, times slack."""
    problem = made_problem(size, seed)
    first, *others = problem.demands
    members = (Member(first.model), *(Member(one.model, first.model, fanout, "crops") for one in others))
    slo_us = round(slack * (first.slo_us + max(one.slo_us for one in others)))
    return replace(problem, cascades=(Cascade("both", slo_us, members, weight=1.0),))


def best_of_all(problem: Problem) -> float:
    """The best objective over every division at which something of the first model changes."""
    (cascade,) = problem.cascades
    first, *others = (member.model for member in cascade.members)
    best = 0.0
    for part in Outlook(problem).steps(first):
        if part < cascade.slo_us:
            parts = {first: int(part)} | {other: cascade.slo_us - int(part) for other in others}
            try:
                best = max(best, plan(divided(problem, parts)).objective)
            except Infeasible:
                continue
    return best


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("slack", [0.55, 1.0])
def test_no_division_of_the_slo_is_better(seed: int, slack: float) -> None:
    problem = cascaded(seed, slack=slack)
    # The rates at which batches fill are fixed, so that both measure alike.
    fixed = replace(problem, demands=tuple(replace(one, batch_build_rps=200.0) for one in problem.demands))
    made = plan(fixed)
    best = best_of_all(fixed)
    assert best > 0
    assert made.objective >= 0.99 * best
    assert made.upper_bound >= best * (1 - 1e-9)
    assert violations(made, fixed) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_no_division_among_three_in_turn_is_better(seed: int) -> None:
    made = made_problem(MadeSize(gpus=5, classes=2, models=3, blocks=2, max_slices=1), seed)
    names = [one.model for one in made.demands]
    fanout = Fanout(1.5, 0.7, 4)
    members = [
        Member(name, of, fanout if of else Member("").fanout)
        for of, name in zip(["", *names], names, strict=False)
    ]
    slo_us = round(0.7 * sum(one.slo_us for one in made.demands))
    problem = replace(
        made,
        demands=tuple(replace(one, batch_build_rps=200.0) for one in made.demands),
        cascades=(Cascade("three", slo_us, tuple(members), weight=1.0),),
        options=replace(made.options, max_stages=1),
    )
    best = 0.0
    for first, second in itertools.product(*(map(int, Outlook(problem).steps(name)) for name in names[:2])):
        if first + second < slo_us:
            parts = dict(zip(names, (first, second, slo_us - first - second), strict=True))
            with contextlib.suppress(Infeasible):
                best = max(best, plan(divided(problem, parts)).objective)
    assert best > 0
    assert plan(problem).objective >= 0.99 * best


def test_rates_multiply_and_bunches_disperse() -> None:
    steps = (Member("a"), Member("b", "a", Fanout(4.0, 3.0, 20)), Member("c", "b", Fanout(0.5, 0.5, 2)))
    cascade = Cascade("abc", 300_000, steps, rate_rps=10.0)
    problem = made_problem(replace(SIZE, models=3), 1)
    demands = tuple(Demand(name, 1, weight=1.0) for name in "abc")
    parts = {"a": 100_000, "b": 120_000, "c": 80_000}
    a, b, c = divided(replace(problem, demands=demands, cascades=(cascade,)), parts).demands
    assert [one.rate_rps for one in (a, b, c)] == [10.0, 40.0, 20.0]
    assert [one.slo_us for one in (a, b, c)] == [100_000, 120_000, 80_000]
    mean_square = 4.0**2 + 3.0**2
    assert b.flow.bunch == b.flow.dispersion == mean_square / 4.0
    assert c.flow.bunch == 1.0
    assert c.flow.dispersion == 0.5 + 0.5 * mean_square / 4.0
    assert [one.flow.inside for one in (a, b, c)] == [False, True, True]
    assert [one.flow.loss_part for one in (a, b, c)] == [1 / 3, 1 / 12, 1 / 6]


@pytest.mark.parametrize("objective", list(Objective))
def test_a_tree_is_planned_soundly_within_its_slo(objective: Objective) -> None:
    problem = cascaded(2, MadeSize(gpus=8, classes=2, models=3, blocks=3, max_slices=1))
    cascade = replace(problem.cascades[0], weight=None, rate_rps=5.0)
    options = replace(problem.options, objective=objective)
    problem = replace(problem, cascades=(cascade,), options=options)
    made = plan(problem, mode="fast")
    (planned,) = made.cascades
    first, left, right = planned.parts
    assert first.slo_us + left.slo_us == first.slo_us + right.slo_us == planned.slo_us == cascade.slo_us
    assert violations(made, problem) == []
    assert violations(made, divided_as_planned(problem, made)) == []
    assert planned.throughput_rps >= 5.0 * (made.objective if objective is Objective.MAX_RATE else 1) * 0.999
    for part in planned.parts:
        assert made.model(part.model).throughput_rps >= planned.throughput_rps * part.frames * 0.999


def test_a_bunch_fills_batches_and_its_last_frames_wait() -> None:
    assert [batch_build_us(b, 1.5, 100.0, bunch=4.0) for b in (1, 4, 6)] == [0.0, 0.0, 30_000.0]
    # Two of four are left: at the model's rate, or by one worker that takes 5 ms for a batch of two.
    assert bunch_us(2, 40_000.0, 100.0, bunch=4.0) == 20_000.0
    assert bunch_us(2, 5_000.0, 100.0, bunch=4.0) == 5_000.0
    assert bunch_us(8, 40_000.0, 100.0, bunch=4.0) == bunch_us(2, 40_000.0, None, bunch=4.0) == 0.0


def test_an_slo_that_is_too_short_says_what_is_needed() -> None:
    with pytest.raises(Infeasible, match=r"its SLO of .* ms is too short.*net00 .* ms, net01 .* ms"):
        plan(cascaded(1, slack=0.1))


def test_surviving_is_refused_for_cascades() -> None:
    problem = cascaded(1)
    with pytest.raises(ProblemError, match="not for cascades yet"):
        plan(replace(problem, options=replace(problem.options, survive_servers=1)))


def test_spot_classes_are_refused_for_cascades() -> None:
    """They ask for a plan that survives their loss, which would be promised of the members alone."""
    problem = cascaded(1)
    first, *others = problem.cluster.gpu_classes
    cluster = replace(problem.cluster, gpu_classes=(replace(first, spot="cheap"), *others))
    with pytest.raises(ProblemError, match=rf"gpu_classes\.{first.name}\.spot: .* not for cascades yet"):
        plan(replace(problem, cluster=cluster))


def test_crops_leave_the_entry_and_their_answers_come_but_no_client_sends_them() -> None:
    problem = made_problem(SIZE, 1)
    entry = replace(problem.cluster.entry, bandwidth_gbps=1.0, client_bandwidth_gbps=1.0)
    frame = FrameSize(100, 100, 125_000)
    outer, inner = (
        replace(one, frame=frame, answer_bytes=12_500, flow=InnerFlow(inside=inside))
        for one, inside in zip(problem.demands, (False, True), strict=True)
    )
    rows = entry_rows(
        replace(
            problem,
            demands=(outer, inner),
            cluster=replace(problem.cluster, entry=entry),
            options=replace(problem.options, count_ends=True),
        )
    )
    assert {row.name: row.per_frame for row in rows} == {
        "link out": (0.001, 0.001),
        "link in": (0.0001, 0.0001),
        "client link out": (0.0001, 0.0001),
        "client link in": (0.001, 0.0),
    }


def at_two_entries(problem: Problem) -> Problem:
    """The entries of the cluster with a second one like the first."""
    entry = replace(problem.cluster.entry, name="a")
    cluster = replace(problem.cluster, entry=entry, more_entries=(replace(entry, name="b"),))
    return replace(problem, cluster=cluster)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_member_with_fewer_shards_than_entries_has_less_time_by_a_hop_and_back(seed: int) -> None:
    problem = at_two_entries(cascaded(seed))
    made = plan(problem)
    few = {one.model for one in made.shards if len(one.shards) < 2}
    assert violations(made, problem) == []
    inner = divided_as_planned(problem, made)
    assert {one.model: one.flow.passed_us for one in inner.demands} == {
        one.model: 2 * HOP_US if one.model in few else 0 for one in problem.demands
    }
    for one in inner.demands:
        longest = max(pipe.latency_us for pipe in made.model(one.model).pipelines)
        assert longest <= budget_us(one, problem.options)
        assert budget_us(one, problem.options) <= one.slo_us - one.flow.passed_us


def test_the_hop_takes_no_more_than_its_time() -> None:
    """Between the plan with one entry and the one whose cascade is shorter by a hop and back per model."""
    problem = at_two_entries(cascaded(0))
    found = [
        plan(each).objective
        for each in (
            cascaded(0),
            problem,
            replace(
                cascaded(0),
                cascades=tuple(replace(one, slo_us=one.slo_us - 4 * HOP_US) for one in problem.cascades),
            ),
        )
    ]
    assert found == sorted(found, reverse=True)
    assert found[1] > 0


def test_an_slo_that_the_hop_makes_too_short_is_refused_with_it() -> None:
    problem = at_two_entries(cascaded(0))
    passing = with_passing(problem, [one.model for one in problem.demands])
    (cascade,) = problem.cascades
    needs = [int(Outlook(problem).steps(member.model)[0]) for member in cascade.members]
    short = replace(passing, cascades=(replace(cascade, slo_us=sum(needs) + HOP_US),))
    assert _by_need(replace(short, demands=problem.demands))
    with pytest.raises(Infeasible, match=r"3 ms of that are for passing a frame on .* fewer shards than"):
        _by_need(short)
