"""Plans for what may happen, and what is made ready for it: for the loss of each single server.

Rules
- They are made in idle time, niced, one at a time, and the repository is given their workers, so that healing
  begins with a load. A plan counts as long as the mix is the one that it was made for.
- While a server is suspected, what its plan loads is loaded already, beside all that is there, if that plan
  would be rolled out; when nobody is suspected any more it is unloaded, and nothing is loaded early for
  AGAIN_S: servers that are silent for moments do not make others load and unload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, replace

from model_repo_generator.writing.write import WriteFault
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.problem import Problem
from planner.rollout.fleet import Tables
from ppipe.operate.measured import MeasureSettings, Rates, has_moved
from ppipe.operate.planners import Made, Planners
from ppipe.operate.replan import Truth
from ppipe.rollout.deployed import Deployed
from ppipe.rollout.history import HistoryFault
from ppipe.rollout.live import FleetDown
from ppipe.rollout.lock import RolloutBusy
from ppipe.rollout.rollout import load_early, unload_early
from ppipe.rollout.run import StepFailed

STALE_BY = 1.4
"""A plan for so many times the load, or so much less, is made anew: what it promises is of what comes."""

AGAIN_S = 60.0

NOT_ROLLED_OUT = (StepFailed, RolloutBusy, FleetDown, HistoryFault, WriteFault, ValueError, OSError)
"""What making a plan ready or rolling it out may end with; the loop goes on."""


@dataclass(frozen=True)
class ServedNow:
    """What is served: the manifest, its plan, and what that was made with."""

    manifest: DeploymentManifest
    plan: Plan
    truth: Truth


@dataclass(frozen=True)
class AskedPlan:
    """A plan that is being made. done_s: when it was first seen to be made."""

    truth: Truth
    made: Future[Made]
    done_s: float | None = None


class LossPlans:
    """See the module. problems: with different margins, of which the best plan counts. `say` hears of what
    could not be made ready.
    """

    def __init__(
        self,
        deployed: Deployed,
        problems: Sequence[Problem],
        planners: Planners,
        rates: Rates,
        settings: MeasureSettings,
        say: Callable[[str], None],
    ) -> None:
        self._deployed = deployed
        self._problems = problems
        self._planners = planners
        self._rates = rates
        self._settings = settings
        self._say = say
        self._kept: dict[str, AskedPlan] = {}
        """By server."""
        self._not_before_s = -AGAIN_S
        self.complete = False
        """Whether there is one for each server that is used, for the load as it was when last looked at."""

    def is_stale(self, asked: AskedPlan, truth: Truth) -> bool:
        """Whether a plan is of other servers, or of another load by more than chance or STALE_BY."""
        now_rps, then_rps = truth.rates_rps, asked.truth.rates_rps
        total, then = sum(now_rps.values()), sum(then_rps.values())
        seconds = self._rates.seconds or self._settings.window_s
        return (
            asked.truth.out != truth.out
            or not then / STALE_BY <= total <= then * STALE_BY
            or has_moved(now_rps, then_rps, seconds, self._settings)
        )

    def forget(self) -> None:
        """Another plan is served."""
        self._kept, self.complete = {}, False

    def plan_next(self, served: ServedNow, tables: Tables, truth: Truth) -> None:
        """For a server that a plan is lacking of, or whose plan is for another mix."""
        used = sorted({worker.server for table in tables.values() for _, worker in table.workers()})
        lacking = [server for server in used if self._lacks_plan(server, truth)]
        under_way = any(not kept.made.done() for kept in self._kept.values())
        self.complete = not lacking and not under_way
        if lacking and not under_way:
            after = replace(truth, out=truth.out | {lacking[0]})
            future = self._planners.idly(self._deployed, self._problems, after, served.plan)
            self._kept[lacking[0]] = AskedPlan(after, future)

    def _lacks_plan(self, server: str, truth: Truth) -> bool:
        kept = self._kept.get(server)
        after = replace(truth, out=truth.out | {server})
        return kept is None or self.is_stale(kept, after)

    def kept_for(self, served: ServedNow, truth: Truth) -> Made | None:
        """The plan for what is out beyond what the served plan was made without."""
        lost = truth.out - served.truth.out
        kept = self._kept.get(next(iter(lost))) if len(lost) == 1 else None
        if kept is None or not kept.made.done() or self.is_stale(kept, truth):
            return None
        try:
            return kept.made.result()
        except (ValueError, BrokenExecutor):
            return None

    def look(
        self,
        suspected: frozenset[str],
        served: ServedNow,
        truth: Truth,
        least_gain: float,
        now_s: float,
    ) -> None:
        """Have what the loss of a suspected server needs loaded, or unload it again. What is loaded early is
        asked each time: it is kept for who comes after a process that was killed.
        """
        try:
            early = self._deployed.early
            if not suspected and early is not None:
                self._not_before_s = now_s + AGAIN_S
                unload_early(self._deployed)
            if len(suspected) != 1 or early is not None or now_s < self._not_before_s:
                return
            made = self.kept_for(served, replace(truth, out=truth.out | suspected))
            if made is not None and made.ready is not None and made.promise.heals(least_gain):
                load_early(self._deployed, made.ready)
        except NOT_ROLLED_OUT as error:
            self._say(f"what may be loaded early: {error}")
