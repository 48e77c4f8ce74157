"""Finds a plan that promises most after any loss (planner.losses), and proves how good the promise is.

1. The linear relaxation of the MILP with its losses, over all pipelines that are not dominated, gives the
   bound, and the pipelines that are worth having.
2. The MILP over those and the ones of least loss in planner.prices' sense, with losses in whole GPUs, gives
   workers.
3. Placing gives them servers, and every loss is counted as it is. Where one leaves less than its share was
   counted for, the share is cut to what it left, and 2 is solved again: ROUNDS in all. The best promise
   stays.

Rule: the bound is the relaxation's, with the shares uncut: it holds for every plan, however it is placed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.dominance import undominated
from planner.entry import most_factor
from planner.formulation import MilpProblem, PlanMilp
from planner.losses import KeptShares, Loss, after, kept_shares, losses_of, rows_after, thinned
from planner.plan import ModelPlan, Plan, Survival
from planner.prices import Prices
from planner.problem import Objective, Problem, wanted_of
from planner.rates import variation_us
from planner.search import FoundPlan, NothingFound, narrow, pool_of_least_loss
from planner.solver import Limits
from planner.usable import usable_share

ROUNDS = 2
POOL = 12
"""Pipelines of least loss per model, beside those of the relaxation."""
NODES, GAP = 100, 2e-3
LOSS_SHARE = 0.01
"""Where the plan itself is for throughput alone: a promise is of what random arrivals can use."""
BOUND_TOLERANCE = 1e-6
ALL_WANTED = 0.99
"""Of wanted rates: more is not worth money, for the tangents of planner.queueing are that far off."""


@dataclass(frozen=True, eq=False)
class RelaxedLosses:
    """Step 1: the bound, and per model the rows of its columns that are worth having."""

    bound: float
    rows: Sequence[Sequence[int]]


def relax_surviving(problem: MilpProblem, prices: Prices) -> RelaxedLosses:
    """Step 1. Raises NothingFound."""
    rows = [undominated(one.columns, by_latency=True) for one in problem.wanted]
    bound, worth = PlanMilp(narrow(problem, rows), relaxed=True).relaxation()
    if bound is None:
        raise NothingFound("nothing is left of any plan after one of the losses")
    pool = pool_of_least_loss(problem, prices, POOL)
    chosen = [
        sorted({int(row) for row in least} | {int(mine[row]) for row in used})
        for mine, used, least in zip(rows, worth, pool, strict=True)
    ]
    rounding = BOUND_TOLERANCE if problem.objective is Objective.MAX_RATE else -BOUND_TOLERANCE
    return RelaxedLosses(bound * (1 + rounding), chosen)


def search_surviving(problem: MilpProblem, prices: Prices, relaxed: RelaxedLosses) -> FoundPlan:
    """Step 2. Raises NothingFound."""
    narrowed = narrow(problem, relaxed.rows)
    outcome = PlanMilp(narrowed).solve(Limits(relative_gap=GAP, nodes=NODES))
    if not outcome.uses:
        raise NothingFound(f"no plan within {NODES} nodes that survives every loss")
    return FoundPlan(tuple(narrowed.wanted), outcome.uses, relaxed.bound, prices, outcome.nodes)


@dataclass(frozen=True)
class _Promised:
    """A placed plan and what it serves after each loss, in units of the wanted rates."""

    plan: Plan
    left: Mapping[Loss, float]

    @property
    def factor(self) -> float:
        """The least of it."""
        return min(self.left.values())


def plan_surviving(
    problem: Problem, solve: Callable[[Sequence[KeptShares]], Plan], bound: float, without: float
) -> Plan:
    """The best of the plans that `solve` gives for losses in whole GPUs and cut ones, with its Survival.

    solve: a placed plan. bound: step 1's. without: see Survival.
    """
    shares: Sequence[KeptShares] = kept_shares(problem, whole=True)
    best: _Promised | None = None
    for _ in range(ROUNDS):
        other = _promised(solve(shares), problem)
        best = other if best is None else max(best, other, key=lambda one: _worth(one, problem))
        before, shares = shares, _cut(other, shares, problem)
        if shares == before:
            break
    assert best is not None
    binding = min(best.left, key=lambda loss: best.left[loss])
    if problem.options.objective is Objective.MIN_COST:
        # The promise is what is wanted; the plan's own bound is of its cost.
        plan, bound = replace(best.plan, upper_bound=min(bound, best.plan.objective)), best.factor
    else:
        plan, bound = best.plan, max(bound, best.factor)
    return replace(
        plan,
        survival=Survival(
            promised=best.factor,
            bound=bound,
            gap=(bound - best.factor) / best.factor if best.factor else 0.0,
            binding=binding.name,
            losses=len(best.left),
            without=max(without, best.factor),
        ),
    )


def _worth(one: _Promised, problem: Problem) -> tuple[float, float]:
    """For max-rate the promise; for min-cost what it costs, once all that is wanted is promised."""
    if problem.options.objective is Objective.MIN_COST:
        return min(one.factor, ALL_WANTED), -one.plan.objective
    return one.factor, 0.0


def _promised(made: Plan, problem: Problem) -> _Promised:
    return _Promised(made, {loss: _left(made, loss, problem) for loss in losses_of(problem)})


def _left(made: Plan, loss: Loss, problem: Problem) -> float:
    workers = promised_factor(after(made, loss, problem), problem)
    return min(workers, carried_factor(loss, problem))


def carried_factor(loss: Loss, problem: Problem) -> float:
    """What the entries that a loss leaves carry, over what is wanted."""
    wanted = [wanted_of(demand, problem.options) for demand in problem.demands]
    return most_factor(rows_after(problem, loss), wanted)


def promised_factor(made: Plan, problem: Problem) -> float:
    """The least over models of what arrivals can use of a plan, over what is wanted."""
    return min(
        usable_rps(model, problem) / wanted_of(demand, problem.options)
        for model, demand in zip(made.models, problem.demands, strict=True)
    )


def usable_rps(model: ModelPlan, problem: Problem) -> float:
    """What random arrivals can use of one model's plan, by planner.queueing."""
    options, frames = problem.options, 0.0
    if not model.throughput_rps:
        return 0.0
    profile = problem.profile.model(model.model)
    for pipeline in model.pipelines:
        kept_us = variation_us(profile, pipeline.stages, options)
        slack_us = max(0.0, model.slo_us - pipeline.latency_us - kept_us)
        frames += pipeline.throughput_rps * slack_us / 1e6
        share = pipeline.throughput_rps / model.throughput_rps
        frames -= (pipeline.stages[0].batch_size - 1) * share
    loss = options.loss_share if options.loss_share is not None else LOSS_SHARE
    return model.throughput_rps * usable_share(max(0.0, frames), loss, options.dispersion)


def _cut(best: _Promised, shares: Sequence[KeptShares], problem: Problem) -> list[KeptShares]:
    """Shares less what each class's worst loss took more than its share said."""
    names = [gpu_class.name for gpu_class in problem.cluster.gpu_classes]
    class_of = {server.name: names.index(server.gpu) for server in problem.cluster.servers}
    cut = []
    for one in shares:
        said = promised_factor(thinned(best.plan, one, problem), problem)
        mine = [loss for loss in best.left if {class_of[name] for name in loss.servers} == {*one.kept}]
        worst = min(best.left[loss] for loss in mine)
        short = max(0.0, 1 - worst / said) if said else 0.0
        cut.append(replace(one, kept={gpu: share * (1 - short) for gpu, share in one.kept.items()}))
    return cut
