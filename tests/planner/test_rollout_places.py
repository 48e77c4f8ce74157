"""A new plan's workers go where they are loaded already; with the cuts that are served it loads little."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.feasibility import check
from planner.plan import Plan
from planner.planning import plan, with_build_rates
from planner.problem import Problem
from planner.rollout.coarse import with_all_cuts, with_served_cuts
from planner.rollout.fleet import Gpu
from planner.rollout.keeping import Held, held_by, keep_places, kept_workers, runs_of
from tests.fixtures.made_problems import MadeSize, made_problem


def fleet(seed: int, gpus: int = 8) -> Problem:
    """Two classes, two models; servers of one GPU, so that losing one takes little."""
    problem = made_problem(MadeSize(gpus=gpus, classes=2, models=2, blocks=5, max_slices=2), seed=seed)
    servers = tuple(
        replace(server, name=f"{server.name}-{part}", gpu_count=1)
        for server in problem.cluster.servers
        for part in range(server.gpu_count)
    )
    return replace(problem, cluster=replace(problem.cluster, servers=servers))


def without(problem: Problem, server: str) -> Problem:
    left = tuple(each for each in problem.cluster.servers if each.name != server)
    return replace(problem, cluster=replace(problem.cluster, servers=left))


PROBLEM = fleet(3)
MADE = plan(PROBLEM, mode="fast")


def test_the_same_plan_keeps_every_place() -> None:
    held = held_by(MADE)
    assert MADE.placement is not None
    assert kept_workers(keep_places(MADE, PROBLEM.cluster, held), held) == len(MADE.placement.workers)


def test_a_plan_that_was_placed_otherwise_goes_back_to_where_it_is_loaded() -> None:
    turned = replace(PROBLEM, cluster=replace(PROBLEM.cluster, servers=PROBLEM.cluster.servers[::-1]))
    other = plan(turned, mode="fast")
    held = held_by(MADE)
    kept = keep_places(other, turned.cluster, held)
    check(kept, with_build_rates(turned))
    assert kept_workers(kept, held) == most_kept(other, turned, held) >= kept_workers(other, held)


@given(st.integers(0, 300))
@settings(max_examples=5)
def test_no_other_places_keep_more(seed: int) -> None:
    problem = fleet(seed, gpus=5)
    first = plan(problem, mode="fast")
    lost = without(problem, problem.cluster.servers[-1].name)
    try:
        other = plan(lost, mode="fast")
    except ValueError:
        return  # nothing serves all models with what is left
    held = held_by(first)
    kept = keep_places(other, lost.cluster, held)
    check(kept, with_build_rates(lost))
    assert kept_workers(kept, held) == most_kept(other, lost, held)


def most_kept(made: Plan, problem: Problem, held: Held) -> int:
    """By trying every permutation of each class's GPUs. Servers of one class are planned alike here."""
    assert made.placement is not None
    total = 0
    for gpu_class in problem.cluster.gpu_classes:
        gpus = [Gpu(server.name, 0) for server in problem.cluster.servers_of(gpu_class.name)]
        groups = [
            Counter(runs_of(made, w) for w in made.placement.workers if (w.server, w.gpu_id) == gpu)
            for gpu in gpus
        ]
        there = [Counter(held.get(gpu, {}).values()) for gpu in gpus]
        total += max(
            sum((group & there[at]).total() for group, at in zip(groups, order, strict=True))
            for order in itertools.permutations(range(len(gpus)))
        )
    return total


def test_slices_of_a_gpu_hold_one_worker_each() -> None:
    kept = keep_places(MADE, PROBLEM.cluster, held_by(MADE))
    assert kept.placement is not None
    seats = [(w.server, w.gpu_id, w.slice_index) for w in kept.placement.workers]
    assert len(seats) == len(set(seats))


# Planning with the cuts that are served


def test_with_served_cuts_stages_are_those_that_are_served() -> None:
    lost = without(PROBLEM, PROBLEM.cluster.servers[0].name)
    near = with_all_cuts(plan(with_served_cuts(lost, MADE), mode="fast"), lost, MADE)
    ends = {
        model.model: {
            end for p in model.pipelines for s in p.stages for end in (s.blocks.start, s.blocks.end)
        }
        for model in MADE.models
    }
    for model in near.models:
        for pipeline in model.pipelines:
            for stage in pipeline.stages:
                assert {stage.blocks.start, stage.blocks.end} <= ends[model.model]
    check(keep_places(near, lost.cluster, held_by(MADE)), with_build_rates(lost))


def test_with_served_cuts_the_same_fleet_gives_a_plan_as_good() -> None:
    near = plan(with_served_cuts(PROBLEM, MADE), mode="fast")
    assert near.objective >= 0.99 * MADE.objective
    whole = with_all_cuts(near, PROBLEM, MADE)
    assert (
        whole.models[0].pipelines[0].stages[-1].blocks.end
        == PROBLEM.profile.model(whole.models[0].model).block_count
    )


def test_a_plan_without_placement_has_no_places_to_keep() -> None:
    with pytest.raises(ValueError, match="no placement"):
        held_by(replace(MADE, placement=None))
