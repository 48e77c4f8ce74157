"""A plan as flows: a lane for each GPU class, a box for each pool, a band for each pipeline, as wide as its
frames/s, in its model's colour.
"""

from __future__ import annotations

from planner.plan import Plan
from ppipe.plan_lanes import FlowPool, blocks_text, busy_share, lanes_of, worker_text
from ppipe.report.content import Label, Path, Picture, Rect, Shape
from ppipe.wording import counted

COLOURS = 8
"""Classes c0, c1, ... of the style sheet."""
SCALE = 62.0
"""Units of the picture for one of the lanes' units."""
BOX_WIDTH, BOX_HEIGHT = 132.0, 40.0
LEFT = 150.0
WIDEST_BAND = 26.0
CHARACTERS = 22


def draw_flows(plan: Plan) -> Picture:
    """The picture; its hints have the numbers."""
    lanes = lanes_of(plan)
    pools = [pool for lane in lanes for pool in lane.pools]
    depth = max((pool.position for pool in pools), default=0) + 1
    width = LEFT + depth * 3.2 * SCALE + 30
    height = (lanes[-1].top + lanes[-1].height if lanes else 1.0) * SCALE
    shapes: list[Shape] = []
    for number, lane in enumerate(lanes):
        shapes.append(Rect(0, lane.top * SCALE, width, lane.height * SCALE, f"lane{number % 2}"))
        shapes.append(Label(width - 8, lane.top * SCALE + 16, _lane_text(plan, lane.at), "small", "end"))
    widest = max((p.throughput_rps for m in plan.models for p in m.pipelines), default=1.0) or 1.0
    shapes += _sources(plan, pools)
    chains: dict[tuple[int, int], list[FlowPool]] = {}
    for pool in pools:
        chains.setdefault((pool.model, pool.pipeline), []).append(pool)
    for (m, p), chain in chains.items():
        rate = plan.models[m].pipelines[p].throughput_rps
        chain.sort(key=lambda pool: pool.position)
        shapes += _bands(plan, chain, max(2.0, WIDEST_BAND * rate / widest))
    shapes += [shape for pool in pools for shape in _box(plan, pool)]
    words = ", ".join(
        (
            counted(len(plan.models), "model"),
            counted(len(chains), "pipeline"),
            counted(len(pools), "pool"),
            counted(len(lanes), "class", "classes"),
        )
    )
    return Picture("Pipelines through the GPU classes", words, width, height, tuple(shapes))


def _lane_text(plan: Plan, at: str) -> str:
    price = f", one more: +{plan.gpu_price[at]:.3g}" if at in plan.gpu_price else ""
    return f"{at}: {counted(plan.gpus_used[at], 'GPU')}, {plan.utilisation.get(at, 0.0):.0%} busy{price}"


def _sources(plan: Plan, pools: list[FlowPool]) -> list[Shape]:
    """Each model's name beside its topmost first pool."""
    shapes: list[Shape] = []
    seen: set[int] = set()
    for pool in sorted(pools, key=lambda one: one.y):
        if pool.position == 0 and pool.model not in seen:
            seen.add(pool.model)
            model = plan.models[pool.model]
            name = model.model if len(model.model) <= CHARACTERS else model.model[: CHARACTERS - 1] + "…"
            shapes.append(Label(8, pool.y * SCALE - 3, name, f"name t{pool.model % COLOURS}"))
            shapes.append(Label(8, pool.y * SCALE + 12, f"{model.throughput_rps:.0f} frames/s", "small"))
    return shapes


def _at(pool: FlowPool) -> tuple[float, float]:
    """Left end of a pool's box, and its middle's height."""
    return LEFT + (pool.x - 1.2) * SCALE, pool.y * SCALE


def _bands(plan: Plan, chain: list[FlowPool], thick: float) -> list[Shape]:
    model = plan.models[chain[0].model]
    pipeline = model.pipelines[chain[0].pipeline]
    hint = (
        f"{model.model}, pipeline {chain[0].pipeline}: {pipeline.throughput_rps:.1f} frames/s, "
        f"{pipeline.latency_us / 1e3:.1f} ms of {model.slo_us / 1e3:g} ms"
    )
    style = f"band s{chain[0].model % COLOURS}"
    points = [(LEFT - 22, _at(chain[0])[1])]
    for pool in chain:
        x, y = _at(pool)
        points += [(x, y), (x + BOX_WIDTH, y)]
    points.append((points[-1][0] + 26, points[-1][1]))
    return [
        Path(_band(*points[place], *points[place + 1]), style, hint, thick)
        for place in range(0, len(points), 2)
    ]


def _band(x0: float, y0: float, x1: float, y1: float) -> str:
    """Its middle; as a stroke it is as wide where it is steep."""
    middle = (x0 + x1) / 2
    return f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"


def _box(plan: Plan, pool: FlowPool) -> list[Shape]:
    model, stage = plan.models[pool.model], pool.stage
    busy = busy_share(model.pipelines[pool.pipeline].throughput_rps, stage)
    x, y = _at(pool)
    hint = (
        f"{model.model}, pipeline {pool.pipeline}, stage {pool.position + 1}: {stage.workers} × "
        f"{worker_text(stage)}, {blocks_text(stage)}, batch {stage.batch_size} in "
        f"{stage.latency_us / 1e3:.1f} ms, {busy:.0%} busy"
    )
    middle = x + BOX_WIDTH / 2
    return [
        Rect(x, y - BOX_HEIGHT / 2, BOX_WIDTH, BOX_HEIGHT, f"box s{pool.model % COLOURS}", hint),
        Label(middle, y - 3, f"{stage.workers} × {worker_text(stage)}", "strong", "middle"),
        Label(middle, y + 13, f"{blocks_text(stage)}, batch {stage.batch_size}", "small", "middle"),
    ]
