"""What binds each model: GPUs, servers' links or cores, the SLO, or the entry server.

Read from the relaxation's prices: the price of a frame/s of the model is what its cheapest pipeline costs at
the GPUs' prices. If it falls by more than 0.5 % with links of no cost, links bind; with cores without end,
cores bind; with a 10 % longer SLO, the SLO binds. GPUs bind where that price is not 0: more GPUs would
serve more (max-rate) or they are what is paid for (min-cost). A resource of the entry binds every model
where one more unit of it would serve more, and where the planned rates fill it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.cluster import Cluster
from planner.pipelines import Columns, enumerate_columns
from planner.plan import EntryUse
from planner.prices import Prices, WantedModel
from planner.problem import Demand, Problem

LONGER_SLO = 1.1
FREE_LINK_GBPS = 1e9
NOTABLE = 0.005
FULL = 1 - 1e-6
"""Share of an entry's resource that counts as all of it."""
MOST_COLUMNS = 200_000
"""Larger problems are answered for GPUs alone: enumerating them twice more would take as long as planning."""


def bound_by(
    problem: Problem, wanted: Sequence[WantedModel], prices: Prices, entry: Sequence[EntryUse] = ()
) -> list[tuple[str, ...]]:
    """Per model, any of 'gpus', 'links', 'cores', 'slo', 'entry link', 'client link', 'entry cores'."""
    small = sum(len(one.columns) for one in wanted) <= MOST_COLUMNS
    free = _free_links(problem.cluster)
    at_entry = [
        use.resource if "client" in use.resource else f"entry {use.resource}"
        for use in entry
        if use.price > 0 or use.busy > FULL
    ]
    result = []
    for demand, one in zip(problem.demands, wanted, strict=True):
        price = _cheapest(one.columns, prices)
        what = ["gpus"] if price > 0 else []
        if small and price > 0:
            if _cheapest(_enumerate(problem, demand, free), prices) < price * (1 - NOTABLE):
                what.append("links")
            if problem.options.count_ends:
                endless = _endless_cores(problem.cluster)
                if _cheapest(_enumerate(problem, demand, endless), prices) < price * (1 - NOTABLE):
                    what.append("cores")
            longer = replace(demand, slo_us=round(demand.slo_us * LONGER_SLO))
            if _cheapest(_enumerate(problem, longer, problem.cluster), prices) < price * (1 - NOTABLE):
                what.append("slo")
        result.append((*what, *dict.fromkeys(at_entry)))
    return result


def _enumerate(problem: Problem, demand: Demand, cluster: Cluster) -> Columns:
    return enumerate_columns(problem.profile.model(demand.model), cluster, demand, problem.options)


def _free_links(cluster: Cluster) -> Cluster:
    servers = tuple(replace(server, bandwidth_gbps=FREE_LINK_GBPS) for server in cluster.servers)
    return replace(cluster, servers=servers)


def _endless_cores(cluster: Cluster) -> Cluster:
    return replace(cluster, servers=tuple(replace(server, cores=None) for server in cluster.servers))


def _cheapest(columns: Columns, prices: Prices) -> float:
    busy = columns.gpus_per_rps(len(prices.gpu))
    total = np.zeros(len(columns))
    for g, price in enumerate(prices.gpu):
        total = total + busy[:, g] * price
    return float(total.min())
