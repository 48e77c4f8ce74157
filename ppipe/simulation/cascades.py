"""Simulations of a plan's cascades: whole frames at a load, capacities, and a table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.table import Table

from planner.cascades.data import Cascade
from planner.cascades.demands import divided_as_planned
from planner.plan import Plan
from planner.problem import Problem
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from python_backend.simulator.capacity import TARGET, Workload, highest_reached
from python_backend.simulator.cascades import CascadeReport, MemberReport, simulate_cascade

CAPACITY_GRID = 0.01
"""Capacities are found to this share of the planned rate."""


def simulate_cascades(
    plan: Plan,
    problem: Problem,
    load_factor: float | None,
    rate_rps: float | None,
    workload: Workload,
    links: Links,
) -> tuple[CascadeReport, ...]:
    """Every cascade of a plan at `load_factor` times its planned rate, or each at `rate_rps`, of its own
    frames.
    """
    reports = []
    for cascade in problem.cascades:
        rate = _planned_rps(plan, cascade) * (load_factor or 0.0) if rate_rps is None else rate_rps
        reports.append(simulate_cascade(cascade, _served(plan, problem, cascade, links), rate, workload))
    return tuple(reports)


def cascade_capacities(
    plan: Plan, problem: Problem, workload: Workload, links: Links, grid: float = CAPACITY_GRID
) -> dict[str, float]:
    """The highest load of every cascade of which 99 % of the frames are complete, in its own frames/s. grid:
    the share of the planned rate to which it is found.
    """
    return {
        cascade.name: _capacity_rps(
            cascade, _served(plan, problem, cascade, links), _planned_rps(plan, cascade), workload, grid
        )
        for cascade in problem.cascades
    }


def _capacity_rps(
    cascade: Cascade, served: dict[str, ServedModel], planned_rps: float, workload: Workload, grid: float
) -> float:
    rates = [planned_rps * grid * step for step in range(1, round(2 / grid) + 1)]
    index = highest_reached(
        rates, planned_rps, lambda index: _attainment(cascade, served, rates[index], workload) >= TARGET
    )
    return rates[index] if index >= 0 else 0.0


def _attainment(
    cascade: Cascade, served: dict[str, ServedModel], rate_rps: float, workload: Workload
) -> float:
    """Mean over the workload's seeds."""
    each = [dataclasses.replace(workload, seeds=(seed,)) for seed in workload.seeds]
    return sum(simulate_cascade(cascade, served, rate_rps, one).attainment for one in each) / len(each)


def serve_enough(
    plan: Plan, problem: Problem, wanted_rps: dict[str, float], workload: Workload, links: Links
) -> bool:
    """Whether 99 % of every cascade's frames are complete at these rates, by cascade."""
    return all(
        _attainment(cascade, _served(plan, problem, cascade, links), wanted_rps[cascade.name], workload)
        >= TARGET
        for cascade in problem.cascades
    )


def _served(plan: Plan, problem: Problem, cascade: Cascade, links: Links) -> dict[str, ServedModel]:
    inner = divided_as_planned(problem, plan)
    return {each.model: served_model(plan, inner, each.model, links) for each in cascade.members}


def _planned_rps(plan: Plan, cascade: Cascade) -> float:
    return next(one.throughput_rps for one in plan.cascades if one.name == cascade.name)


def without_cascades(plan: Plan, problem: Problem) -> Plan:
    """The plan of the models that are in no cascade."""
    inner = {member.model for cascade in problem.cascades for member in cascade.members}
    models = tuple(model for model in plan.models if model.model not in inner)
    return dataclasses.replace(plan, models=models)


def cascade_table(reports: Sequence[CascadeReport]) -> Table:
    """A column per cascade; its members below."""
    table = Table(title=f"cascades: {reports[0].arrivals}, {reports[0].seconds:g} s")
    table.add_column("")
    for report in reports:
        table.add_column(report.cascade, justify="right")
    table.add_row("offered, frames/s", *(f"{one.offered / one.seconds:.1f}" for one in reports))
    table.add_row("complete in time", *(f"{one.attainment:.2%}" for one in reports))
    table.add_row("partial / declined", *(f"{one.partial} / {one.declined}" for one in reports))
    if any(one.superseded for one in reports):
        table.add_row("superseded", *(str(one.superseded) for one in reports))
    latencies = (f"{one.latency_p50_us / 1e3:.1f} / {one.latency_p99_us / 1e3:.1f}" for one in reports)
    table.add_row("latency p50 / p99, ms", *latencies)
    members = ("\n".join(_member(one) for one in report.members) for report in reports)
    table.add_row("of a model's frames in time", *members)
    return table


def _member(member: MemberReport) -> str:
    share = member.in_time / member.frames if member.frames else 1.0
    return f"{member.model}: {share:.2%} of {member.frames}"
