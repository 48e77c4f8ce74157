"""What binds each model: GPUs, links or the SLO.

Read from the relaxation's prices: the price of a frame/s of the model is what its cheapest pipeline costs at
the GPUs' prices. If it falls by more than 0.5 % with links of no cost, links bind; with a 10 % longer SLO,
the SLO binds. GPUs bind where that price is not 0: more GPUs would serve more (max-rate) or they are what is
paid for (min-cost).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.cluster import Cluster
from planner.pipelines import Columns, enumerate_columns
from planner.prices import Prices, Wanted
from planner.problem import Demand, Problem

LONGER_SLO = 1.1
FREE_LINK_GBPS = 1e9
NOTABLE = 0.005
MOST_COLUMNS = 200_000
"""Larger problems are answered for GPUs alone: enumerating them twice more would take as long as planning."""


def bound_by(problem: Problem, wanted: Sequence[Wanted], prices: Prices) -> list[tuple[str, ...]]:
    """Per model, any of 'gpus', 'links', 'slo'."""
    small = sum(len(one.columns) for one in wanted) <= MOST_COLUMNS
    free = _free_links(problem.cluster)
    result = []
    for demand, one in zip(problem.demands, wanted, strict=True):
        price = _cheapest(one.columns, prices)
        what = ["gpus"] if price > 0 else []
        if small and price > 0:
            if _cheapest(_enumerate(problem, demand, free), prices) < price * (1 - NOTABLE):
                what.append("links")
            longer = replace(demand, slo_us=round(demand.slo_us * LONGER_SLO))
            if _cheapest(_enumerate(problem, longer, problem.cluster), prices) < price * (1 - NOTABLE):
                what.append("slo")
        result.append(tuple(what))
    return result


def _enumerate(problem: Problem, demand: Demand, cluster: Cluster) -> Columns:
    return enumerate_columns(problem.profile.model(demand.model), cluster, demand, problem.options)


def _free_links(cluster: Cluster) -> Cluster:
    servers = tuple(replace(server, bandwidth_gbps=FREE_LINK_GBPS) for server in cluster.servers)
    return replace(cluster, servers=servers)


def _cheapest(columns: Columns, prices: Prices) -> float:
    busy = columns.gpus_per_rps(len(prices.gpu))
    total = np.zeros(len(columns))
    for g, price in enumerate(prices.gpu):
        total = total + busy[:, g] * price
    return float(total.min())
