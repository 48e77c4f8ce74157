"""What a plan's models bear in simulation: the load that holds in most scenarios, and the nominal one.

Rules
- Loads are looked for on a grid of GRID of the planned rate, beginning where the closed form
  (planner.queueing) says.
- A simulation of a fast model is cut short at ENOUGH_FRAMES, for what a share of 1 % needs is frames: its
  work must not grow with the fleet. It lasts at least LEAST_SLOS of the model's SLOs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from planner import serial
from planner.expectation import Expectation
from planner.plan import ModelPlan, Plan
from planner.problem import Problem
from planner.rates import variation_us
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from planner.usable import usable_share
from ppipe.simulation.scenarios import Scenario, scenarios_of, workloads
from python_backend.simulator.capacity import TARGET, Workload, find_capacity
from python_backend.simulator.guarantee import computed_rps, load_in_most, loads_in

GRID = 0.005
"""Loads are found to this share of the planned rate."""
PROMISE_GRID = 0.01
"""What is promised comes from the mean and the spread of many loads, each of which may be coarser."""
LEAST_LOAD, MOST_LOAD = 0.05, 1.3
"""Of the planned rate."""
ENOUGH_FRAMES, LEAST_SLOS = 6_000, 20
"""Times the standard deviation of arrivals, for bursty ones."""
TIMES, KEEPS = 2.0, 0.75
"""Jitter is never known well: at TIMES as much a plan should still serve KEEPS of its load."""
STEADY = Expectation(jitter=0.0, slowdown=0.0)
"""Latencies as profiled, Poisson arrivals."""


@dataclass(frozen=True)
class Judge:
    """How plans are simulated."""

    policy: str = "adaptive"
    links: Links = "paper"

    def served_alike(self, made: Plan, problem: Problem, model: ModelPlan) -> str:
        """Equal for plans of a model that serve alike, whatever they were made for."""
        served = served_model(made, problem, model.model, self.links)
        return serial.dumps(served) + serial.dumps(replace(model, slo_margin=0.0, bound_by=(), promise=None))

    def held_rps(
        self,
        made: Plan,
        problem: Problem,
        scenarios: Sequence[Scenario],
        seconds: float,
        most_rps: float | None = None,
    ) -> Mapping[str, float]:
        """Of every model the load served at 99 % in the share PlanOptions.expect.held_in of the scenarios; of
        a brittle plan only as much as leaves KEEPS of it at TIMES the jitter. most_rps: nobody asks for more
        of any model, and to see that so much is held is quick.
        """
        held = self._in_scenarios(load_in_most, made, problem, scenarios, seconds, most_rps)
        return {
            model.model: self._not_brittle(made, problem, model, scenarios, seconds, held[model.model])
            for model in made.models
        }

    def loads_rps(
        self, made: Plan, problem: Problem, name: str, scenarios: Sequence[Scenario], seconds: float
    ) -> list[float]:
        """What one model serves at 99 % in each scenario."""
        model = made.model(name)
        served = served_model(made, problem, name, self.links)
        if served.planned_rps <= 0:
            return [0.0] * len(scenarios)
        met = workloads(scenarios, problem, model, long_enough_s(served, problem.options.dispersion, seconds))
        return loads_in(
            served, self.policy, grid_rps(served, PROMISE_GRID), met, self._guess(problem, model, served)
        )

    def computed_rps(
        self, made: Plan, problem: Problem, name: str, scenarios: Sequence[Scenario]
    ) -> list[float]:
        """What one model's workers can compute in each scenario, which nobody simulates for."""
        served = served_model(made, problem, name, self.links)
        met = workloads(scenarios, problem, made.model(name), 1.0)
        return [computed_rps(served, one) for one in met]

    def nominal_rps(self, made: Plan, problem: Problem, seconds: float) -> Mapping[str, float]:
        """Of every model the load served at 99 % under Poisson arrivals, latencies as planned."""
        seeds = tuple(scenario.seed for scenario in scenarios_of(2))
        found = {}
        for model in made.models:
            served = served_model(made, problem, model.model, self.links)
            workload = Workload("poisson", long_enough_s(served, 1.0, seconds), seeds)
            guess = expected_rps(served, [0.0] * len(served.pipelines), 1.0)
            found[model.model] = (
                find_capacity(served, self.policy, grid_rps(served), workload, guess).load_rps
                if served.planned_rps > 0
                else 0.0
            )
        return found

    def _not_brittle(
        self,
        made: Plan,
        problem: Problem,
        model: ModelPlan,
        scenarios: Sequence[Scenario],
        seconds: float,
        held_rps: float,
    ) -> float:
        served = served_model(made, problem, model.model, self.links)
        seconds = long_enough_s(served, problem.options.dispersion, seconds)
        worse = workloads(scenarios, problem, model, seconds, TIMES)
        if held_rps <= 0 or worse == workloads(scenarios, problem, model, seconds):
            return held_rps
        least_rps, held_in = KEEPS * held_rps, problem.options.expect.held_in
        rates = [rate for rate in grid_rps(served) if rate < least_rps]
        left = load_in_most(served, self.policy, [*rates, least_rps], worse, held_in, least_rps)
        return left / KEEPS

    def _in_scenarios(
        self,
        load: Callable[..., float],
        made: Plan,
        problem: Problem,
        scenarios: Sequence[Scenario],
        seconds: float,
        most_rps: float | None = None,
    ) -> Mapping[str, float]:
        options, found = problem.options, dict.fromkeys((model.model for model in made.models), 0.0)
        for model in made.models:
            served = served_model(made, problem, model.model, self.links)
            if served.planned_rps <= 0:
                continue
            long_s = long_enough_s(served, options.dispersion, seconds)
            met = workloads(scenarios, problem, model, long_s)
            least = min(computed_rps(served, one) for one in met) / computed_rps(served, Workload())
            rates, guess = grid_rps(served), self._guess(problem, model, served) * least
            if most_rps is not None:
                rates, guess = [*(rate for rate in rates if rate < most_rps), most_rps], most_rps
            found[model.model] = load(served, self.policy, rates, met, options.expect.held_in, guess)
        return found

    def _guess(self, problem: Problem, model: ModelPlan, served: ServedModel) -> float:
        profile = problem.profile.model(model.model)
        kept = [variation_us(profile, one.stages, problem.options) for one in model.pipelines]
        return expected_rps(served, kept, problem.options.dispersion)


def long_enough_s(served: ServedModel, dispersion: float, seconds: float) -> float:
    """How long to simulate a model: at most `seconds`."""
    frames = ENOUGH_FRAMES * math.sqrt(max(1.0, dispersion))
    enough_s = frames / served.planned_rps if served.planned_rps > 0 else seconds
    return min(seconds, max(enough_s, LEAST_SLOS * served.slo_us / 1e6))


def grid_rps(served: ServedModel, grid: float = GRID) -> list[float]:
    """The loads to choose from, ascending."""
    steps = range(round(LEAST_LOAD / grid), round(MOST_LOAD / grid) + 1)
    return [served.planned_rps * grid * step for step in steps]


def expected_rps(model: ServedModel, kept_us: Sequence[float], dispersion: float) -> float:
    """What random arrivals can use by planner.queueing, on the links that the model is served on. kept_us: by
    pipeline, for latencies that vary.
    """
    frames, total = 0.0, 0.0
    for pipeline, kept in zip(model.pipelines, kept_us, strict=True):
        batch = pipeline.batch_size
        path_us = kept + sum(stage.latency_us[batch - 1] for stage in pipeline.stages)
        path_us += sum(hop[batch - 1] for hop in pipeline.transfer_us)
        rate = min(
            1e6 * batch * len(stage.workers) / stage.latency_us[batch - 1] for stage in pipeline.stages
        )
        frames += rate * max(0, model.slo_us - path_us) / 1e6 - (batch - 1) * rate / model.planned_rps
        total += rate
    share = usable_share(max(0.0, round(frames, 1)), 1 - TARGET, dispersion)
    return min(total, model.planned_rps) * share
