"""Says what is wrong where no plan holds under what is expected, and what would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.expectation import Expectation
from planner.explain import Infeasible
from planner.plan import ModelPlan, Plan
from planner.planning import plan
from planner.problem import Problem
from ppipe.simulation.judging import Judge
from ppipe.simulation.scenarios import scenarios_of

LONGER_SLOS = (1.25, 1.5, 2.0, 3.0)
SCENARIOS, SECONDS = 3, 6.0


class NoPromise(Infeasible):
    """A model of which no load can be promised; the message names what is expected and what would do."""


def require_promises(made: Plan, problem: Problem, judge: Judge) -> None:
    """Raises NoPromise where nothing is guaranteed of a model."""
    hopeless = [model for model in made.models if model.promise and not model.promise.guaranteed_rps]
    if hopeless:
        raise NoPromise("\n".join(line for model in hopeless for line in _explained(model, problem, judge)))


def _explained(model: ModelPlan, problem: Problem, judge: Judge) -> Iterator[str]:
    assert model.promise is not None
    expect = problem.options.expect
    yield (
        f"{model.model}: no plan that was tried serves 99 % of any load in {expect.held_in:.0%} of the "
        f"scenarios ({_expected(problem)}). With latencies as profiled and Poisson arrivals this one serves "
        f"{model.promise.nominal_rps:.0f} frames/s."
    )
    slo_ms = model.slo_us / 1000
    for longer in LONGER_SLOS:
        if _holds(_with_slo(problem, model.model, longer), model.model, judge):
            yield f"  An SLO of {slo_ms * longer:g} ms in place of {slo_ms:g} ms would do."
            break
    yield "  A plan without a promise is made with a margin that is stated, as --margin 0.1."
    for field, changed in _eased(expect):
        dispersion = problem.options.dispersion if changed.arrivals == expect.arrivals else 1.0
        other = replace(problem, options=replace(problem.options, expect=changed, dispersion=dispersion))
        if changed != expect and _holds(other, model.model, judge):
            yield f"  So would `{field}` in expect."


def _eased(expect: Expectation) -> Iterator[tuple[str, Expectation]]:
    """One expectation less at a time."""
    yield "arrivals: poisson", replace(expect, arrivals="poisson")
    yield "jitter: 0", replace(expect, jitter=0.0, jitter_by_class={})
    yield "slowdown: 0", replace(expect, slowdown=0.0, slowdown_by_class={})
    yield "stragglers: 0", replace(expect, stragglers=0.0)


def _expected(problem: Problem) -> str:
    """What differs from the profile, in the file's words."""
    expect = problem.options.expect
    stated = {
        "jitter": expect.jitter_by_class or expect.jitter,
        "slowdown": expect.slowdown_by_class or expect.slowdown,
        "stragglers": expect.stragglers or None,
        "arrivals": expect.arrivals,
    }
    return ", ".join(
        f"{name} {value if value is not None else 'as profiled'}"
        for name, value in stated.items()
        if not (name == "stragglers" and value is None)
    )


def _with_slo(problem: Problem, name: str, longer: float) -> Problem:
    demands = tuple(
        replace(demand, slo_us=round(demand.slo_us * longer)) if demand.model == name else demand
        for demand in problem.demands
    )
    return replace(problem, demands=demands)


def _holds(problem: Problem, name: str, judge: Judge) -> bool:
    try:
        made = plan(problem, mode="fast")
    except ValueError:
        return False
    alone = replace(made, models=(made.model(name),))
    return judge.held_rps(alone, problem, scenarios_of(SCENARIOS), SECONDS)[name] > 0
