"""Finds a plan over all pipelines, and proves how good it is.

1. The linear relaxation over all columns gives a bound and prices (planner.prices).
2. The MILP over the few pipelines of least loss gives an incumbent. Fast mode ends here, with the
relaxation's bound. 3. A pipeline whose loss is above bound - incumbent is in no better plan: it is fixed to
zero for good. 4. The MILP over every pipeline that survives, started from the incumbent, gives the plan and
the proven bound.

Models with reserves (planner.queueing) take step 1, then 2 over more pipelines, then _share_out: no proof.

Rules
- The bound is over all pipelines: of the dropped ones, none is in a plan better than the threshold they were
  dropped at.
- Limits count nodes. What ends early is reported as a gap, not hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planner.allotment_search import share_out
from planner.cluster import Cluster
from planner.dominance import undominated
from planner.entry import EntryRow
from planner.formulation import MilpProblem, Outcome, PlanMilp, Use
from planner.improve import improve, objective_of
from planner.pipelines import Floats, Ints
from planner.prices import Prices, WantedModel, losses, relax
from planner.problem import Objective
from planner.solver import Limits


@dataclass(frozen=True)
class Effort:
    """How hard to search. `pool`: pipelines in the first MILP, all models together, at least `pool_per_model`
    each.

    gap, nodes: of the first MILP. proof_gap, proof_nodes: of the one that proves; proof_nodes 0: no proof.
    improve_rounds: of planner.improve, per model; improve_gap: no more of them once the bound is this near.
    """

    pool: int
    pool_per_model: int
    gap: float
    nodes: int
    proof_gap: float = 1e-4
    proof_nodes: int = 0
    improve_rounds: float = 0
    improve_gap: float = 5e-3


FAST = Effort(pool=15, pool_per_model=5, gap=3e-3, nodes=10)
PROVEN = Effort(pool=36, pool_per_model=6, gap=5e-4, nodes=2_000, proof_nodes=200_000)
LARGE = Effort(pool=1, pool_per_model=5, gap=3e-3, nodes=10, improve_rounds=1.5)
"""Instead of PROVEN where there are more models than MODELS_TO_PROVE."""
MODELS_TO_PROVE = 6
COLUMNS_TO_PROVE = 3_000
PROOF_WORK = 1_500_000
"""Nodes times pipelines of a proof: what is not proven by then is reported as a gap."""
LEAST_PROOF_NODES = 1_000
MANY_GAP, MANY_GAP_FAST = 2e-3, 1e-2
GPUS_PER_MODEL = 12
"""With at most so many, and more models than MODELS_TO_PROVE, planner.allotment_search plans."""
MEAN_SHARE = 0.1
"""With reserves, of the first MILP: how much the mean over models counts beside the least served."""
RESERVED_POOL, RESERVED_NODES, RESERVED_GAP = 12, 50, 1e-3
"""With reserves, of the first MILP: more kinds of pipelines are worth having."""
WIDE_POOL, WIDE_NODES, WIDE_GAP = 20, 2_000, 5e-4
IMPROVE_POOL = 12
"""Pipelines per model in planner.improve."""


@dataclass(frozen=True, eq=False)
class FoundPlan:
    """A plan in terms of columns: per model its columns and the uses of their rows; the bound and the
    prices.
    """

    wanted: tuple[WantedModel, ...]
    uses: tuple[tuple[Use, ...], ...]
    bound: float
    prices: Prices
    nodes: int


class NothingFound(ValueError):
    """No plan within the limits, though none is proven impossible."""


def gpu_counts_of(cluster: Cluster) -> list[int]:
    """GPUs per class, in the classes' order."""
    return [cluster.gpu_count(gpu_class.name) for gpu_class in cluster.gpu_classes]


def search(
    cluster: Cluster,
    wanted: Sequence[WantedModel],
    objective: Objective,
    gpu_cost: Sequence[float],
    effort: Effort,
    pipelines_per_class_pair: int | None = None,
    least_gives: float = 0.0,
    entry: Sequence[EntryRow] = (),
) -> FoundPlan:
    """Plan these models; `least_gives` counts where they have reserves (see _share_out).

    Raises prices.RatesTooHigh (min-cost), NothingFound.
    """
    gpu_counts = gpu_counts_of(cluster)
    reserved = any(one.reserves for one in wanted)
    prices = relax(gpu_counts, wanted, objective, gpu_cost, entry)
    problem = MilpProblem(
        wanted=wanted,
        gpu_counts=gpu_counts,
        objective=objective,
        bound=prices.bound,
        gpu_cost=gpu_cost,
        pipelines_per_class_pair=pipelines_per_class_pair,
        mean_share=MEAN_SHARE if reserved else 0.0,
        entry=entry,
    )
    if len(wanted) > MODELS_TO_PROVE and sum(gpu_counts) <= GPUS_PER_MODEL * len(wanted):
        shared = share_out(problem, MANY_GAP if effort.proof_nodes else MANY_GAP_FAST)
        if shared.impossible:
            raise NothingFound("no plan of whole GPUs")
        if shared.uses:
            wanted = [one.wanted for one in shared.models]
            return FoundPlan(tuple(wanted), shared.uses, shared.bound, prices, shared.nodes)
    if effort.proof_nodes and len(wanted) > MODELS_TO_PROVE:
        effort = LARGE
    lost = [
        _losses(one.mixed(mix), prices, price, objective)
        for one, mix, price in zip(wanted, prices.mix, prices.frame, strict=True)
    ]
    rows, pool, outcome = _first(problem, lost, effort)
    found = FoundPlan(tuple(pool.wanted), outcome.uses, prices.bound, prices, outcome.nodes)
    if effort.improve_rounds:
        found = _improve(problem, found, rows, lost, effort)
    if reserved:
        return _share_out(problem, found, rows, lost, effort, least_gives)
    return _prove(problem, found, rows, lost, effort) if effort.proof_nodes else found


def _first(
    problem: MilpProblem, lost: Sequence[Floats], effort: Effort
) -> tuple[list[Ints], MilpProblem, Outcome]:
    """The MILP over the most promising pipelines; over more where those serve no plan. Raises
    NothingFound.
    """
    count = max(effort.pool_per_model, effort.pool // len(problem.wanted))
    if problem.mean_share:
        count, effort = RESERVED_POOL, replace(effort, gap=RESERVED_GAP, nodes=RESERVED_NODES)
    while True:
        rows = _pool(problem.wanted, lost, count)
        pool = narrow(problem, rows)
        outcome = PlanMilp(pool).solve(
            Limits(relative_gap=effort.gap, nodes=effort.nodes, restarts=effort.proof_nodes > 0)
        )
        if outcome.uses:
            return rows, pool, outcome
        if count >= max(map(len, lost)):
            raise NothingFound(f"no plan within {effort.nodes} nodes over {sum(map(len, rows))} pipelines")
        count *= 8


def _losses(one: WantedModel, prices: Prices, frame_price: float, objective: Objective) -> Floats:
    cap = one.rate * (prices.bound if objective is Objective.MAX_RATE else 1.0)
    return losses(one.columns, prices, frame_price, cap)


def pool_of_least_loss(problem: MilpProblem, prices: Prices, count: int) -> list[Ints]:
    """Per model the rows of so many pipelines of least loss at these prices."""
    lost = [
        _losses(one.mixed(mix), prices, price, problem.objective)
        for one, mix, price in zip(problem.wanted, prices.mix, prices.frame, strict=True)
    ]
    return _pool(problem.wanted, lost, count)


def _pool(wanted: Sequence[WantedModel], lost: Sequence[Floats], count: int) -> list[Ints]:
    """Per model the `count` undominated pipelines of least loss."""
    rows = []
    for one, loss in zip(wanted, lost, strict=True):
        # Half of the cheapest are usually dominated by others of them.
        cheapest = np.argsort(loss, kind="stable")[: 8 * count]
        front = cheapest[undominated(one.columns.select(cheapest), bool(one.reserves))]
        rows.append(front[:count])
    return rows


def narrow(problem: MilpProblem, rows: Sequence[npt.ArrayLike]) -> MilpProblem:
    """The same problem over these rows of each model's columns."""
    pairs = zip(problem.wanted, rows, strict=True)
    narrowed = [replace(one, columns=one.columns.select(chosen)) for one, chosen in pairs]
    return replace(problem, wanted=narrowed)


def _extend(mine: Ints, others: Ints) -> Ints:
    """`mine`, then what `others` add: positions in `mine` stay valid."""
    return np.concatenate([mine, np.setdiff1d(others, mine)])


def _improve(
    problem: MilpProblem, found: FoundPlan, rows: Sequence[Ints], lost: Sequence[Floats], effort: Effort
) -> FoundPlan:
    """Better the plan a few models at a time, over more pipelines than the first MILP had."""
    larger = _pool(problem.wanted, lost, IMPROVE_POOL)
    pool = narrow(problem, [_extend(mine, more) for mine, more in zip(rows, larger, strict=True)])
    rounds = math.ceil(effort.improve_rounds * len(problem.wanted))
    improved = improve(pool, found.uses, rounds, effort.improve_gap)
    nodes = found.nodes + improved.nodes
    return replace(found, wanted=tuple(pool.wanted), uses=improved.uses, nodes=nodes)


def _share_out(
    problem: MilpProblem,
    found: FoundPlan,
    rows: Sequence[Ints],
    lost: Sequence[Floats],
    effort: Effort,
    least_gives: float,
) -> FoundPlan:
    """From the plan that serves the least served model best, to the one of the best mean that takes no more
    than this share from it. There is no proof over all pipelines.
    """
    if problem.objective is not Objective.MAX_RATE:
        return found
    thorough = effort.proof_nodes > 0
    larger = _pool(problem.wanted, lost, WIDE_POOL if thorough else RESERVED_POOL)
    pool = narrow(problem, [_extend(mine, more) for mine, more in zip(rows, larger, strict=True)])
    pool = replace(pool, mean_share=1.0, least=_objective(found, problem) * (1 - least_gives))
    limits = Limits(
        relative_gap=WIDE_GAP if thorough else RESERVED_GAP, nodes=WIDE_NODES if thorough else RESERVED_NODES
    )
    outcome = PlanMilp(pool).solve(limits, found.uses)
    if not outcome.uses:
        return found
    return replace(found, wanted=tuple(pool.wanted), uses=outcome.uses, nodes=found.nodes + outcome.nodes)


def _prove(
    problem: MilpProblem, found: FoundPlan, pool: Sequence[Ints], lost: Sequence[Floats], effort: Effort
) -> FoundPlan:
    """Solve over every pipeline that a better plan could use; see steps 3 and 4."""
    maximise = problem.objective is Objective.MAX_RATE
    value = _objective(found, problem)
    threshold = value * (1 + effort.proof_gap / 2) if maximise else value * (1 - effort.proof_gap / 2)
    slack = abs(problem.bound - threshold) if (problem.bound > threshold) == maximise else 0.0
    rows = []
    for one, loss, mine in zip(problem.wanted, lost, pool, strict=True):
        alive = np.nonzero(loss <= slack)[0]
        rows.append(_extend(mine, alive[undominated(one.columns.select(alive), bool(one.reserves))]))
    if sum(map(len, rows)) > COLUMNS_TO_PROVE:
        return found
    narrowed = narrow(problem, rows)
    nodes = min(effort.proof_nodes, max(LEAST_PROOF_NODES, PROOF_WORK // sum(map(len, rows))))
    limits = Limits(relative_gap=effort.proof_gap, nodes=nodes)
    outcome = PlanMilp(narrowed).solve(limits, found.uses)
    return _better(problem, found, narrowed, outcome, threshold)


def _better(
    problem: MilpProblem, found: FoundPlan, narrowed: MilpProblem, outcome: Outcome, threshold: float
) -> FoundPlan:
    """The proven plan where it is better than the one before, with the bound that now holds over all
    pipelines.
    """
    maximise = problem.objective is Objective.MAX_RATE
    nodes = found.nodes + outcome.nodes
    bound = found.bound
    if math.isfinite(outcome.bound):
        bound = (
            min(bound, max(outcome.bound, threshold))
            if maximise
            else max(bound, min(outcome.bound, threshold))
        )
    proven = replace(found, bound=bound, nodes=nodes)
    if not outcome.uses:
        return proven
    other = replace(proven, wanted=tuple(narrowed.wanted), uses=outcome.uses)
    gain = _objective(other, problem) - _objective(proven, problem)
    return other if (gain > 0 if maximise else gain < 0) else proven


def _objective(found: FoundPlan, problem: MilpProblem) -> float:
    return objective_of(replace(problem, wanted=found.wanted), found.uses)
