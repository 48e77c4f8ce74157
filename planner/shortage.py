"""Says which models take most of too small a fleet, and what would fit.

A model needs a whole GPU for every stage, whatever its rate. So a = (GPUs per class that a pipeline has
stages on) is the least that the pipeline takes, and models fit only if each gets some such a:

    sum_a lambda_ma = 1 for every model m,   sum_m,a a_g lambda_ma <= N_g for every class g,   lambda 0 or 1

The most models that fit, and the least more of a class with which all do, are this with one change each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.cluster import Cluster
from planner.explain import Infeasible
from planner.pipelines import Columns, Ints
from planner.prices import WantedModel
from planner.problem import Objective, Problem
from planner.search import gpu_counts_of
from planner.solver import Limits, LinearProgram, Term

MOST_NAMED = 5
LIMITS = Limits(relative_gap=0.0, nodes=2_000)


def too_few_gpus(problem: Problem, wanted: Sequence[WantedModel]) -> Infeasible:
    """The error for models that whole GPUs cannot be shared out to."""
    counts = gpu_counts_of(problem.cluster)
    classes = problem.cluster.gpu_classes
    there = ", ".join(f"{count} {c.name}" for c, count in zip(classes, counts, strict=True))
    names = [one.model for one in wanted]
    needs = [_least_gpus(one.columns, len(counts)) for one in wanted]
    lines = [
        f"{_count(len(names), 'model')} ({named(names)}) cannot all be served as wanted by {there}: every "
        "model needs whole GPUs of its own for each stage.",
        f"Most are taken by {_takers(names, needs, problem.cluster)}.",
    ]
    left_out = _left_out(needs, counts)
    if left_out:
        fit = len(names) - len(left_out)
        lines.append(
            f"At most {_count(fit, 'model')} can have GPUs, for example all but "
            f"{named([names[m] for m in left_out])}; or with one of:"
        )
        lines += _more(needs, counts, problem.cluster)
    elif problem.options.objective is Objective.MIN_COST:
        lines.append("Each can have GPUs, but not enough of them for its rate: lower rates or add GPUs.")
    else:
        lines.append("Each can have GPUs, but no plan was found within the limits: add GPUs.")
    return Infeasible("\n".join(lines))


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _least_gpus(columns: Columns, classes: int) -> Ints:
    """[choice, class]: GPUs of each class that a pipeline has stages on, no choice within another."""
    stages = np.stack([(columns.gpu == g).sum(axis=1) for g in range(classes)], axis=1)
    kinds = np.unique(stages, axis=0)
    within = (kinds[:, None, :] <= kinds[None, :, :]).all(axis=2)
    return np.asarray(kinds[within.sum(axis=0) == 1])


def _takers(names: Sequence[str], needs: Sequence[Ints], cluster: Cluster) -> str:
    """The models with the largest least need; of those, the ones with the fewest choices."""
    order = sorted(range(len(names)), key=lambda m: (-int(needs[m].sum(axis=1).min()), len(needs[m])))
    texts = []
    for m in order[:MOST_NAMED]:
        choices = sorted(map(tuple, needs[m].tolist()), key=lambda choice: (sum(choice), choice))
        shown = [_gpus(choice, cluster) for choice in choices[:MOST_NAMED]]
        texts.append(f"{names[m]} ({' or '.join(shown)}{' or others' if len(choices) > MOST_NAMED else ''})")
    return ", ".join(texts)


def _gpus(choice: Sequence[int], cluster: Cluster) -> str:
    pairs = zip(choice, cluster.gpu_classes, strict=True)
    return " + ".join(f"{count} {gpu_class.name}" for count, gpu_class in pairs if count)


def _left_out(needs: Sequence[Ints], counts: Sequence[int]) -> list[int]:
    """The fewest models to leave out so that the others fit."""
    model = LinearProgram("left_out", maximise=False)
    out = [model.variable("out", upper=1, integer=True) for _ in needs]
    used = _choices(model, needs, [(one, 1.0) for one in out])
    for g, count in enumerate(counts):
        model.constrain(f"capacity_{g}", used[g], "<=", count)
    model.optimise([(one, 1.0) for one in out])
    solution = model.solve(LIMITS)
    return [m for m in range(len(needs)) if round(solution.values[m])] if solution.found else []


def _more(needs: Sequence[Ints], counts: Sequence[int], cluster: Cluster) -> list[str]:
    """A line for every class of which more GPUs alone would do."""
    lines = []
    for g, gpu_class in enumerate(cluster.gpu_classes):
        if not counts[g]:
            continue  # nothing is known of pipelines on it
        model = LinearProgram("more", maximise=False)
        more = model.variable(
            "more", upper=float(sum(need.sum(axis=1).max() for need in needs)), integer=True
        )
        used = _choices(model, needs, ())
        for other, count in enumerate(counts):
            extra = [(more, -1.0)] if other == g else []
            model.constrain(f"capacity_{other}", [*used[other], *extra], "<=", count)
        model.optimise([(more, 1.0)])
        solution = model.solve(LIMITS)
        if solution.found:
            lines.append(f"  at least {round(solution.values[0])} more {gpu_class.name}")
    return lines


def _choices(model: LinearProgram, needs: Sequence[Ints], left_out: Sequence[Term]) -> list[list[Term]]:
    """One choice for every model that is not left out; what all take of each class."""
    used: list[list[Term]] = [[] for _ in range(needs[0].shape[1])]
    for m, need in enumerate(needs):
        chosen = [model.variable("choice", upper=1, integer=True) for _ in need]
        model.constrain(f"one_{m}", [*((x, 1.0) for x in chosen), *left_out[m : m + 1]], "==", 1.0)
        for x, choice in zip(chosen, need, strict=True):
            for g, count in enumerate(choice):
                if count:
                    used[g].append((x, float(count)))
    return used
