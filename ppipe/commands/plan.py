"""plan: from a profile to pipelines over pools of workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from planner import serial
from planner.absent import absent_classes
from planner.deployment import DeploymentError, load_deployment
from planner.losses import must_survive
from planner.plan import Plan
from planner.problem import Objective, Problem
from ppipe import steps
from ppipe.commands.arguments import DeploymentFile, WorkFolder, require_suffix
from ppipe.console import err, note_overrides, out, step
from ppipe.workspace import Workspace, save


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
            show_default="the deployment's",
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
    problem = with_options(deployment.to_problem(workspace.load_profile()), objective, max_stages, margin)
    _require_arrivals(problem)
    if problem.cascades and frontier is not None:
        raise DeploymentError("--frontier: not for cascades yet; leave it out, or plan without 'cascades'")
    if frontier is not None:
        _frontier(problem, frontier)
        return
    with step(f"plan: {planner}"):
        if margin == "auto":
            if planner != "ppipe":
                raise DeploymentError(f"--margin auto plans with ppipe, not {planner!r}; give a number")
            problem, made = _search_surviving(problem) if must_survive(problem) else _search_margin(problem)
            save(problem, workspace.problem)
            save(made, workspace.plan)
        else:
            made = steps.solve(problem, workspace, planner, mode)
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
    if margin is not None and margin != "auto":
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


def _search_surviving(problem: Problem) -> tuple[Problem, Plan]:
    """The problem with the margin whose plan promises most after any loss, and that plan."""
    from ppipe.simulation.judging import Judge
    from ppipe.simulation.survival import surviving_plan

    return surviving_plan(problem, Judge(links="placed"))


def _search_margin(problem: Problem) -> tuple[Problem, Plan]:
    """The problem with the margins whose plan guarantees most, and that plan; says what each tried gave. Of
    cascades the one margin whose plan serves most, latencies being as in the profile.
    """
    if problem.cascades:
        from ppipe.simulation.cascade_margin import cascade_margin_table, margin_of_cascades

        chosen, made, tried = margin_of_cascades(problem, links="placed")
        err.print(cascade_margin_table(tried, chosen.options.slo_margin))
        return chosen, made
    from ppipe.simulation.margin import MarginSearch, auto_margin
    from ppipe.simulation.view import margin_table

    found: MarginSearch = auto_margin(problem, links="placed")
    err.print(margin_table(found))
    return found.problem, found.plan
