"""Two pools of one class, pools without servers, and classes that no server has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.absent import absent_classes
from planner.deployment import DeploymentError, parse_deployment
from planner.explain import with_more
from planner.planning import plan
from tests.fixtures.made_problems import MadeSize, made_problem
from tests.planner.test_addresses import deployment


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
