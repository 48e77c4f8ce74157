"""Simulations of whole plans for people: every model at a load, its capacity, and tables of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table

from planner.plan import Plan
from planner.problem import Problem
from planner.serving_build import Links, served_model
from ppipe.simulation.margin import Candidate, MarginSearch
from python_backend.scheduler.event_log import EventLog
from python_backend.simulator.bound import Bound
from python_backend.simulator.capacity import Capacity, Workload, find_capacity
from python_backend.simulator.report import SimulationReport, simulate

CAPACITY_GRID = 0.01
"""Capacities are found to this share of the planned rate."""


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
    log: EventLog | None = None,
) -> tuple[SimulationReport, ...]:
    """Every model of a plan at `load_factor` times its planned rate, or each at `rate_rps`; with `bound`
    beside what no schedule can beat. `log` gets every event with its actions.

    `progress(model, now_us)` is called now and then. Raises ValueError where neither or both rates are given.
    """
    if (load_factor is None) == (rate_rps is None):
        raise ValueError("give a load factor or a rate, not both")
    reports = []
    for model in plan.models:
        served = served_model(plan, problem, model.model, links)
        rate = rate_rps if rate_rps is not None else served.planned_rps * (load_factor or 0.0)
        told = None if progress is None else _told(progress, model.model)
        reports.append(simulate(served, rate, policy, workload, None, told, bound, log))
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
    if any(report.streams for report in reports):
        rows += [
            ("superseded", lambda r: str(r.superseded)),
            ("Jain's index of streams", lambda r: "-" if r.jain is None else f"{r.jain:.4f}"),
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


def _rung(candidate: Candidate, model: str) -> str:
    """A margin, and after a plus sign how much of a batch counts as room for bursts."""
    room = candidate.batch_rooms[model]
    return f"{candidate.margins[model]:g}" + (f"+{room:g}" if room else "")


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
            " ".join(_rung(candidate, model) for model in models),
            f"{candidate.loss_share:g}",
            candidate.mode,
            *cells,
            f"{candidate.score:.1f}",
            "best" if candidate is search.best else candidate.note,
        )
    return table
