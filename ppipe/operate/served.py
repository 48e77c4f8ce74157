"""What is served when the loop begins, and what it plans for; a rollout that was stopped, brought to its end.

Rules
- A rollout that was killed, or whose way back failed, leaves a fleet between two revisions. It is taken up
  as `ppipe rollout` does: to its target, or, where that cannot be any more, back to its origin.
"""

from __future__ import annotations

from dataclasses import replace

from planner import serial
from planner.deployment.asked import is_searched
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.problem import Problem
from planner.rollout.check import RolloutFault
from ppipe.operate.loss_plans import ServedNow
from ppipe.operate.replan import Truth
from ppipe.rollout.deployed import Deployed, start_of
from ppipe.rollout.history import HistoryEntry
from ppipe.rollout.rollout import Progress, Rows, perform
from ppipe.workspace import MissingResult


def what_is_served(deployed: Deployed) -> ServedNow:
    """The revision that is served, with its plan. Raises RolloutFault where the plan is not known."""
    manifest = start_of(deployed).manifest
    plan = _plan_of(deployed, manifest)
    used = {worker.gpu.server for worker in deployed.revision(manifest).workers.values()}
    there = {server.name for server in manifest.servers}
    return ServedNow(
        manifest, plan, Truth(out=frozenset(there - used) if manifest.epoch > 1 else frozenset())
    )


def problems_of(deployed: Deployed) -> tuple[Problem, ...]:
    """What the deployment asks, as it states it; and with the margins that were searched for the plan of its
    working folder, if that answers the same. Those find better plans and take longer (planner.queueing). A
    file that cannot be read keeps nobody from planning.
    """
    stated = deployed.deployment.to_problem(deployed.profile)
    try:
        found, plan = deployed.workspace.load_problem(), deployed.workspace.load_plan()
    except (MissingResult, ValueError, OSError):
        return (stated,)
    if serial.content_hash(found) != plan.problem_hash:
        return (stated,)
    if not is_searched(found, plan, deployed.deployment, stated):
        return (stated,)
    return stated, replace(found, cluster=stated.cluster)


def _plan_of(deployed: Deployed, manifest: DeploymentManifest) -> Plan:
    """What is kept under a number may be of an earlier repository: ppipe generate counts from 1 again."""
    kept = deployed.kept.plan(manifest.epoch)
    if kept is not None and serial.content_hash(kept) == manifest.plan_hash:
        return kept
    plan = deployed.workspace.load_plan()
    if serial.content_hash(plan) != manifest.plan_hash:
        raise RolloutFault(
            f"{deployed.workspace.plan}: not the plan that is served ({manifest.plan_hash}); roll it out "
            "first, or plan and generate again"
        )
    return plan


def take_up(deployed: Deployed, progress: Progress, before: Rows) -> HistoryEntry | None:
    """Bring the rollout that was stopped to its end; None where none was. Raises as perform."""
    stopped = start_of(deployed).stopped
    if stopped is None:
        return None
    why = f"the rollout from revision {stopped.origin} to {stopped.target} was stopped ({stopped.why})"
    try:
        target = deployed.kept.manifest(stopped.target)
        return perform(deployed, target, "rollout", why, progress, before=before)
    except RolloutFault:  # it needs a server that is lost by now, say
        origin = deployed.kept.manifest(stopped.origin)
        return perform(deployed, origin, "rollout", why, progress, before=before)
