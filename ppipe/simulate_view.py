"""Simulations for people: tables, attainment against load, and a Gantt chart of reservations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from planner.plan import Plan
from planner.problem import Problem
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from ppipe.margin import MarginSearch
from python_backend.scheduler.actions import Action, Dispatch, Drop, Hop
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event
from python_backend.simulator.bound import Bound
from python_backend.simulator.capacity import Capacity, Workload, find_capacity, try_load
from python_backend.simulator.driver import Driver
from python_backend.simulator.report import Observer, SimulationReport, simulate

CAPACITY_GRID = 0.01
"""Capacities are found to this share of the planned rate."""
_COLOURS = ("#3b6fb6", "#d98c2b", "#4f9d69", "#b6473b", "#7d5ba6", "#6b6b6b")


def simulate_plan(
    plan: Plan,
    problem: Problem,
    load_factor: float | None = None,
    rate_rps: float | None = None,
    policy: str = "adaptive",
    workload: Workload | None = None,
    links: Links = "paper",
    progress: Callable[[str, int], None] | None = None,
    bound: bool = False,
    observe: Observer | None = None,
) -> tuple[SimulationReport, ...]:
    """Every model of a plan at `load_factor` times its planned rate, or each at `rate_rps`; with `bound`
    beside what no schedule can beat. `observe` sees every event with its actions.

    `progress(model, now_us)` is called now and then. Raises ValueError where neither or both rates are given.
    """
    if (load_factor is None) == (rate_rps is None):
        raise ValueError("give a load factor or a rate, not both")
    reports = []
    for model in plan.models:
        served = served_model(plan, problem, model.model, links)
        rate = rate_rps if rate_rps is not None else served.planned_rps * (load_factor or 0.0)
        told = None if progress is None else _told(progress, model.model)
        reports.append(simulate(served, rate, policy, workload, observe, told, bound))
    return tuple(reports)


def _told(progress: Callable[[str, int], None], model: str) -> Callable[[int], None]:
    return lambda now_us: progress(model, now_us)


def plan_capacities(
    plan: Plan,
    problem: Problem,
    policy: str = "adaptive",
    workload: Workload | None = None,
    links: Links = "paper",
) -> dict[str, Capacity]:
    """The highest load of every model that is served at 99 %, in steps of 1 % of its planned rate."""
    found = {}
    for model in plan.models:
        served = served_model(plan, problem, model.model, links)
        rates = [served.planned_rps * CAPACITY_GRID * step for step in range(1, 201)]
        found[model.model] = find_capacity(
            served, policy, rates, workload or Workload(), served.planned_rps * 0.95
        )
    return found


def clairvoyant_capacities(
    plan: Plan, problem: Problem, workload: Workload, links: Links = "paper"
) -> dict[str, float]:
    """Frames/s of every model above which no schedule serves 99 %; none where latencies vary."""
    if not workload.exact:
        return {}
    models = [served_model(plan, problem, model.model, links) for model in plan.models]
    return {served.model: Bound(served).capacity_rps(workload) for served in models}


def report_table(reports: Sequence[SimulationReport]) -> Table:
    """Reports side by side, one column per model."""
    table = Table(title=f"policy {reports[0].policy}, {reports[0].arrivals}, {reports[0].seconds:g} s")
    table.add_column("")
    for report in reports:
        table.add_column(report.model, justify="right")
    rows: list[tuple[str, Callable[[SimulationReport], str]]] = [
        ("offered, frames/s", lambda r: f"{r.offered / r.seconds:.0f}"),
        ("attainment", lambda r: f"{r.attainment:.2%}"),
        ("goodput, frames/s", lambda r: f"{r.goodput_rps:.0f}"),
        ("any schedule: at most", _of_bound),
        ("late", lambda r: str(r.late)),
        ("dropped", lambda r: ", ".join(f"{n} {why}" for why, n in r.drops.items()) or "0"),
        ("latency p50 / p90 / p99, ms", _latencies),
        ("batches by size", lambda r: ", ".join(f"{size}: {n}" for size, n in r.batch_sizes.items())),
        ("utilisation", lambda r: ", ".join(f"{gpu} {share:.0%}" for gpu, share in r.utilisation.items())),
        ("decision mean / p99, us", lambda r: f"{r.decision_mean_us:.1f} / {r.decision_p99_us:.1f}"),
    ]
    for name, show in rows:
        table.add_row(name, *(show(report) for report in reports))
    return table


def _of_bound(report: SimulationReport) -> str:
    if report.bound_in_time is None or report.share_of_bound is None:
        return "-"
    return f"{report.bound_in_time / max(1, report.offered):.2%}; this is {report.share_of_bound:.1%} of it"


def _latencies(report: SimulationReport) -> str:
    times_us = (report.latency_p50_us, report.latency_p90_us, report.latency_p99_us)
    return " / ".join(f"{time_us / 1e3:.1f}" for time_us in times_us)


def margin_table(search: MarginSearch) -> Table:
    """What each margin tried gave: planned and served frames/s of every model; the best is marked."""
    table = Table(title="margin by simulation: planned -> served at 99 %, frames/s")
    models = list(search.best.margins)
    for name in ("margins", "loss", "mode", *models, "score", ""):
        table.add_column(name, justify="left" if name == "margins" else "right")
    for candidate in sorted(search.tried, key=lambda one: -one.score):
        cells = [
            f"{candidate.planned_rps[model]:.0f} -> {candidate.served_rps[model]:.0f}"
            if model in candidate.planned_rps
            else "-"
            for model in models
        ]
        table.add_row(
            " ".join(f"{margin:g}" for margin in candidate.margins.values()),
            f"{candidate.loss_share:g}",
            candidate.mode,
            *cells,
            f"{candidate.score:.1f}",
            "best" if candidate is search.best else candidate.note,
        )
    return table


def draw_attainment(
    served: ServedModel,
    policies: Sequence[str],
    load_factors: Sequence[float],
    path: Path,
    workload: Workload,
) -> None:
    """PNG of attainment against load factor, one line per policy and one for what no schedule can beat, the
    99 % line in it."""
    figure, axes = _figure((7.0, 4.0))
    for policy, colour in zip(policies, _COLOURS, strict=False):
        loads = [
            try_load(served, policy, served.planned_rps * factor, workload, target=0.0)
            for factor in load_factors
        ]
        axes.plot(load_factors, [load.attainment for load in loads], marker="o", label=policy, color=colour)
    if workload.exact:
        bound = Bound(served)
        most = [bound.attainment(served.planned_rps * factor, workload) for factor in load_factors]
        axes.plot(load_factors, most, color="#222222", linestyle=":", label="any schedule, at most")
    axes.axhline(0.99, color="#888888", linewidth=0.8, linestyle="--")
    axes.set_xlabel(f"load factor (1 = {served.planned_rps:.0f} frames/s planned)")
    axes.set_ylabel("attainment")
    axes.set_title(served.model)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_gantt(
    served: ServedModel,
    policies: Sequence[str],
    rate_rps: float,
    path: Path,
    workload: Workload,
    window_us: tuple[int, int],
    most_workers: int = 8,
) -> None:
    """PNG of what is reserved on the first workers of every pool, one panel per policy, on the same arrivals.

    A bar is a stage of a batch, coloured by batch; thin bars are transfers into it; crosses are drops.
    """
    figure, panels = _figure((11.0, 3.6 * len(policies)), len(policies))
    for axes, policy in zip(panels if len(policies) > 1 else [panels], policies, strict=True):
        hops, drops_us, counts = _record(served, policy, rate_rps, workload)
        rows = _rows(served, most_workers)
        for batch_id, hop in hops:
            if hop.worker in rows and hop.end_us > window_us[0] and hop.transfer_start_us < window_us[1]:
                _bar(axes, rows[hop.worker], hop, _COLOURS[batch_id % len(_COLOURS)])
        shown = [time_us / 1e3 for time_us in drops_us if window_us[0] <= time_us <= window_us[1]]
        axes.plot(shown, [-1.0] * len(shown), "x", color="#b6473b", markersize=5)
        axes.set_yticks(
            [-1, *rows.values()], ["dropped", *(name.split(".", 1)[-1] for name in rows)], fontsize=6
        )
        axes.set_xlim(window_us[0] / 1e3, window_us[1] / 1e3)
        axes.invert_yaxis()
        axes.set_title(f"{policy}: attainment {counts:.1%} at {rate_rps:.0f} frames/s", fontsize=9)
    axes.set_xlabel("ms")
    _save(figure, path)


def _record(
    served: ServedModel, policy: str, rate_rps: float, workload: Workload
) -> tuple[list[tuple[int, Hop]], list[int], float]:
    hops: list[tuple[int, Hop]] = []
    drops_us: list[int] = []

    def observe(event: Event, now_us: int, actions: list[Action]) -> None:
        del event
        for action in actions:
            if isinstance(action, Dispatch):
                hops.extend((action.ticket.batch_id, hop) for hop in action.ticket.hops)
            elif isinstance(action, Drop):
                drops_us.append(now_us)

    driver = Driver(served, SchedulerCore(served, policy), observe=observe)
    counts = driver.run(iter(workload.times_us(rate_rps, workload.seeds[0], served.model)))
    return hops, drops_us, counts.attainment()


def _rows(served: ServedModel, most_workers: int) -> dict[str, int]:
    names = [
        worker.name
        for pipeline in served.pipelines
        for stage in pipeline.stages
        for worker in stage.workers[:most_workers]
    ]
    return {name: row for row, name in enumerate(names)}


def _bar(axes: Any, row: int, hop: Hop, colour: str) -> None:
    axes.broken_barh(
        [(hop.start_us / 1e3, (hop.end_us - hop.start_us) / 1e3)],
        (row - 0.38, 0.76),
        facecolor=colour,
        edgecolor="white",
        linewidth=0.4,
    )
    if hop.transfer_end_us > hop.transfer_start_us:
        length_us = hop.transfer_end_us - hop.transfer_start_us
        axes.broken_barh(
            [(hop.transfer_start_us / 1e3, length_us / 1e3)], (row + 0.3, 0.16), facecolor="#222222"
        )


def _figure(size: tuple[float, float], rows: int = 1) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
