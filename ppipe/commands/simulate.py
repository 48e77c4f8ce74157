"""simulate: the scheduler core of the live dispatchers on virtual time, before anything is rented."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer

from planner import serial
from planner.deployment import DeploymentError, load_deployment
from planner.latency_sources import estimates_note
from planner.plan import Plan
from planner.problem import Problem
from planner.serving_build import Links, served_model
from ppipe.commands.arguments import ArrivalsText, WorkFolder, require_suffix
from ppipe.console import err, out, progress_bar
from ppipe.workspace import Workspace, save
from python_backend.scheduler.event_log import EventLog
from python_backend.scheduler.policies import POLICIES
from python_backend.simulator.capacity import Capacity, Workload
from python_backend.simulator.jitter import Jitter

CURVE_LOADS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)
GANTT_LENGTH_SLOS = 3
"""How many SLOs long the charted window is; it begins after as many, when queues have formed."""


def simulate(
    what: Annotated[Path, typer.Argument(help="A deployment file, or a plan.json that `ppipe plan` wrote.")],
    work: WorkFolder = None,
    load_factor: Annotated[
        float | None,
        typer.Option(min=0.0, help="Offered load as a share of the planned.", show_default="0.9"),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.0, help="Offered frames/s of every model.")] = None,
    arrivals: ArrivalsText = "poisson",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the load.")] = 30.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same frames.")] = 1,
    policy: Annotated[str, typer.Option(help=f"One of {', '.join(POLICIES)}.")] = "adaptive",
    jitter: Annotated[float, typer.Option(min=0.0, help="Spread of stage latencies, as a share.")] = 0.0,
    stragglers: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of stage runs that take --straggler-factor as long."),
    ] = 0.0,
    straggler_factor: Annotated[
        float, typer.Option(min=1.0, help="How much longer a straggler takes.")
    ] = 3.0,
    frame_spread: Annotated[
        float, typer.Option(min=0.0, help="Spread of frames' bytes: standard deviation over mean.")
    ] = 0.0,
    streams: Annotated[
        int,
        typer.Option(min=0, help="Streams per model, whose frames come in turn.", show_default="none"),
    ] = 0,
    links: Annotated[
        str, typer.Option(help="placed: as the live system has them; paper: as the paper groups them.")
    ] = "placed",
    find_capacity: Annotated[
        bool, typer.Option("--find-capacity", help="Find the highest load with attainment >= 0.99.")
    ] = False,
    curve: Annotated[
        Path | None,
        typer.Option(help="Attainment against load, a line per policy: PNG, SVG, or JSON for ppipe report."),
    ] = None,
    gantt: Annotated[
        Path | None, typer.Option(help="PNG or SVG of what is reserved when, on the same arrivals.")
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(help="Write every event with its actions, a line of JSON each: same seed, same bytes."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Serve a recorded log again: as it was, and by --policy and --plan. See `record`."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="With --replay: a plan.json to compare with; problem.json beside it.")
    ] = None,
    no_bound: Annotated[
        bool, typer.Option("--no-bound", help="Leave out the most that any schedule could serve.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Serve a plan in simulation: attainment, goodput, drops, latencies, utilisation."""
    from ppipe.simulation import view
    from ppipe.simulation.cascades import without_cascades

    if links not in ("placed", "paper"):
        raise DeploymentError(f"--links: {links!r} is not one of placed, paper")
    if rate is not None and load_factor is not None:
        raise DeploymentError("--rate and --load-factor: give one of them")
    if policy not in POLICIES:
        raise DeploymentError(f"--policy: {policy!r} is not one of {', '.join(POLICIES)}")
    if replay is not None:
        _replay(replay, () if policy == "adaptive" else (policy,), plan, cast(Links, links), as_json)
        return
    if plan is not None:
        raise DeploymentError("--plan goes with --replay; without it WHAT names the plan")
    require_suffix("--curve", curve, ".png", ".svg", ".json")
    require_suffix("--gantt", gantt, ".png", ".svg")
    workspace = _workspace(what, work)
    made, problem = workspace.load_plan(), workspace.load_problem()
    chosen = cast(Links, links)
    _require_pipelines(made)
    if made.cascades:
        _require_no_pictures(curve, gantt, events, policy)
        if frame_spread:
            raise DeploymentError(
                f"--frame-spread {frame_spread:g}: frames of cascades have the planned size; leave it out"
            )
    try:
        varying = Jitter(jitter, straggler_probability=stragglers, straggler_factor=straggler_factor)
    except ValueError as error:
        raise DeploymentError(f"--jitter, --stragglers, --straggler-factor: {error}") from error
    workload = Workload(
        arrivals=arrivals,
        seconds=seconds,
        seeds=(seed,),
        jitter=varying,
        frame_spread=frame_spread,
        streams=streams,
    )
    factor = None if rate is not None else (0.9 if load_factor is None else load_factor)
    if made.cascades:
        _print_cascades(made, problem, factor, rate, workload, chosen, find_capacity, as_json)
        made = without_cascades(made, problem)
        if not made.models:
            _print_entries(made, as_json)
            return
    if find_capacity:
        _print_capacities(
            view.plan_capacities(made, problem, policy, workload, chosen),
            view.clairvoyant_capacities(made, problem, workload, chosen) if not no_bound else {},
            made,
            as_json,
        )
    else:
        with progress_bar("simulating", total=int(seconds * 1e6)) as update, _log(events) as log:
            reports = view.simulate_plan(
                made,
                problem,
                factor,
                rate,
                policy,
                workload,
                chosen,
                lambda model, now_us: update(model, now_us, None),
                not no_bound,
                log,
            )
        if as_json:
            out.print(json.dumps(serial.to_plain(reports)), markup=False, soft_wrap=True)
        else:
            out.print(view.report_table(reports))
    if not as_json and (note := estimates_note(made.latency_sources)):
        out.print(note)
    _print_entries(made, as_json)
    _draw(made, problem, chosen, policy, workload, factor, rate, curve, gantt)


def _print_entries(made: Plan, as_json: bool) -> None:
    """That what was simulated has one scheduler where the plan has several."""
    if not as_json and made.shards:
        said = f"{len(made.shards[0].shards[0].order)} entries: simulated as one scheduler of all workers"
        out.print(f"{said}; shards serve a few percent less (docs/scheduler.md)")


def _require_no_pictures(curve: Path | None, gantt: Path | None, events: Path | None, policy: str) -> None:
    """Raises DeploymentError for what is of single models."""
    given = {"--curve": curve, "--gantt": gantt, "--events": events}
    for option, path in given.items():
        if path is not None:
            raise DeploymentError(
                f"{option}: of models by themselves, and this plan has cascades; leave it out"
            )
    if policy != "adaptive":
        raise DeploymentError(f"--policy: {policy!r}; cascades are served by adaptive")


def _print_cascades(
    made: Plan,
    problem: Problem,
    factor: float | None,
    rate: float | None,
    workload: Workload,
    links: Links,
    find_capacity: bool,
    as_json: bool,
) -> None:
    from ppipe.simulation.cascades import cascade_capacities, cascade_table, simulate_cascades

    if not find_capacity:
        reports = simulate_cascades(made, problem, factor, rate, workload, links)
        if as_json:
            out.print(json.dumps(serial.to_plain(reports)), markup=False, soft_wrap=True)
        else:
            out.print(cascade_table(reports))
        return
    capacities = cascade_capacities(made, problem, workload, links)
    planned = {cascade.name: cascade.throughput_rps for cascade in made.cascades}
    rows = [
        {"cascade": name, "capacity_rps": found, "planned_rps": planned[name]}
        for name, found in capacities.items()
    ]
    if as_json:
        out.print(json.dumps(rows), markup=False, soft_wrap=True)
    for name, found in () if as_json else capacities.items():
        out.print(
            f"cascade {name}: {found:.1f} frames/s, 99 % of them complete, {found / planned[name]:.0%} of "
            f"the planned {planned[name]:.1f}"
        )


def _replay(path: Path, policies: Sequence[str], plan: Path | None, links: Links, as_json: bool) -> None:
    from ppipe.simulation.replay import replay_file, replay_table, verdict

    workspace = None if plan is None else Workspace(plan.parent)
    other = None if plan is None else serial.load(Plan, plan)
    problem = None if workspace is None else workspace.load_problem()
    try:
        found = list(replay_file(path, policies, other, problem, links))
    except OSError as error:
        raise DeploymentError(f"--replay {path}: {error.strerror or error}") from error
    if not found:
        raise DeploymentError(f"--replay {path}: the file is empty")
    for one in found:
        if as_json:
            out.print(json.dumps(serial.to_plain(one)), markup=False, soft_wrap=True)
        else:
            out.print(replay_table(one))
            out.print(verdict(one), markup=False, soft_wrap=True)
    if any(not one.exact and one.replayed.header.from_start for one in found):
        raise typer.Exit(1)


def _require_pipelines(made: Plan) -> None:
    for model in made.models:
        if not model.pipelines:
            why = f" ({model.note})" if model.note else ""
            raise DeploymentError(
                f"model {model.model}: the plan has no pipeline for it{why}, so nothing can be simulated; "
                "plan it with a longer slo_ms, a smaller slo_margin or more GPUs, or leave it out"
            )


@contextmanager
def _log(path: Path | None) -> Iterator[EventLog | None]:
    """Writes events to `path`, where one is given."""
    if path is None:
        yield None
        return
    try:
        with path.open("w", encoding="utf-8") as file:
            yield EventLog(file)
    except OSError as error:
        raise DeploymentError(f"--events {path}: {error.strerror or error}") from error


def _workspace(what: Path, work: Path | None) -> Workspace:
    """The working folder that `what` stands for."""
    if what.suffix == ".json":
        return Workspace(what.parent)
    if what.is_dir():
        return Workspace(what)
    return Workspace.of(load_deployment(what).name, work)


def _print_capacities(
    capacities: dict[str, Capacity], clairvoyant_rps: dict[str, float], made: Plan, as_json: bool
) -> None:
    planned = {model.model: model.throughput_rps for model in made.models}
    rows = [
        {
            "model": name,
            "capacity_rps": capacity.load_rps,
            "planned_rps": planned[name],
            "load_factor": capacity.load_rps / planned[name] if planned[name] else 0.0,
            "clairvoyant_rps": clairvoyant_rps.get(name),
        }
        for name, capacity in capacities.items()
    ]
    if as_json:
        out.print(json.dumps(rows), markup=False, soft_wrap=True)
        return
    for row in rows:
        out.print(
            f"{row['model']}: {row['capacity_rps']:.1f} frames/s at 99 % attainment, "
            f"{row['load_factor']:.0%} of the planned {row['planned_rps']:.1f}"
            + (f"; any schedule: at most {row['clairvoyant_rps']:.1f}" if row["clairvoyant_rps"] else "")
        )


def _draw(
    made: Plan,
    problem: Problem,
    links: Links,
    policy: str,
    workload: Workload,
    factor: float | None,
    rate: float | None,
    curve: Path | None,
    gantt: Path | None,
) -> None:
    from ppipe.simulation.curve import attainment_curve
    from ppipe.simulation.pictures import draw_attainment, draw_gantt

    for model in made.models if curve or gantt else ():
        served = served_model(made, problem, model.model, links)
        if curve:
            path = _named(curve, model.model, made.models)
            points = attainment_curve(served, tuple(POLICIES), CURVE_LOADS, workload)
            save(points, path) if path.suffix == ".json" else draw_attainment(points, path)
            err.print(str(path), markup=False, soft_wrap=True)
        if gantt:
            path = _named(gantt, model.model, made.models)
            rate_rps = rate if rate is not None else served.planned_rps * (factor or 0.0)
            window = (GANTT_LENGTH_SLOS * served.slo_us, 2 * GANTT_LENGTH_SLOS * served.slo_us)
            policies = list(dict.fromkeys((policy, "reference")))
            draw_gantt(served, policies, rate_rps, path, workload, window)
            err.print(str(path), markup=False, soft_wrap=True)


def _named(path: Path, model: str, models: Sequence[object]) -> Path:
    """`path` for one of several models: the model's name before the suffix."""
    return path if len(models) == 1 else path.with_name(f"{path.stem}-{model}{path.suffix}")
