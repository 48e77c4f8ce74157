"""What is expected of latencies, in the planner: slack is kept for it, and by pool as by class."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from planner.expectation import SPREAD_PER_DEVIATION, Expectation, jitter_of, slowdown_of
from planner.feasibility import violations
from planner.pipelines import enumerate_columns
from planner.planning import plan
from planner.pools import by_pool
from planner.problem import Problem
from planner.profile import LatencyTable
from planner.rates import KEPT_DEVIATIONS, variation_us
from tests.fixtures.made_problems import MadeSize, made_problem

PROBLEM = made_problem(MadeSize(gpus=8, classes=2, models=1, blocks=4, max_slices=2), seed=4)


def expecting(expect: Expectation, loss_share: float | None = 0.01, problem: Problem = PROBLEM) -> Problem:
    options = replace(
        problem.options, expect=expect, loss_share=loss_share, batch_build_factor=0.0, slo_margin=0.0
    )
    return replace(problem, options=options)


def test_a_profile_says_what_is_not_stated() -> None:
    table = LatencyTable("T4", 1, (1, 2), ((10.0, 20.0),), spread=((0.02, 0.03),), expected_error=0.2)
    own = Expectation()
    assert jitter_of(table, 0, 2, own) == pytest.approx(0.03 / SPREAD_PER_DEVIATION)
    assert slowdown_of(table, own) == 0.2
    assert jitter_of(table, 0, 2, Expectation(jitter=0.1)) == 0.1
    by_class = Expectation(jitter=0.1, jitter_by_class={"T4": 0.0}, slowdown_by_class={"L4": 0.5})
    assert jitter_of(table, 0, 1, by_class) == 0.0
    assert slowdown_of(table, by_class) == 0.2
    assert jitter_of(replace(table, spread=()), 0, 1, own) == 0.0


def test_latencies_of_pipelines_hold_a_quantile_of_the_sum_of_their_stages() -> None:
    (profile,), (demand,) = PROBLEM.profile.models, PROBLEM.demands
    loose = replace(demand, slo_us=10 * demand.slo_us)
    steady, varying = (
        enumerate_columns(profile, PROBLEM.cluster, loose, expecting(Expectation(jitter=jitter)).options)
        for jitter in (0.0, 0.1)
    )
    assert len(steady) == len(varying)
    for row in range(0, len(steady), 7):
        variance = 0.0
        for stage in range(steady.depth):
            gpu = int(steady.gpu[row, stage])
            if gpu < 0:
                continue
            table = profile.table(PROBLEM.cluster.gpu_classes[gpu].name, int(steady.slices[row, stage]))
            assert table is not None
            column = table.batch_sizes.index(int(steady.batch[row, stage]))
            blocks = range(int(steady.start[row, stage]), int(steady.end[row, stage]))
            variance += (0.1 * sum(table.latency_us[block][column] for block in blocks)) ** 2
        kept = varying.latency_us[row] - steady.latency_us[row]
        assert kept == pytest.approx(KEPT_DEVIATIONS * math.sqrt(variance))


def test_no_pipeline_has_less_slack_than_its_variation() -> None:
    problem = expecting(Expectation(jitter=0.15))
    made = plan(problem)
    (model,) = made.models
    for pipeline in model.pipelines:
        kept = variation_us(problem.profile.models[0], pipeline.stages, problem.options)
        assert kept > 0.15 * KEPT_DEVIATIONS * pipeline.stages[0].latency_us * 0.99
        assert pipeline.latency_us + kept <= model.slo_us * (1 + 1e-6)
    # The same plan would not do where latencies vary more.
    tight = min(model.slo_us / pipeline.latency_us for pipeline in model.pipelines)
    more = expecting(Expectation(jitter=min(0.9, tight)))
    assert any("variation included" in fault for fault in violations(made, more))


def test_a_plan_for_throughput_alone_is_as_it_was() -> None:
    (profile,), (demand,) = PROBLEM.profile.models, PROBLEM.demands
    tables = [
        enumerate_columns(profile, PROBLEM.cluster, demand, expecting(expect, None).options)
        for expect in (Expectation(), Expectation(jitter=0.5))
    ]
    assert np.array_equal(tables[0].latency_us, tables[1].latency_us)


def test_pools_expect_what_their_class_does() -> None:
    servers = [
        replace(server, bandwidth_gbps=1.0 + 40 * (index % 2))
        for index, server in enumerate(PROBLEM.cluster.servers)
    ]
    unlike = replace(PROBLEM, cluster=replace(PROBLEM.cluster, servers=tuple(servers)))
    first = PROBLEM.cluster.gpu_classes[0].name
    pooled = by_pool(expecting(Expectation(jitter_by_class={first: 0.2}), problem=unlike))
    names = [one.name for one in pooled.cluster.gpu_classes]
    assert pooled.options.expect.jitter_by_class == {name: 0.2 for name in names if name.startswith(first)}
    assert len(names) > len(PROBLEM.cluster.gpu_classes)
