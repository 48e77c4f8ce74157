"""Pools of one class: names, links, prices; pools without servers; classes that no server has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.absent import absent_classes
from planner.cluster import Cluster, GpuClass, Server
from planner.deployment import DeploymentError, parse_deployment
from planner.explain import with_more
from planner.feasibility import violations
from planner.placing import place
from planner.planning import plan
from planner.pools import FEW, MOST_POOLS, NEAR, by_pool, pools_of
from planner.problem import Objective, Problem
from tests.fixtures.made_problems import MadeSize, made_problem
from tests.planner.test_addresses import deployment

Kind = tuple[int, float]
"""GPUs and Gbit/s of a server."""


def cluster_of(**kinds: Sequence[Kind]) -> Cluster:
    """Servers `T4-0`, `T4-1`, ... of each class."""
    servers = [
        Server(f"{gpu}-{index}", gpu, count, gbps)
        for gpu, mine in kinds.items()
        for index, (count, gbps) in enumerate(mine)
    ]
    return Cluster(gpu_classes=tuple(GpuClass(gpu) for gpu in kinds), servers=tuple(servers))


def pool_names(cluster: Cluster) -> dict[str, list[str]]:
    return {pool.name: [server.name for server in pool.servers] for pool in pools_of(cluster)}


def mixed(seed: int) -> Problem:
    """Class C0 has small servers with slow links and large ones with fast links, in turn."""
    problem = made_problem(MadeSize(models=1, gpus=8, classes=2, blocks=5, max_slices=2), seed)
    gpus = problem.cluster.gpu_count("C1")
    kinds = [(1, 1.0), (4, 40.0), (1, 1.0), (1, 1.0)]
    servers = [Server(f"m{index}", "C0", gpus, gbps) for index, (gpus, gbps) in enumerate(kinds)]
    servers += [Server(f"n{index}", "C1", 1, 10.0) for index in range(gpus)]
    return replace(problem, cluster=replace(problem.cluster, servers=tuple(servers)))


def test_pools_of_one_class_by_count_have_names_of_their_own() -> None:
    groups = [
        {"gpu": "slow", "count": 3, "gpus_per_server": 1, "bandwidth_gbps": 4.75},
        {"gpu": "fast", "count": 1, "gpus_per_server": 1},
        {"gpu": "slow", "count": 2, "gpus_per_server": 4, "bandwidth_gbps": 50},
    ]
    cluster = parse_deployment(deployment(groups=groups), "d.yaml").to_cluster()
    assert [(server.name, server.gpu_count) for server in cluster.servers] == [
        ("slow-0", 1), ("slow-1", 1), ("slow-2", 1), ("fast-0", 1), ("slow-3", 4), ("slow-4", 4),
    ]  # fmt: skip
    assert cluster.gpu_count("slow") == 11
    assert pool_names(cluster) == {
        "fast": ["fast-0"],
        "slow-x1": ["slow-0", "slow-1", "slow-2"],
        "slow-x4": ["slow-3", "slow-4"],
    }


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        ([(1, 10.0), (1, 10.0)], ["T4"]),
        ([(1, 10.0), (1, 11.0)], ["T4"]),
        ([(8, 100.0), (7, 100.0)], ["T4"]),
        ([(8, 100.0)] * 5 + [(2, 100.0)], ["T4"]),
        ([(8, 100.0)] * 5 + [(8, 10.0)], ["T4-x8-100gbps", "T4-x8-10gbps"]),
        ([(1, 10.0), (4, 40.0)], ["T4-x1", "T4-x4"]),
        ([(1, 10.0), (1, 10.0), (4, 10.0)], ["T4-x1", "T4-x4"]),
        ([(2, 25.0), (2, 10.0), (1, 10.0), (1, 10.0)], ["T4-x2-25gbps", "T4-x2-10gbps", "T4-x1"]),
        ([], ["T4"]),
    ],
    ids=str,
)
def test_servers_are_one_pool_where_they_are_alike(kinds: Sequence[Kind], names: Sequence[str]) -> None:
    assert list(pool_names(cluster_of(T4=kinds))) == names


def test_no_pool_is_called_as_a_class_is() -> None:
    cluster = cluster_of(T4=[(1, 10.0), (4, 25.0)], **{"T4-x4": [(2, 10.0)]})
    assert pool_names(cluster) == {"T4-pool1": ["T4-0"], "T4-pool2": ["T4-1"], "T4-x4": ["T4-x4-0"]}


def test_a_cluster_of_alike_servers_is_planned_as_it_is() -> None:
    problem = made_problem(MadeSize(models=1, gpus=8, classes=2, blocks=5), 1)
    servers = [replace(server, bandwidth_gbps=10.0, gpu_count=1) for server in problem.cluster.servers]
    problem = replace(problem, cluster=replace(problem.cluster, servers=tuple(servers)))
    assert by_pool(problem) is problem
    stages = [stage for model in plan(problem).models for pipe in model.pipelines for stage in pipe.stages]
    assert all(stage.pool == "" and stage.at == stage.gpu for stage in stages)


kinds = st.lists(st.tuples(st.integers(1, 8), st.floats(1, 400)), max_size=40)


@given(kinds, kinds)
@settings(max_examples=60)
def test_every_server_is_in_one_pool_and_pools_are_few(a: list[Kind], b: list[Kind]) -> None:
    cluster = cluster_of(A=a, B=b)
    pools = pools_of(cluster)
    assert sorted(s.name for pool in pools for s in pool.servers) == sorted(s.name for s in cluster.servers)
    assert len({pool.name for pool in pools}) == len(pools) <= MOST_POOLS
    assert all(server.gpu == pool.gpu for pool in pools for server in pool.servers)
    if len(pools) == MOST_POOLS:
        return  # some may have been put together that are unlike
    for gpu in ("A", "B"):
        mine = [pool.servers for pool in pools if pool.gpu == gpu and pool.servers]
        lost = sum(_lost(servers) for servers in mine)
        assert lost <= FEW * sum(server.gpu_count for servers in mine for server in servers) * len(a + b)


def _lost(servers: Sequence[Server]) -> int:
    """GPUs whose link is planned with much less than it has."""
    gbps = min(server.bandwidth_gbps for server in servers)
    share = gbps / max(server.gpu_count for server in servers)
    return sum(
        server.gpu_count
        for server in servers
        if server.bandwidth_gbps > NEAR * gbps or server.bandwidth_gbps / server.gpu_count > NEAR * share
    )


@pytest.mark.parametrize("seed", [1, 3])  # others need no links
def test_each_pool_is_planned_with_its_own_links(seed: int) -> None:
    problem = mixed(seed)
    slow = replace(
        problem.cluster,
        servers=tuple(
            replace(server, bandwidth_gbps=1.0) if server.gpu == "C0" else server
            for server in problem.cluster.servers
        ),
    )
    made = plan(problem)
    assert violations(made, problem) == []
    assert made.objective > plan(replace(problem, cluster=slow)).objective
    gbps = {server.name: server.bandwidth_gbps for server in problem.cluster.servers}
    assert made.placement is not None
    seen = set()
    for worker in made.placement.workers:
        stage = made.model(worker.model).pipelines[worker.pipeline].stages[worker.stage]
        if stage.gpu == "C0":
            seen.add(stage.pool)
            assert gbps[worker.server] == {"C0-x1": 1.0, "C0-x4": 40.0}[stage.pool]
    assert seen == {"C0-x1", "C0-x4"}
    assert set(made.gpus_used) == set(made.gpu_price) == {"C0-x1", "C0-x4", "C1"}


def test_the_check_holds_a_pool_against_its_own_links() -> None:
    problem = mixed(1)
    made = plan(problem)
    assert violations(made, problem) == []
    slower = [
        replace(server, bandwidth_gbps=2.0) if server.gpu_count == 4 else server
        for server in problem.cluster.servers
    ]
    changed = replace(problem, cluster=replace(problem.cluster, servers=tuple(slower)))
    assert any("of the pools give" in fault or "transfers" in fault for fault in violations(made, changed)), (
        made
    )


def test_a_plan_whose_pools_have_changed_is_placed_by_class() -> None:
    problem = mixed(2)
    made = plan(problem)
    alike = [replace(server, bandwidth_gbps=10.0) for server in problem.cluster.servers]
    cluster = replace(problem.cluster, servers=tuple(alike))
    assert {pool.name for pool in pools_of(cluster)} >= {"C0-x1", "C0-x4"}
    one_size = tuple(
        Server(f"o{index}", "C0", 1, 10.0) for index in range(problem.cluster.gpu_count("C0"))
    ) + tuple(server for server in alike if server.gpu == "C1")
    placed = place(made, replace(cluster, servers=one_size))
    assert len(placed.workers) == len(place(made, problem.cluster).workers)


def test_a_pool_at_zero_is_refused_with_the_way_out() -> None:
    with pytest.raises(DeploymentError, match=r"groups\.0\.count: a pool without servers is left out by"):
        parse_deployment(deployment(groups=[{"gpu": "slow", "count": 0, "gpus_per_server": 1}]), "d.yaml")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_price_of_a_class_that_no_server_has_is_what_one_would_add(seed: int) -> None:
    problem = made_problem(MadeSize(models=2, gpus=12, classes=3), seed)
    cluster = problem.cluster
    gone = cluster.gpu_classes[0].name
    rest = tuple(server for server in cluster.servers if server.gpu != gone)
    without = replace(problem, cluster=replace(cluster, servers=rest))
    assert absent_classes(without) == (gone,)
    made = plan(without, mode="fast")
    gain = plan(with_more(without, gone, 1), mode="fast").objective - made.objective
    assert made.gpu_price[gone] == pytest.approx(max(0.0, gain), rel=1e-3, abs=1e-6)
    assert made.gpus_used[gone] == 0


def test_the_price_of_an_absent_class_is_what_one_would_save_where_cost_counts() -> None:
    problem = made_problem(MadeSize(models=2, gpus=8, classes=2, blocks=5, max_slices=2), 3)
    names = [one.name for one in problem.cluster.gpu_classes]
    fastest = max(names, key=lambda gpu: problem.cluster.gpu_count(gpu) > 0)
    rest = tuple(server for server in problem.cluster.servers if server.gpu != fastest)
    half = plan(replace(problem, cluster=replace(problem.cluster, servers=rest)), mode="fast").objective / 2
    demands = tuple(replace(demand, rate_rps=half * (demand.weight or 1)) for demand in problem.demands)
    options = replace(problem.options, objective=Objective.MIN_COST, gpu_cost=dict.fromkeys(names, 1.0))
    without = replace(
        problem, cluster=replace(problem.cluster, servers=rest), demands=demands, options=options
    )
    made = plan(without)
    saved = made.objective - plan(with_more(without, fastest, 1)).objective
    assert made.gpu_price[fastest] == pytest.approx(saved)
