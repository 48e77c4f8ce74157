"""A promise that survives losses: each loss counted as it is, the bound above it, placement taking part."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest

from planner.cluster import EntryServer
from planner.explain import Infeasible, ProblemError
from planner.frames import FrameSize
from planner.losses import KeptShares, after, kept_shares, losses_of, thinned
from planner.placing import place
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Objective, Problem, wanted_of
from planner.serving_build import served_model
from planner.surviving import carried_factor, promised_factor, usable_rps
from tests.fixtures.made_problems import MadeSize, made_problem


def surviving(seed: int, gpus: int = 20, spot: str = "") -> Problem:
    """Two classes in servers of at most two GPUs, so that many losses are small."""
    problem = made_problem(MadeSize(gpus=gpus, classes=2, models=2, blocks=5, max_slices=2), seed=seed)
    cluster = problem.cluster
    servers = [
        replace(server, name=f"{server.name}-{part}", gpu_count=1)
        for server in cluster.servers
        for part in range(server.gpu_count)
    ]
    classes = tuple(replace(one, spot=one.name if one.name == spot else "") for one in cluster.gpu_classes)
    options = replace(
        problem.options, survive_servers=1, loss_share=0.01, slo_margin=0.05, batch_build_factor=0.0
    )
    cluster = replace(cluster, gpu_classes=classes, servers=tuple(servers))
    return replace(problem, cluster=cluster, options=options)


PROBLEM = surviving(3)
MADE = plan(PROBLEM)


def test_after_every_loss_what_is_promised_is_left() -> None:
    survival = MADE.survival
    assert survival is not None
    left = {loss.name: promised_factor(after(MADE, loss, PROBLEM), PROBLEM) for loss in losses_of(PROBLEM)}
    assert survival.losses == len(left) == len(PROBLEM.cluster.servers)
    assert min(left.values()) == left[survival.binding] == pytest.approx(survival.promised)
    assert 0 < survival.promised <= survival.bound
    assert survival.gap == pytest.approx(survival.bound / survival.promised - 1)
    assert survival.without >= survival.promised
    assert 0 <= survival.given_up < 1


@pytest.mark.parametrize("seed", [1, 2])
def test_it_promises_more_than_a_plan_that_was_not_made_for_it(seed: int) -> None:
    problem = surviving(seed)
    plain_options = replace(problem.options, survive_servers=0)
    plain = plan(replace(problem, options=plain_options), mode="fast")
    plain_left = min(promised_factor(after(plain, loss, problem), problem) for loss in losses_of(problem))
    survival = plan(problem).survival
    assert survival is not None
    assert plain_left < survival.promised
    # A fleet without that server, planned anew, is the most that anything could still serve.
    for loss in losses_of(problem)[:: len(problem.cluster.servers) - 1]:
        servers = tuple(s for s in problem.cluster.servers if s.name not in loss.servers)
        anew = replace(problem, options=plain_options, cluster=replace(problem.cluster, servers=servers))
        assert survival.promised <= plan(anew, mode="fast").upper_bound


def test_what_is_left_is_a_plan_that_can_be_served() -> None:
    for loss in losses_of(PROBLEM):
        remains = after(MADE, loss, PROBLEM)
        assert remains.placement is not None
        assert not any(worker.server in loss.servers for worker in remains.placement.workers)
        for model in remains.models:
            served = served_model(remains, PROBLEM, model.model, links="placed")
            assert len(list(served.workers())) == sum(
                stage.workers for pipeline in model.pipelines for stage in pipeline.stages
            )
            assert usable_rps(model, PROBLEM) <= model.throughput_rps
    with pytest.raises(ValueError, match="no placement"):
        after(replace(MADE, placement=None), losses_of(PROBLEM)[0], PROBLEM)


def test_dealt_pools_lose_no_more_than_their_part_with_a_server() -> None:
    dealt = place(replace(MADE, placement=None), PROBLEM.cluster, deal=True)
    counts = Counter((w.model, w.pipeline, w.stage, w.server) for w in dealt.workers)
    servers = {one.name: len(PROBLEM.cluster.servers_of(one.name)) for one in PROBLEM.cluster.gpu_classes}
    for model in MADE.models:
        for p, pipeline in enumerate(model.pipelines):
            for s, stage in enumerate(pipeline.stages):
                most = max(counts[model.model, p, s, server.name] for server in PROBLEM.cluster.servers)
                gpus = stage.workers / stage.slices_per_gpu
                assert most <= stage.slices_per_gpu * math.ceil(gpus / servers[stage.gpu])


def test_shares_are_of_the_class_that_loses() -> None:
    first, second = kept_shares(PROBLEM)
    count = len(PROBLEM.cluster.servers_of(PROBLEM.cluster.gpu_classes[0].name))
    assert first.kept == {0: 1 - 1 / count}
    assert (first.of(1), second.of(0)) == (1.0, 1.0)
    whole = thinned(MADE, KeptShares("nothing", {}), PROBLEM)
    assert promised_factor(whole, PROBLEM) == pytest.approx(promised_factor(MADE, PROBLEM))
    assert promised_factor(thinned(MADE, first, PROBLEM), PROBLEM) <= promised_factor(MADE, PROBLEM)


def test_a_spot_class_may_vanish_as_a_whole() -> None:
    problem = surviving(3, spot="C1")
    losses = losses_of(problem)
    assert losses[0].name == "spot class C1"
    assert {loss.name for loss in losses[1:]} == {s.name for s in problem.cluster.servers_of("C0")}
    made = plan(problem)
    survival = made.survival
    assert survival is not None
    vanished = after(made, losses[0], problem)
    gpus = {stage.gpu for model in vanished.models for pipe in model.pipelines for stage in pipe.stages}
    assert gpus == {"C0"}
    assert promised_factor(vanished, problem) >= survival.promised > 0
    assert MADE.survival is not None
    assert survival.promised < MADE.survival.promised


def test_the_cheapest_plan_that_survives_costs_more() -> None:
    assert MADE.survival is not None
    demands = tuple(
        replace(demand, rate_rps=0.6 * MADE.survival.promised * (demand.weight or 1.0), weight=None)
        for demand in PROBLEM.demands
    )

    def cheapest(servers: int) -> Plan:
        options = replace(PROBLEM.options, objective=Objective.MIN_COST, survive_servers=servers)
        return plan(replace(PROBLEM, demands=demands, options=options), mode="fast")

    made, plain = cheapest(1), cheapest(0)
    assert made.survival is not None
    assert made.survival.promised >= 0.97
    assert made.objective > plain.objective
    assert made.upper_bound <= made.objective


def test_what_cannot_be_survived_is_said() -> None:
    one = replace(PROBLEM, cluster=replace(PROBLEM.cluster, servers=PROBLEM.cluster.servers[:1]))
    with pytest.raises(ProblemError, match=r"planner\.survive: the fleet has one server"):
        plan(one)
    spot = tuple(replace(one, spot=one.name) for one in PROBLEM.cluster.gpu_classes)
    both = replace(PROBLEM, cluster=replace(PROBLEM.cluster, gpu_classes=spot))
    made = plan(replace(both, options=replace(both.options, survive_servers=0)))
    assert made.survival is not None
    assert made.survival.promised > 0
    lone = surviving(3, spot="C1")
    servers = tuple(server for server in lone.cluster.servers if server.gpu == "C1")
    with pytest.raises(Infeasible, match=r"planner\.survive: nothing is left of any plan"):
        plan(replace(lone, cluster=replace(lone.cluster, servers=servers)))


def test_the_loss_of_an_entry_leaves_all_workers_and_less_of_a_link() -> None:
    demands = tuple(replace(demand, frame=FrameSize(0, 0, 100_000)) for demand in PROBLEM.demands)
    options = replace(PROBLEM.options, count_ends=True)
    entries = [EntryServer(name=f"entry-{number}", bandwidth_gbps=10.0) for number in range(2)]
    wide = replace(PROBLEM, demands=demands, options=options)
    wide = replace(wide, cluster=replace(wide.cluster, entry=entries[0], more_entries=(entries[1],)))
    made = plan(wide)
    assert made.survival is not None
    names = [loss.name for loss in losses_of(wide)]
    assert names[-2:] == ["entry entry-0", "entry entry-1"]
    assert made.survival.losses == len(PROBLEM.cluster.servers) + 2
    for loss in losses_of(wide)[-2:]:
        assert after(made, loss, wide).models == made.models
        # One of two entries of 10 Gbit/s: each frame comes in and goes out once, answers cost nothing.
        wanted = sum(wanted_of(one, wide.options) for one in wide.demands)
        most = 10e9 / 8 / 100_000 / wanted
        assert 0.99 * most < carried_factor(loss, wide) < most, "some of it is left for frames that wait"
    tight = replace(
        wide, cluster=replace(wide.cluster, more_entries=(replace(entries[1], bandwidth_gbps=1.0),))
    )
    carried = carried_factor(losses_of(tight)[-2], tight)
    assert carried < 0.9 * made.survival.promised
    survival = plan(tight).survival
    assert survival is not None
    assert survival.bound == pytest.approx(carried, rel=1e-3)
    assert survival.promised == pytest.approx(carried, rel=5e-3)
    alone = replace(wide, cluster=replace(wide.cluster, more_entries=()))
    assert not any(loss.entry for loss in losses_of(alone))
