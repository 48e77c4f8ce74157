"""plan: from a profile to pipelines over pools of workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from planner import serial
from planner.absent import absent_classes
from planner.deployment import SEARCHED, Deployment, DeploymentError, load_deployment
from planner.deployment.asked import asked_hash
from planner.plan import Plan
from planner.problem import Objective, Problem
from ppipe import steps
from ppipe.commands.arguments import DeploymentFile, WorkFolder, require_suffix
from ppipe.console import err, note_overrides, out, step
from ppipe.workspace import Workspace


def plan(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    planner: Annotated[str, typer.Option(help="ppipe, or a baseline: np, dart-r.")] = "ppipe",
    mode: Annotated[
        str, typer.Option(help="proven: to 1e-4 where it can; fast: for planning again at once.")
    ] = "proven",
    objective: Annotated[
        str | None, typer.Option(help="max-rate or min-cost.", show_default="the deployment's")
    ] = None,
    max_stages: Annotated[
        int | None,
        typer.Option(min=1, max=4, help="Most stages of a pipeline.", show_default="the deployment's"),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            help="Share of the SLO left unused, or 'auto': found by simulation.",
            show_default="the deployment's, else auto",
        ),
    ] = None,
    picture: Annotated[
        list[Path] | None, typer.Option(help="Draw the plan here, .png or .svg; may be given often.")
    ] = None,
    frontier: Annotated[
        Path | None,
        typer.Option(help="Only draw what each load costs at least, here, .png or .svg; plan nothing."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Choose pipelines, pools, batch sizes and workers, with a bound on how much better a plan could be."""
    from ppipe.plan_view import draw_plan, plan_table

    for path in picture or ():
        require_suffix("--picture", path, ".png", ".svg")
    require_suffix("--frontier", frontier, ".png", ".svg")
    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    asked = deployment.to_problem(workspace.load_profile())
    problem = with_options(asked, objective, max_stages, margin)
    _require_arrivals(problem)
    if problem.cascades and frontier is not None:
        raise DeploymentError("--frontier: not for cascades yet; leave it out, or plan without 'cascades'")
    if frontier is not None:
        _frontier(problem, frontier)
        return
    made = _planned(deployment, problem, workspace, planner, mode, margin, asked_hash(deployment, asked))
    if picture:
        draw_plan(made, *picture)
    if as_json:
        out.print(serial.dumps(made), end="", markup=False, soft_wrap=True)
        return
    out.print(plan_table(made))
    note_overrides(deployment)
    if absent := absent_classes(problem):
        text = f"no servers of {', '.join(absent)}: planned without; the price is what one such GPU would add"
        out.print(text, soft_wrap=True)
    for gpu, why in made.unusable.items():
        out.print(f"no pipeline can use {gpu}: {why}", soft_wrap=True, markup=False)
    out.print(str(workspace.plan), soft_wrap=True)


def _planned(
    deployment: Deployment,
    problem: Problem,
    workspace: Workspace,
    planner: str,
    mode: str,
    margin: str | None,
    asked: str,
) -> Plan:
    """The plan, saved with its problem; its margins searched where that is asked for, or nothing speaks
    against it. asked: see Plan.asked_hash.
    """
    if margin == SEARCHED and planner != "ppipe":
        raise DeploymentError(f"--margin auto plans with ppipe, not {planner!r}; give a number")
    why_not = _why_not_searched(deployment, problem, planner, mode) if margin is None else ""
    if why_not or margin not in (None, SEARCHED):
        with step(f"plan: {planner}"):
            made = steps.solve(problem, workspace, planner, mode, asked)
        if why_not and planner == "ppipe":
            steps.note_not_searched(why_not)
        elif why_not and deployment.stated_margin == SEARCHED:
            err.print(f"  planned with a margin of {problem.options.slo_margin:g}: {why_not}", markup=False)
        return made
    for model in deployment.models:
        if model.slo_margin is not None:
            text = f"  note: --margin auto searches in place of models.{model.name}.slo_margin"
            err.print(text, markup=False, soft_wrap=True)
    with step(f"plan: {planner}, margins by simulation"):
        found = steps.solve_searched(problem, workspace, asked)
    if found.tried is not None:
        err.print(found.tried)
    return found.plan


def _why_not_searched(deployment: Deployment, problem: Problem, planner: str, mode: str) -> str:
    from ppipe.simulation.searched import why_not_searched

    if planner != "ppipe":
        return f"{planner} is planned for throughput alone"
    if mode != "proven":
        return f"--mode {mode}"
    return why_not_searched(deployment, problem)


def _require_arrivals(problem: Problem) -> None:
    """Whatever the margin: what is expected would else be found wrong on the day that it is searched for."""
    from python_backend.simulator.arrivals import parse_arrivals
    from python_backend.simulator.errors import ArrivalError

    try:
        next(iter(parse_arrivals(problem.options.expect.arrivals, 1.0).times_us(1.0, 0)), None)
    except ArrivalError as error:
        raise DeploymentError(f"expect.arrivals: {error}") from error


def with_options(
    problem: Problem, objective: str | None, max_stages: int | None, margin: str | None
) -> Problem:
    """The problem with what the command line overrides. Raises DeploymentError."""
    changes: dict[str, Any] = {}
    if objective is not None:
        allowed = [one.value for one in Objective]
        if objective not in allowed:
            raise DeploymentError(f"--objective: {objective!r} is not one of {', '.join(allowed)}")
        changes["objective"] = Objective(objective)
    if max_stages is not None:
        changes["max_stages"] = max_stages
    if margin is not None and margin != SEARCHED:
        changes["slo_margin"] = _margin(margin)
        demands = tuple(replace(demand, slo_margin=None) for demand in problem.demands)
        problem = replace(problem, demands=demands)
    return replace(problem, options=replace(problem.options, **changes))


def _margin(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise DeploymentError(f"--margin: {text!r} is neither 'auto' nor a number from 0 to below 1")
    return value


def _frontier(problem: Problem, path: Path) -> None:
    from ppipe.frontier import draw_frontier, frontier, frontier_table

    with step("plan: frontier"):
        points = frontier(problem)
    draw_frontier(points, path)
    out.print(frontier_table(points))
    out.print(str(path), soft_wrap=True)
