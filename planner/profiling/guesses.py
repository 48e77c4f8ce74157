"""How much of a model's time rests on operators that nothing is known of.

They are counted by a rule (networks.counting) and named with their share. More than MOST is refused where
times are not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.cluster import GpuClass
from planner.profiling.estimate import latency_us
from planner.profiling.network import Cost, Network
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import speed_of

MOST = 0.25
"""Share of a model's time that may rest on a guess where nothing is measured."""


def unknown_shares(network: Network, classes: Sequence[GpuClass]) -> Mapping[str, float]:
    """Of each operator that nothing is known of: its share of the model's time, by the guess, at most."""
    unknown = [operator for operator in network.operators if operator.unknown]
    shares: dict[str, float] = {}
    for gpu_class in classes if unknown else ():
        speed = speed_of(gpu_class)
        whole = latency_us(network.cost(network.whole), speed, 1)
        own: dict[str, Cost] = {}
        for operator in unknown:
            own[operator.unknown] = own.get(operator.unknown, Cost()) + operator.cost
        for name, cost in own.items():
            shares[name] = max(shares.get(name, 0.0), latency_us(cost, speed, 1) / whole)
    return shares


def require_known(shares: Mapping[str, float], where: str) -> None:
    """Raises ModelError where too much of a model rests on a guess, and no class of it is measured."""
    if sum(shares.values()) > MOST:
        raise ModelError(
            f"{where}: {shares_text(shares)}, and more than {MOST:.0%} is no ground for a plan: have a class "
            "measured (profile on a node of it, without 'stated' and --estimate), or tell torch what it "
            "costs (torch.utils.flop_counter.register_flop_formula)"
        )


def shares_text(shares: Mapping[str, float]) -> str:
    """'wildlib::twice is unknown, counted as a product: 12 % of the time'."""
    return "; ".join(
        f"{name} is unknown, counted as a product: {share:.0%} of the model's time"
        for name, share in shares.items()
    )
