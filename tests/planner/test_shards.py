"""Shards: every worker once, a worker of every stage in each, near each other; how many, at what cost."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from model_repo_generator.checking.entries import check_entries
from model_repo_generator.checking.fit import PlanFault
from planner.cluster import EntryServer
from planner.deployment import DeploymentError, parse_deployment
from planner.feasibility import violations
from planner.frames import FrameCost, FrameSize
from planner.leases import LeasesAt
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Problem
from planner.serving_build import served_model
from planner.sharding import Pools, divide, plan_shards
from planner.shards import ModelShards, NoShard, Shard, shard_faults, shard_of
from ppipe.plan_view import plan_table
from tests.fixtures.made_problems import MadeSize, made_problem
from tests.planner.test_deployment import PLAIN

PROBLEM = made_problem(MadeSize(gpus=24, classes=2, models=3, blocks=5, max_slices=2), seed=3)


def with_entries(problem: Problem, count: int, **fields: Any) -> Problem:
    entries = tuple(EntryServer(name=f"entry-{number}", **fields) for number in range(count))
    return replace(problem, cluster=replace(problem.cluster, entry=entries[0], more_entries=entries[1:]))


def pools_of(made: Plan, model: str) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(stage.workers for stage in pipeline.stages) for pipeline in made.model(model).pipelines
    )


@pytest.fixture(scope="module")
def two() -> Plan:
    return plan(with_entries(PROBLEM, 2), mode="fast")


def test_with_one_entry_there_are_no_shards() -> None:
    made = plan(PROBLEM, mode="fast")
    assert made.shards == ()
    assert plan_shards(made, PROBLEM) == ()


def test_with_two_every_model_that_can_be_divided_is(two: Plan) -> None:
    for shards in two.shards:
        units = sum(map(min, pools_of(two, shards.model)))
        assert len(shards.shards) == min(2, units)
        assert shard_faults(shards, pools_of(two, shards.model)) == []
    homes = [shard.order[0] for shards in two.shards for shard in shards.shards]
    assert abs(homes.count("entry-0") - homes.count("entry-1")) <= 1
    assert violations(two, with_entries(PROBLEM, 2)) == []


def test_shards_of_one_plan_have_about_equal_parts_and_their_cost_is_told(two: Plan) -> None:
    for shards in two.shards:
        rates = [shard.throughput_rps for shard in shards.shards]
        whole = two.model(shards.model).throughput_rps
        assert math.fsum(rates) <= whole * (1 + 1e-9)
        assert math.fsum(rates) >= 0.8 * whole
        assert shards.divided_rps <= shards.whole_rps
        assert 0 <= shards.cost < 1


def test_a_shard_is_a_served_model_of_its_own(two: Plan) -> None:
    for shards in two.shards:
        whole = served_model(two, with_entries(PROBLEM, 2), shards.model, "placed")
        parts = [shard_of(whole, shard) for shard in shards.shards]
        names = sorted(worker.name for part in parts for _, worker in part.workers())
        assert names == sorted(worker.name for _, worker in whole.workers())
        for link in {link.name for part in parts for link in part.links}:
            shares = [one.share for part in parts for one in part.links if one.name == link]
            assert math.fsum(shares) <= 1 + 1e-9


def test_so_many_shards_as_carry_the_rate_and_no_more_than_entries() -> None:
    """A dispatcher carries 1e6 / 2,000 us = 500 frames/s, of which 80 % are planned with."""
    problem = counted(with_entries(PROBLEM, 5, bandwidth_gbps=100.0), fixed_us=2_000.0)
    made = plan(problem, mode="fast")
    for shards in made.shards:
        rate = made.model(shards.model).throughput_rps
        assert shards.dispatcher_rps == pytest.approx(400)
        assert shards.for_rate == math.ceil(rate / 400)
        units = sum(map(min, pools_of(made, shards.model)))
        assert len(shards.shards) == min(max(2, shards.for_rate), 5, units)
        assert shards.too_few == (len(shards.shards) < shards.for_rate)


def counted(problem: Problem, fixed_us: float) -> Problem:
    """The problem with its way in and out counted, and what a dispatcher takes of its process per frame."""
    models = tuple(
        replace(model, overheads=replace(model.overheads, dispatch=FrameCost(fixed_us=fixed_us)))
        for model in problem.profile.models
    )
    demands = tuple(
        replace(demand, frame=FrameSize(0, 0, 1_000), answer_bytes=100) for demand in problem.demands
    )
    options = replace(problem.options, count_ends=True)
    return replace(problem, profile=replace(problem.profile, models=models), demands=demands, options=options)


def test_the_links_of_all_entries_bound_what_comes_in(two: Plan) -> None:
    """A frame and its answer have 1,100 bytes; one link carries 0.4 of what the GPUs could serve."""
    link_rps = 0.4 * sum(model.throughput_rps for model in two.models)
    rates, usable = [], []
    for count in (1, 2):
        problem = counted(with_entries(PROBLEM, count, bandwidth_gbps=link_rps * 1_100 * 8 / 1e9), 0.0)
        made = plan(problem, mode="fast")
        assert violations(made, problem) == []
        assert {use.server for use in made.entry} == ({""} if count == 1 else {"entry-0", "entry-1"})
        assert max(use.busy for use in made.entry) == pytest.approx(1, abs=1e-6)
        rates.append(sum(model.throughput_rps for model in made.models))
        usable.append(min(use.usable for use in made.entry))
    assert rates[0] == pytest.approx(link_rps * usable[0], rel=1e-6)
    assert 1.5 * rates[0] < rates[1] <= 2 * link_rps * usable[1] * (1 + 1e-9)


POOLS = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.5, 50)), min_size=1, max_size=3),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60)
@given(POOLS, st.integers(2, 6))
def test_however_pools_are_every_part_can_serve(drawn: list[list[tuple[int, float]]], count: int) -> None:
    pools = [Pools(tuple(size for size, _ in one), tuple(rate for _, rate in one)) for one in drawn]
    count = min(count, sum(one.units for one in pools))
    parts = divide(pools, count)
    assert len(parts) == count
    for part in parts:
        assert any(all(sizes) for sizes in part), "a worker of every stage of some pipeline"
        assert all(all(sizes) or not any(sizes) for sizes in part), "no pipeline in halves"
    for number, one in enumerate(pools):
        assert tuple(map(sum, zip(*(part[number] for part in parts), strict=True))) == one.sizes


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.5, 9), st.floats(0.5, 9))
def test_two_parts_of_a_pipeline_are_as_good_as_any(n: int, m: int, r: float, q: float) -> None:
    """By brute force over all parts of two pools: what is lost, and how unequal they are."""
    if min(n, m) < 2:
        return
    pools = Pools((n, m), (r, q))
    whole = pools.rps((n, m))

    def badness(a: int, b: int) -> float:
        part, rest = pools.rps((a, b)), pools.rps((n - a, m - b))
        return (whole - part - rest) / whole + 0.3 * abs(part / whole - 0.5)

    best = min(badness(a, b) for a in range(1, n) for b in range(1, m))
    ((a, b),), _ = divide([pools], 2)
    assert badness(a, b) <= best + 1e-9


def test_workers_of_a_shard_are_on_the_same_servers_and_near_their_home() -> None:
    problem = with_entries(PROBLEM, 2)
    hosts = [f"10.0.0.{number}" for number in range(len(problem.cluster.servers))]
    servers = tuple(
        replace(server, host=host) for server, host in zip(problem.cluster.servers, hosts, strict=True)
    )
    last = hosts[-1]
    entry, other = problem.cluster.entries
    cluster = replace(
        problem.cluster, servers=servers, entry=replace(entry, host=last), more_entries=(other,)
    )
    made = plan(replace(problem, cluster=cluster), mode="fast")
    assert made.placement is not None
    at = {(one.model, one.pipeline, one.stage, one.worker): one.server for one in made.placement.workers}
    for shards in made.shards:
        for shard in shards.shards:
            for p, stages in enumerate(shard.workers):
                for s, workers in enumerate(stages):
                    others = [at[shards.model, p, s, w] for w in range(pools_of(made, shards.model)[p][s])]
                    mine = {at[shards.model, p, s, w] for w in workers}
                    if servers[-1].name in others and shard.order[0] == "entry-0" and workers:
                        assert servers[-1].name in mine


def faulty(workers: tuple[tuple[tuple[int, ...], ...], ...]) -> ModelShards:
    shards = (Shard(("a", "b"), 1.0, workers), Shard(("b", "a"), 1.0, (((1,), (1,)),)))
    return ModelShards("net", shards, 1, None, 1.0, 1.0)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ((((0,), ()),), "shard 0 of entry 'a': no worker of stage 1 of pipeline 0"),
        ((((), ()),), "shard 0 of entry 'a': no worker of every stage of any pipeline"),
        (
            (((0, 1), (0,)),),
            "pipeline 0, stage 0: its shards have workers [0, 1, 1]; expected each of 2 once",
        ),
    ],
)
def test_a_shard_that_lacks_a_stage_or_shares_a_worker_is_told(
    workers: tuple[tuple[tuple[int, ...], ...], ...], said: str
) -> None:
    assert any(said in fault for fault in shard_faults(faulty(workers), ((2, 2),)))


def test_nothing_is_served_by_a_shard_without_a_stage(two: Plan) -> None:
    whole = served_model(two, with_entries(PROBLEM, 2), two.shards[0].model)
    none = tuple(tuple(() for _ in pipeline.stages) for pipeline in whole.pipelines)
    with pytest.raises(NoShard, match="without a worker of every stage"):
        shard_of(whole, Shard(("a",), 1.0, none))


def test_names_of_entries_are_unique() -> None:
    with pytest.raises(ValueError, match="the name 'entry-0' is used 2 times"):
        replace(
            PROBLEM.cluster, entry=EntryServer(name="entry-0"), more_entries=(EntryServer(name="entry-0"),)
        )


def test_the_plans_table_says_whose_the_shards_are_and_what_they_cost() -> None:
    problem = counted(with_entries(PROBLEM, 2, bandwidth_gbps=100.0), fixed_us=20_000.0)
    console = Console(width=80, file=io.StringIO())
    console.print(plan_table(plan(problem, mode="fast")))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "entry-0: link" in text
    assert "entry-1" in text
    assert "40 rps" in text
    assert "dispatchers carry 80 frames/s" in " ".join(text.split())


def test_a_plan_whose_shards_are_not_the_deployments_is_refused() -> None:
    deployment = parse_deployment(entries_on("127.0.0.1", "localhost"), "f")
    made = replace(plan(with_entries(PROBLEM, 2), mode="fast"))
    check_entries(deployment, made)
    with pytest.raises(PlanFault, match="no shards of 'net00', and the deployment several entries"):
        check_entries(deployment, replace(made, shards=()))
    with pytest.raises(PlanFault, match="of several entries, the deployment has one"):
        check_entries(parse_deployment(copy.deepcopy(PLAIN), "f"), made)
    (first, *others) = made.shards
    renamed = replace(first, shards=tuple(replace(one, order=("entry-0", "x")) for one in first.shards))
    with pytest.raises(PlanFault, match=r"its order is entry-0, x; expected each entry once \("):
        check_entries(deployment, replace(made, shards=(renamed, *others)))
    twice = replace(first, shards=(first.shards[0], first.shards[0]))
    with pytest.raises(PlanFault, match="its shards have workers"):
        check_entries(deployment, replace(made, shards=(twice, *others)))


def test_entries_on_several_hosts_need_a_store_that_all_reach() -> None:
    made = plan(with_entries(PROBLEM, 2), mode="fast")
    plain = entries_on("10.0.0.1", "10.0.0.2")
    with pytest.raises(PlanFault, match=r"on 2 hosts \(10.0.0.1, 10.0.0.2\).*give 'leases: {kind: etcd"):
        check_entries(parse_deployment(plain, "f"), made)
    endpoints = ["http://10.0.0.5:2379"]
    deployment = parse_deployment(plain | {"leases": {"kind": "etcd", "endpoints": endpoints}}, "f")
    check_entries(deployment, made)
    assert deployment.to_leases() == LeasesAt("etcd", ("http://10.0.0.5:2379",))
    for leases, fault in (
        ({"kind": "etcd"}, "endpoints: none"),
        ({"endpoints": endpoints}, "kind is 'file', which has neither endpoints"),
        ({"kind": "etcd", "endpoints": endpoints, "key": "/k"}, "give both, or none"),
        ({"kind": "zookeeper"}, "'file', 'etcd' or 'kubernetes'"),
    ):
        with pytest.raises(DeploymentError, match=fault):
            parse_deployment(plain | {"leases": leases}, "f")


def entries_on(*hosts: str) -> dict[str, Any]:
    plain = copy.deepcopy(PLAIN)
    plain["cluster"].pop("entry", None)
    plain["cluster"]["entries"] = [
        {"name": f"entry-{number}", "host": host} for number, host in enumerate(hosts)
    ]
    return plain
