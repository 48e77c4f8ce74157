"""How much of what is possible a policy serves: its loads and goodput beside the clairvoyant bound's.

Rules
- Same plan, same arrivals, same seeds for policy and bound (python_backend.simulator.bound).
- Capacities, of policy and bound, are found in steps of 0.5 % of the plan's fluid limit, because 5 % of the
  reference's rate is coarser than what is left.
- With jitter there is no bound: it holds for stage latencies as profiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.serving import ServedModel
from python_backend.simulator.bound import Bound
from python_backend.simulator.capacity import Workload, find_capacity, try_load

LOADS = (1.0, 1.05, 1.1)
"""Times the load that the policy was found to serve."""
AVERAGED = ("attainment", "bound_attainment", "share")


def yardstick(served: ServedModel, policy: str, load_rps: float, workload: Workload) -> dict[str, Any]:
    """Fields of a case's row.

    fine_rps, clairvoyant_rps: highest load at 99 % of the policy and of the bound; clairvoyant_share: the one
    over the other. bound: goodput of both at LOADS times load_rps.
    """
    if load_rps <= 0 or not workload.exact:
        return {"fine_rps": None, "clairvoyant_rps": None, "clairvoyant_share": None, "bound": []}
    bound = Bound(served)
    clairvoyant_rps = bound.capacity_rps(workload)
    rates = [rate_rps for rate_rps in bound.rates_rps() if rate_rps <= clairvoyant_rps]
    fine_rps = find_capacity(served, policy, rates, workload, load_rps * 1.02).load_rps
    return {
        "fine_rps": fine_rps,
        "clairvoyant_rps": clairvoyant_rps,
        "clairvoyant_share": fine_rps / clairvoyant_rps if clairvoyant_rps else None,
        "bound": [_at(load, served, policy, load * load_rps, workload, bound) for load in LOADS],
    }


def _at(
    load: float, served: ServedModel, policy: str, rate_rps: float, workload: Workload, bound: Bound
) -> dict[str, float]:
    """Goodput of policy and bound, means over the seeds, in frames/s."""
    counts = try_load(served, policy, rate_rps, workload, target=0.0).counts
    runs_s = workload.seconds * len(workload.seeds)
    most = 0
    for seed in workload.seeds:
        times = workload.times_us(rate_rps, seed, served.model)
        most += bound.most_in_time(lambda: times)  # noqa: B023
    in_time = sum(one.in_time for one in counts)
    offered = max(1, sum(one.offered for one in counts))
    return {
        "load": load,
        "rate_rps": rate_rps,
        "goodput_rps": in_time / runs_s,
        "attainment": in_time / offered,
        "bound_rps": most / runs_s,
        "bound_attainment": most / offered,
        "share": in_time / most if most else 1.0,
    }


def mean_shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the cases that have a bound: the policy's capacity as a share of the bound's, its ratio to
    the reference on the fine grid, and attainment, the bound's and the share at each of LOADS."""
    bounded = [row for row in rows if row.get("bound")]
    if not bounded:
        return {}
    shares = [row["clairvoyant_share"] for row in bounded]
    return {
        "mean_fine_ratio": _mean([row["fine_rps"] / row["reference_load_rps"] for row in bounded]),
        "mean_clairvoyant_ratio": _mean(
            [row["clairvoyant_rps"] / row["reference_load_rps"] for row in bounded]
        ),
        "mean_clairvoyant_share": _mean(shares),
        "least_clairvoyant_share": min(shares),
        "at_loads": [
            {"load": load}
            | {name: _mean([row["bound"][index][name] for row in bounded]) for name in AVERAGED}
            for index, load in enumerate(LOADS)
        ],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
