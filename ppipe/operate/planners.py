"""Where the loop has plans made: in processes of their own, so that watching goes on meanwhile.

Rules
- What is needed now is planned by one process; what may be needed, by another, niced, in idle time.
- A plan that takes longer than `LONGEST_S` is not waited for: what is served goes on being served.
- A process that ends by itself costs the plan that it was making, and is started anew for the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.problem import Problem
from ppipe.operate.replan import Truth, plan_now, promise_of
from ppipe.operate.rules import PlanPromise
from ppipe.rollout.deployed import Deployed
from ppipe.rollout.preparing import make_ready

LONGEST_S = 1.0
_ALL = 0.99
"""Attainment beyond which plans differ by what more they could serve."""
_NICE = 19

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """A plan, and what it promises beside what is served. ready: its manifest, where the repository has
    all of its workers.
    """

    plan: Plan
    promise: PlanPromise
    ready: DeploymentManifest | None = None


def make_plan(
    problems: Sequence[Problem], truth: Truth, served: Plan, deployed: Deployed | None = None
) -> Made:
    """Runs in a planner's process. problems: the same with different margins; the plan of whichever serves
    most. deployed: whose repository is given what the plan needs. Raises Infeasible, ProblemError.
    """
    found: list[Made] = []
    faults: list[ValueError] = []
    for problem in problems:
        try:
            plan = plan_now(problem, truth, served)
        except ValueError as fault:
            faults.append(fault)
        else:
            found.append(Made(plan, promise_of(plan, served, problem, truth)))
    if not found:
        raise faults[0]
    best = max(found, key=_worth)
    return best if deployed is None else replace(best, ready=make_ready(deployed, best.plan))


def _worth(made: Made) -> tuple[float, float]:
    """What comes is served in time first of all; beyond that, the more the better."""
    return min(made.promise.simulated_planned, _ALL), made.promise.planned


class Planners:
    """Two processes. A context."""

    def __init__(self) -> None:
        self._now, self._idle = Planner(nice=0), Planner(nice=_NICE)

    def __enter__(self) -> Planners:
        # Importing a solver takes seconds, which a loss should not cost.
        for planner in (self._now, self._idle):
            planner.submit(os.getpid)
        return self

    def __exit__(self, *_: object) -> None:
        for planner in (self._now, self._idle):
            planner.close()

    def now(self, problems: Sequence[Problem], truth: Truth, served: Plan) -> Future[Made]:
        """At once. Its result raises BrokenExecutor where the process ended by itself."""
        return self._now.submit(make_plan, problems, truth, served)

    def idly(
        self, deployed: Deployed, problems: Sequence[Problem], truth: Truth, served: Plan
    ) -> Future[Made]:
        """When nothing else is to be done, with what it needs put into the repository."""
        return self._idle.submit(make_plan, problems, truth, served, deployed)


class Planner:
    """One process, started anew if it ended by itself."""

    def __init__(self, nice: int) -> None:
        self._nice = nice
        self._pool = self._started()

    def submit(self, make: Callable[P, T], *what: P.args, **named: P.kwargs) -> Future[T]:
        try:
            return self._pool.submit(make, *what, **named)
        except BrokenExecutor:
            self.close()
            self._pool = self._started()
            return self._pool.submit(make, *what, **named)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=os.nice, initargs=(self._nice,)
        )
