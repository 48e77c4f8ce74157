"""A plan for people: a table for the terminal, and a picture of pipelines flowing through each class's pools.

The picture has one lane per GPU class. A box is a pool, at its stage's place from left to right; a band is a
pipeline, as wide as its frames/s, in its model's colour. The same plan gives the same bytes, PNG and SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve
from rich.console import Group, RenderableType
from rich.table import Table

from planner.latency_sources import estimates_note
from planner.plan import ModelPlan, Pipeline, Plan, Survival
from ppipe.figures import save_figure
from ppipe.plan_lanes import STAGE_WIDTH, FlowPool, blocks_text, busy_share, lanes_of, worker_text
from ppipe.wording import counted

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#9c755f")
LANE_COLOURS = ("#f4f6fa", "#faf6f0")
BOX_WIDTH, BOX_HEIGHT = 1.7, 0.62
WIDEST_BAND = 0.42


def plan_table(plan: Plan) -> RenderableType:
    """Pipelines, pools, batch, workers, planned frames/s, latency against SLO; below it the classes."""
    parts = [_pipelines(plan)]
    if plan.cascades:
        parts.append(_cascades(plan))
    if any(model.promise for model in plan.models):
        parts.append(_promises(plan))
    if plan.survival is not None:
        parts.append(_survival(plan.survival))
    parts.append(_classes(plan))
    if plan.entry:
        parts.append(_entry(plan))
    if plan.shards:
        parts.append(_shards(plan))
    return Group(*parts, _verdict(plan))


def _pipelines(plan: Plan) -> Table:
    note = "\n".join(filter(None, [estimates_note(plan.latency_sources), *_frames(plan)]))
    table = Table(title=f"Plan by {plan.planner}", caption=note or None, caption_justify="left")
    for name, justify in (
        ("model", "left"),
        ("stages", "left"),
        ("batch", "right"),
        ("planned rps", "right"),
        ("latency ms", "right"),
        ("SLO ms (margin)", "right"),
        ("bound by", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for model in plan.models:
        for number, pipeline in enumerate(model.pipelines):
            first = number == 0
            table.add_row(
                model.model if first else "",
                _stages_text(pipeline),
                "/".join(map(str, dict.fromkeys(stage.batch_size for stage in pipeline.stages))),
                f"{pipeline.throughput_rps:.1f}",
                f"{pipeline.latency_us / 1000:.1f}",
                f"{model.slo_us / 1000:.1f} ({model.slo_margin:.0%})" if first else "",
                ", ".join(model.bound_by) if first else "",
            )
        if model.note:
            table.add_row("", model.note)
        table.add_section()
    return table


def _cascades(plan: Plan) -> Table:
    """What each cascade serves, and how its SLO is divided."""
    table = Table(title="cascades: one SLO from a frame to all that comes of it")
    for name in ("cascade", "planned rps", "SLO ms", "model", "frames of", "each", "bunch", "its part ms"):
        left = name in ("cascade", "model", "frames of")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for cascade in plan.cascades:
        first = (cascade.name, f"{cascade.throughput_rps:.1f}", f"{cascade.slo_us / 1000:.1f}")
        for number, part in enumerate(cascade.parts):
            table.add_row(
                *(first if number == 0 else ("", "", "")),
                part.model,
                part.of or "clients",
                f"{part.frames:g}",
                f"{part.bunch:.3g}",
                f"{part.slo_us / 1000:.1f}",
            )
        table.add_section()
    return table


def _promises(plan: Plan) -> Table:
    """What each model serves within its SLO when reality is not the profile, and what that costs."""
    held = {model.promise.held_in for model in plan.models if model.promise}
    said = " / ".join(f"{share:.0%}" for share in sorted(held))
    table = Table(caption=f"guaranteed: served at 99 % in {said} of scenarios", caption_justify="left")
    for name in ("model", "guaranteed rps", "nominal rps", "unguarded rps", "given up"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for model in plan.models:
        if (promise := model.promise) is not None:
            rates = (promise.guaranteed_rps, promise.nominal_rps, promise.unguarded_rps)
            table.add_row(model.model, *(f"{rate:.1f}" for rate in rates), f"{promise.given_up:.0%}")
    return table


def _survival(survival: Survival) -> Table:
    """What is promised after any loss, what it costs, and which loss binds."""
    table = Table(title="promised after any one loss, in units of the models' weights")
    for name in ("promised", "no plan promises more than", "without a promise", "given up", "binding loss"):
        table.add_column(name, justify="left" if name == "binding loss" else "right", overflow="fold")
    table.add_row(
        f"{survival.promised:.2f}",
        f"{survival.bound:.2f} (gap {survival.gap:.1%})",
        f"{survival.without:.2f}",
        f"{survival.given_up:.0%}",
        f"{survival.binding} (of {survival.losses})",
    )
    return table


def _stages_text(pipeline: Pipeline) -> str:
    return "  →  ".join(
        f"{stage.workers}× {worker_text(stage)} {blocks_text(stage)}" for stage in pipeline.stages
    )


def _classes(plan: Plan) -> Table:
    table = Table()
    unit = "price of one more" if plan.gpu_price else ""
    sources = "latencies" if plan.latency_sources else ""
    costs = "cost per hour" if any(cost != used for cost, used in _costs(plan)) else ""
    for name in ("GPU class", "GPUs used", costs, "busy", unit, sources):
        if name:
            table.add_column(name, justify="left" if name in ("GPU class", sources) else "right")
    for gpu, used in plan.gpus_used.items():
        row = [gpu, str(used)]
        if costs:
            row.append(f"{plan.cost.get(gpu, 0.0):.2f}")
        row.append(f"{plan.utilisation.get(gpu, 0.0):.1%}")
        if unit:
            row.append(f"+{plan.gpu_price.get(gpu, 0.0):.4g}")
        if sources:
            row.append(plan.latency_sources.get(gpu, ""))
        table.add_row(*row)
    return table


def _costs(plan: Plan) -> Iterator[tuple[float, int]]:
    """Cost and number of the GPUs in use; equal where nobody stated what a GPU costs."""
    return ((plan.cost[gpu], used) for gpu, used in plan.gpus_used.items() if gpu in plan.cost)


def _frames(plan: Plan) -> Iterator[str]:
    """What each model's clients are planned to send, and what of that nobody stated or measured."""
    for model in plan.models:
        if (frame := model.frame) is None:
            continue
        pixels = f"{frame.width} x {frame.height} pixels, " if frame.pixels else ""
        text = f"{model.model}: a frame has {pixels}{_size(frame.bytes)}"
        if frame.assumed:
            text += " (assumed: state preprocess.frame)"
        if model.prepare_us:
            text += f", and takes {model.prepare_us / 1000:.1f} ms of a core to prepare"
            text += " (assumed)" if model.prepare_assumed else ""
        yield text


def _size(count: int) -> str:
    return (
        f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB" if count >= 1e4 else f"{count} B"
    )


def _entry(plan: Plan) -> Table:
    """What of the entry server the planned rates take, and what more of it is worth."""
    table = Table()
    for name in ("entry server", "there", "usable", "busy", "price of one more"):
        table.add_column(name, justify="left" if name == "entry server" else "right")
    for use in plan.entry:
        where = f"{use.server}: {use.resource}" if use.server else use.resource
        there = f"{use.capacity:g} {use.unit}" + ("s" if use.unit == "core" and use.capacity != 1 else "")
        table.add_row(where, there, f"{use.usable:.1%}", f"{use.busy:.1%}", f"+{use.price:.4g}")
    return table


def _shards(plan: Plan) -> Table:
    """Whose dispatchers schedule which part of each model, why so many, and what dividing the pools costs."""
    notes = ["cost: what random arrivals can use less than of undivided pools, if no frame is ever passed on"]
    if any(one.assumed for one in plan.shards):
        notes.append("what a dispatcher carries is assumed: measure it with scripts/benchmarks dispatch")
    for one in plan.shards:
        if one.too_few:
            carried = len(one.shards) * (one.dispatcher_rps or 0.0)
            notes.append(
                f"{one.model}: its {len(one.shards)} dispatchers carry {carried:.0f} frames/s; "
                f"the planned rate takes {one.for_rate} shards"
            )
    table = Table(title="shards", caption="\n".join(notes), caption_justify="left")
    for name in ("model", "shards by home", "for the rate", "a dispatcher carries", "cost"):
        table.add_column(name, justify="left" if name in ("model", "shards by home") else "right")
    for one in plan.shards:
        whole = sum(shard.throughput_rps for shard in one.shards)
        homes = ", ".join(f"{shard.order[0]} {shard.throughput_rps / whole:.0%}" for shard in one.shards)
        carries = "" if one.dispatcher_rps is None else f"{one.dispatcher_rps:.0f} rps"
        table.add_row(one.model, homes, str(one.for_rate), carries, f"{one.cost:.1%}")
    return table


def _verdict(plan: Plan) -> str:
    costs = f"; {sum(plan.cost.values()):.2f} per hour" if any(c != n for c, n in _costs(plan)) else ""
    return (
        f"objective {plan.objective:.2f}{costs}; no plan is better than {plan.upper_bound:.2f} "
        f"(gap {plan.gap:.3%}; {plan.solver})"
    )


def draw_plan(plan: Plan, *paths: Path) -> None:
    """Write the picture to each path; .png or .svg by its suffix. Raises ValueError for another one."""
    figure = _figure(plan)
    for path in paths:
        save_figure(figure, path)


def _figure(plan: Plan) -> Figure:
    lanes = lanes_of(plan)
    pools = [pool for lane in lanes for pool in lane.pools]
    depth = max((pool.position for pool in pools), default=0) + 1
    height = lanes[-1].top + lanes[-1].height if lanes else 1.0
    width = (depth + 0.9) * STAGE_WIDTH
    figure = Figure(figsize=(max(8.0, width * 0.95), max(3.0, height * 0.8 + 1.4)), layout="constrained")
    axes = figure.add_subplot()
    for number, lane in enumerate(lanes):
        _draw_lane(axes, plan, number, lane.at, lane.top, lane.height, width)
    widest = max((p.throughput_rps for m in plan.models for p in m.pipelines), default=1.0)
    starts = _draw_sources(axes, plan, pools)
    for m, model in enumerate(plan.models):
        for p, pipeline in enumerate(model.pipelines):
            chain = [pool for pool in pools if (pool.model, pool.pipeline) == (m, p)]
            band = WIDEST_BAND * pipeline.throughput_rps / widest
            _draw_flow(
                axes,
                starts[m],
                sorted(chain, key=lambda pool: pool.position),
                band,
                COLOURS[m % len(COLOURS)],
            )
    for pool in pools:
        _draw_pool(axes, plan.models[pool.model].pipelines[pool.pipeline], pool)
    axes.set_xlim(-STAGE_WIDTH * 0.75, width - STAGE_WIDTH * 0.75)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    bound = f"at most {plan.upper_bound:.1f} (gap {plan.gap:.2%})"
    axes.set_title(f"{plan.planner}: objective {plan.objective:.1f}, {bound}", fontsize=11)
    return figure


def _draw_lane(axes: Axes, plan: Plan, number: int, gpu: str, top: float, size: float, width: float) -> None:
    axes.axhspan(top, top + size, color=LANE_COLOURS[number % 2], zorder=0)
    price = f", price of one more: {plan.gpu_price[gpu]:.3g}" if gpu in plan.gpu_price else ""
    busy = f"{plan.utilisation.get(gpu, 0.0):.0%} of the class busy"
    source = f", latencies {plan.latency_sources[gpu]}" if gpu in plan.latency_sources else ""
    text = f"{gpu}: {counted(plan.gpus_used[gpu], 'GPU')} used, {busy}{price}{source}"
    axes.text(width - STAGE_WIDTH * 0.78, top + 0.1, text, fontsize=8, va="top", ha="right", color="#555555")


def _draw_sources(axes: Axes, plan: Plan, pools: Sequence[FlowPool]) -> list[tuple[float, float]]:
    """Model names on the left, each at the mean height of its first pools, apart from each other."""
    heights = []
    for m in range(len(plan.models)):
        mine = [pool.y for pool in pools if pool.model == m and pool.position == 0]
        heights.append(sum(mine) / len(mine) if mine else 0.5)
    for m in sorted(range(len(heights)), key=lambda number: heights[number]):
        above = [heights[o] for o in range(len(heights)) if o != m and 0 <= heights[m] - heights[o] < 0.6]
        heights[m] = max([heights[m], *(y + 0.6 for y in above if y <= heights[m])]) if above else heights[m]
    points = []
    for m, model in enumerate(plan.models):
        x = -STAGE_WIDTH * 0.7
        label = f"{_short(model)}\n{model.throughput_rps:.0f} frames/s"
        axes.text(
            x, heights[m], label, fontsize=8, va="center", color=COLOURS[m % len(COLOURS)], weight="bold"
        )
        points.append((STAGE_WIDTH * 0.02, heights[m]))
    return points


def _short(model: ModelPlan, length: int = 24) -> str:
    return model.model if len(model.model) <= length else model.model[: length - 1] + "…"


def _draw_flow(
    axes: Axes, start: tuple[float, float], chain: Sequence[FlowPool], band: float, colour: str
) -> None:
    x, y = start
    for pool in chain:
        _draw_band(axes, x, y, pool.x - BOX_WIDTH / 2, pool.y, band, colour)
        x, y = pool.x + BOX_WIDTH / 2, pool.y
    _draw_band(axes, x, y, x + 0.45, y, band, colour)


def _draw_band(axes: Axes, x0: float, y0: float, x1: float, y1: float, band: float, colour: str) -> None:
    """A band of constant height from (x0, y0) to (x1, y1), curved in between."""
    half, middle = max(0.02, band / 2), (x0 + x1) / 2
    points = [
        (x0, y0 - half), (middle, y0 - half), (middle, y1 - half), (x1, y1 - half),
        (x1, y1 + half), (middle, y1 + half), (middle, y0 + half), (x0, y0 + half), (x0, y0 - half),
    ]  # fmt: skip
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.CLOSEPOLY]
    axes.add_patch(PathPatch(Curve(points, codes), facecolor=colour, edgecolor="none", alpha=0.45, zorder=1))


def _draw_pool(axes: Axes, pipeline: Pipeline, pool: FlowPool) -> None:
    stage = pool.stage
    busy = busy_share(pipeline.throughput_rps, stage)
    corner = (pool.x - BOX_WIDTH / 2, pool.y - BOX_HEIGHT / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner,
            BOX_WIDTH,
            BOX_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="white",
            edgecolor=COLOURS[pool.model % len(COLOURS)],
            linewidth=1.4,
            zorder=2,
        )
    )
    first = f"{stage.workers} × {worker_text(stage)}"
    axes.text(pool.x, pool.y - 0.14, first, ha="center", va="center", fontsize=8.5, weight="bold", zorder=3)
    second = f"{blocks_text(stage)}, batch {stage.batch_size}, {busy:.0%} busy"
    axes.text(
        pool.x, pool.y + 0.15, second, ha="center", va="center", fontsize=6.3, color="#444444", zorder=3
    )
