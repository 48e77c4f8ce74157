"""What was served: attainment against load, where the SLO goes, latencies; by simulations, logs, benches."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator

from planner.plan import Plan
from ppipe.report.content import Cell, Picture, Section, Table, number, share, table, text
from ppipe.report.graphs import Axis, GraphLine, line_graph, stacked_bars
from ppipe.report.materials import Material
from ppipe.report.plan_sections import planned_parts_us
from ppipe.report.runs import Run, parts_us, quantile_ms

MOST_PICTURES = 12
"""Models that get a picture each; tables hold all."""
STEPS = 120
"""Points of a distribution."""


def attainment_section(lot: Material) -> Section | None:
    """Planned against served, and attainment at each load that was tried; None without a run of any kind."""
    rows = [*_run_rows(lot), *_simulation_rows(lot), *_bench_rows(lot)]
    if not rows and not lot.curves:
        return None
    columns = (
        "model", "how", "planned frames/s", "offered frames/s", "load", "attainment", "goodput frames/s",
        "late", "dropped", "p50 ms", "p99 ms",
    )  # fmt: skip
    models = list(dict.fromkeys([*(row[0].text for row in rows), *(curve.model for curve in lot.curves)]))
    pictures = (_curve(lot, model, rows) for model in models[:MOST_PICTURES])
    words = [
        "Attainment is the share of all frames that were answered within their SLO; drops count against it, "
        "but for frames that a newer one of their stream made worthless."
    ]
    words += [f"{run.model}'s event log: {run.note}" for run in lot.runs if run.note]
    return Section(
        "served",
        "Served within the SLO",
        tuple(words),
        tuple(picture for picture in pictures if picture is not None),
        (table("Planned and served", columns, rows, keys=2),) if rows else (),
    )


def _planned(plan: Plan | None, model: str) -> float | None:
    found = [one.throughput_rps for one in plan.models if one.model == model] if plan else []
    return found[0] if found else None


def _row(
    model: str, how: str, planned: float | None, offered: float, attainment: float | None, goodput: float
) -> list[Cell]:
    load = offered / planned if planned else None
    return [
        text(model), text(how), number(planned), number(offered), share(load, 0), share(attainment, 2),
        number(goodput),
    ]  # fmt: skip


def _run_rows(lot: Material) -> Iterator[list[Cell]]:
    for run in lot.runs:
        latencies = run.latencies_us
        dropped = ", ".join(f"{count} {why}" for why, count in sorted(run.drops.items())) or "0"
        goodput = run.in_time / run.seconds if run.seconds else 0.0
        planned = run.served.planned_rps
        yield [
            *_row(run.model, f"event log, {run.policy}", planned, run.offered_rps, run.attainment, goodput),
            number(len(latencies) - run.in_time, 0),
            Cell(dropped, sum(run.drops.values())),
            number(quantile_ms(latencies, 0.5)),
            number(quantile_ms(latencies, 0.99)),
        ]


def _simulation_rows(lot: Material) -> Iterator[list[Cell]]:
    for one in lot.simulations:
        dropped = ", ".join(f"{count} {why}" for why, count in one.drops.items()) or "0"
        how, planned = f"simulated, {one.policy}, {one.arrivals}", _planned(lot.plan, one.model)
        yield [
            *_row(one.model, how, planned, one.offered / one.seconds, one.attainment, one.goodput_rps),
            number(one.late, 0),
            Cell(dropped, sum(one.drops.values())),
            number(one.latency_p50_us / 1e3),
            number(one.latency_p99_us / 1e3),
        ]


def _bench_rows(lot: Material) -> Iterator[list[Cell]]:
    for system, bench in lot.benches.items():
        for model, score in bench.models.items():
            planned = _planned(lot.plan, model) if len(bench.models) > 1 else bench.planned_rps
            dropped = ", ".join(f"{count} {why}" for why, count in score.drops.items()) or "0"
            yield [
                *_row(
                    model,
                    f"measured, {system}",
                    planned,
                    score.offered_rps,
                    score.attainment,
                    score.goodput_rps,
                ),
                number(score.late, 0),
                Cell(dropped, sum(score.drops.values())),
                number(score.p50_ms),
                number(score.p99_ms),
            ]


def _curve(lot: Material, model: str, rows: list[list[Cell]]) -> Picture | None:
    """Attainment against load as a share of the planned rate; None where nothing has both."""
    lines = []
    for curve in lot.curves:
        if curve.model != model:
            continue
        for place, (policy, points) in enumerate(curve.lines.items()):
            pairs = tuple(zip(curve.load_factors, points, strict=True))
            lines.append(GraphLine(f"simulated, {policy}", pairs, f"l{place % 8}", dots=True))
        if curve.bound:
            pairs = tuple(zip(curve.load_factors, curve.bound, strict=True))
            lines.append(GraphLine("any schedule, at most", pairs, "l7"))
    for row in rows:
        load, attained = row[4].value, row[5].value
        if row[0].text == model and load is not None and attained is not None:
            lines.append(GraphLine(row[1].text, ((load, attained),), f"l{(len(lines) + 3) % 8}", dots=True))
    if not lines:
        return None
    loads = [x for line in lines for x, _ in line.points]
    least = min(y for line in lines for _, y in line.points)
    x = Axis("load (100 %: as planned)", math.floor(10 * min(*loads, 0.5)) / 10, max(1.1, *loads), "{:.0%}")
    marks = {"planned": 1.0}
    promised = [one for one in (lot.plan.models if lot.plan else ()) if one.model == model and one.promise]
    for one in promised:
        if one.promise and one.throughput_rps:
            marks["guaranteed"] = one.promise.guaranteed_rps / one.throughput_rps
    return line_graph(
        f"{model}: attainment against load",
        f"{len(lines)} lines or points; the least attainment is {least:.1%}",
        lines,
        x,
        Axis("attainment", max(0.0, math.floor(10 * least - 0.5) / 10), 1.0, "{:.1%}"),
        marks,
    )


def budget_section(lot: Material) -> Section | None:
    """Where the SLO goes, planned and served, part by part."""
    bars: list[tuple[str, list[tuple[str, float]], float]] = []
    for model in lot.plan.models if lot.plan else ():
        for name, parts in planned_parts_us(model):
            bars.append((name, [(part, us / 1e3) for part, us in parts], model.slo_us / 1e3))
        bars += [_run_bar(run) for run in lot.runs if run.model == model.model]
    known = {model.model for model in lot.plan.models} if lot.plan else set()
    bars += [_run_bar(run) for run in lot.runs if run.model not in known]
    if not bars:
        return None
    picture = stacked_bars(
        "Parts of the SLO",
        "What each part takes of the SLO; what is empty is left for forming batches and waiting",
        bars[: 3 * MOST_PICTURES],
    )
    words = (
        "Planned: a full batch. Served: the mean of answered frames. The frame of a bar is the whole SLO.",
    )
    return Section("budget", "Where the SLO goes", words, (picture,), (_parts_table(bars),))


def _run_bar(run: Run) -> tuple[str, list[tuple[str, float]], float]:
    parts = [(name, us / 1e3) for name, us in parts_us(run)]
    return f"{run.model}, served", parts, run.served.slo_us / 1e3


def _parts_table(bars: list[tuple[str, list[tuple[str, float]], float]]) -> Table:
    rows = [
        [text(name), text(part), number(ms, 2), share(ms / whole if whole else None)]
        for name, parts, whole in bars
        for part, ms in [*parts, ("left of the SLO", whole - sum(ms for _, ms in parts))]
    ]
    return table("Parts of the SLO in numbers", ("what", "part", "ms", "of the SLO"), rows, keys=2)


def latency_section(lot: Material) -> Section | None:
    """Distribution of latencies of each log; frames without an answer keep its line below 1."""
    runs = [run for run in lot.runs if run.frames]
    if not runs:
        return None
    longest = max([1.0, *(run.latencies_us[-1] / run.served.slo_us for run in runs if run.latencies_us)])
    lines = [
        GraphLine(run.model, tuple(_distribution(run, min(longest, 3.0))), f"l{place % 8}")
        for place, run in enumerate(runs[:MOST_PICTURES])
    ]
    picture = line_graph(
        "Latencies of all frames",
        "; ".join(f"{run.model}: {run.attainment or 0:.1%} within the SLO" for run in runs[:MOST_PICTURES]),
        lines,
        Axis("latency as a share of the SLO", 0.0, max(1.2, min(longest, 3.0)), "{:.0%}"),
        Axis("share of frames answered by then", 0.0, 1.0, "{:.0%}"),
        {"SLO": 1.0},
    )
    columns = ("model", "frames", "answered", "p50 ms", "p90 ms", "p99 ms", "longest ms", "SLO ms")
    rows = [
        [
            text(run.model),
            number(len(run.frames), 0),
            number(len(found), 0),
            *(number(quantile_ms(found, part)) for part in (0.5, 0.9, 0.99, 1.0)),
            number(run.served.slo_us / 1e3),
        ]
        for run in runs
        for found in [run.latencies_us]
    ]
    return Section("latency", "Latencies", (), (picture,), (table("Latencies", columns, rows),))


def _distribution(run: Run, longest: float) -> Iterator[tuple[float, float]]:
    found, count = run.latencies_us, max(1, len(run.frames))
    for step in range(STEPS + 1):
        at = longest * step / STEPS
        yield at, bisect_right(found, at * run.served.slo_us) / count
