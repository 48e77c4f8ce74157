"""Simulations of a plan's cascades: whole frames at a load, capacities, and a table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from rich.table import Table

from planner.cascades.data import Cascade
from planner.cascades.demands import divided_as_planned
from planner.plan import Plan
from planner.problem import Problem
from planner.serving import ServedModel
from planner.serving_build import Links, served_model
from python_backend.simulator.capacity import Workload, highest_reached, try_load
from python_backend.simulator.cascades import CascadeReport, MemberReport, is_reached, simulate_cascade

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
    plan: Plan,
    problem: Problem,
    workload: Workload,
    links: Links,
    grid: float = CAPACITY_GRID,
    reached_rps: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The highest load of every cascade of which 99 % of the frames are complete, in its own frames/s. grid:
    the share of the planned rate to which it is found. reached_rps: loads that are served, as is known.
    """
    known = reached_rps or {}
    found = {}
    for cascade in problem.cascades:
        planned_rps, least_rps = _planned_rps(plan, cascade), known.get(cascade.name, 0.0)
        rates = [planned_rps * grid * step for step in range(1, round(2 / grid) + 1)]
        rates = [rate for rate in rates if rate > least_rps]
        served = _served(plan, problem, cascade, links)
        reached = partial(_is_reached, cascade, served, rates, workload)
        index = highest_reached(rates, least_rps or planned_rps, reached)
        found[cascade.name] = rates[index] if index >= 0 else least_rps
    return found


def _is_reached(
    cascade: Cascade,
    served: Mapping[str, ServedModel],
    rates: Sequence[float],
    workload: Workload,
    index: int,
) -> bool:
    return is_reached(cascade, served, rates[index], workload)


def serve_enough(
    plan: Plan, problem: Problem, wanted_rps: Mapping[str, float], workload: Workload, links: Links
) -> bool:
    """Whether 99 % of the frames of every cascade, and of every model that is in none, are answered whole in
    time at these rates, by name.
    """
    apart = without_cascades(plan, problem)
    return all(
        is_reached(cascade, _served(plan, problem, cascade, links), wanted_rps[cascade.name], workload)
        for cascade in problem.cascades
    ) and all(
        try_load(
            served_model(apart, problem, model.model, links), "adaptive", wanted_rps[model.model], workload
        ).attainment
        is not None
        for model in apart.models
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
