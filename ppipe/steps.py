"""The steps of the main job, each from files to files: what the commands and the demo both do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planner.deployment import Deployment
from planner.deployment.asked import asked_hash
from planner.plan import Plan
from planner.problem import Problem
from planner.profile import Profile
from ppipe.console import err, progress_bar
from ppipe.workspace import Workspace, save

if TYPE_CHECKING:
    from ppipe.simulation.searched import Searched


def run_profile(
    deployment: Deployment,
    workspace: Workspace,
    *,
    threads: int = 1,
    estimate: frozenset[str] = frozenset(),
    calibrate_with: Profile | None = None,
    repeats: int = 7,
    repeat_check: bool = False,
    neighbours: bool = False,
) -> Profile:
    """Split and time every model, and save that; see planner.profiling.run.ProfileOptions.

    Blocks are prepared as the stages' executor does. An interrupted run goes on from workspace.partial.
    """
    # torch takes seconds to import, which other commands need not pay.
    from planner.profiling.run import ProfileOptions, profile_deployment
    from python_backend.stage.executors.prepare import prepare

    options = ProfileOptions(
        threads=threads,
        estimate=estimate,
        calibrate_with=calibrate_with,
        repeats=repeats,
        repeat_check=repeat_check,
        neighbours=neighbours,
        prepare=prepare,
        partial=workspace.partial,
    )
    with progress_bar("profiling") as update:
        profile = profile_deployment(deployment, update, options)
    save(profile, workspace.profile)
    workspace.partial.unlink(missing_ok=True)
    return profile


def run_overheads(
    deployment: Deployment, profile: Profile, workspace: Workspace, servers: str = ""
) -> Profile:
    """Time stages and hops, on servers started here or on two running ones ('host:port,host:port'), and save
    the profile with what they cost. Raises ppipe.overheads.rig.OverheadError.
    """
    from planner.profiling.overhead import with_overheads
    from ppipe.overheads import measured as overheads
    from ppipe.overheads.rig import parse_servers

    if servers:
        there = parse_servers(servers)
        gbps = deployment.cluster.bandwidth_gbps
        found = overheads.measure_there(there, workspace.overheads, gbps)
    else:
        found = overheads.measure_here()
    profile = with_overheads(profile, found)
    save(profile, workspace.profile)
    return profile


def run_prepare(deployment: Deployment, profile: Profile, workspace: Workspace) -> Profile:
    """Time what preparing frames costs here, and save the profile with it."""
    from ppipe.prepare_times import with_prepare

    profile = with_prepare(deployment, profile)
    save(profile, workspace.profile)
    return profile


def run_plan(deployment: Deployment, profile: Profile, workspace: Workspace, planner: str) -> Plan:
    """Solve the deployment's problem with the margins that it states, or the paper's, and save problem and
    plan.
    """
    return solve(deployment.to_problem(profile), workspace, planner)


def run_plan_unasked(
    deployment: Deployment, profile: Profile, workspace: Workspace, slowly: bool = False
) -> Plan:
    """The plan of `ppipe plan` without options: its margins searched, where nothing speaks against it.
    slowly: by a simulator in plain Python too.
    """
    from ppipe.simulation.searched import why_not_searched

    problem = deployment.to_problem(profile)
    asked = asked_hash(deployment, problem)
    if why_not := why_not_searched(deployment, problem, slowly):
        note_not_searched(why_not)
        return solve(problem, workspace, "ppipe", asked=asked)
    return solve_searched(problem, workspace, asked).plan


def note_not_searched(why: str) -> None:
    """Say on standard error why margins were not searched."""
    err.print(f"  margins were not searched: {why}; --margin auto searches", markup=False, soft_wrap=True)


def solve(
    problem: Problem, workspace: Workspace, planner: str, mode: str = "proven", asked: str = ""
) -> Plan:
    """Solve a problem, and save it and its plan."""
    from planner.planning import plan as make_plan

    return _kept(problem, make_plan(problem, planner=planner, mode=mode), workspace, asked)


def solve_searched(problem: Problem, workspace: Workspace, asked: str = "") -> Searched:
    """Solve a problem with the margins that simulation finds; save the problem with them, and its plan."""
    from ppipe.simulation.searched import search_margins

    with progress_bar("searching margins") as update:
        found = search_margins(problem, update)
    for line in found.short:
        err.print(f"  note: {line}", markup=False, soft_wrap=True)
    return replace(found, plan=_kept(found.problem, found.plan, workspace, asked))


def _kept(problem: Problem, plan: Plan, workspace: Workspace, asked: str) -> Plan:
    """Save both. asked: see Plan.asked_hash."""
    if asked and asked != plan.problem_hash:
        plan = replace(plan, asked_hash=asked)
    save(problem, workspace.problem)
    save(plan, workspace.plan)
    return plan
