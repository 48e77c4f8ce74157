"""What goes beyond single models and one entry: cascades, and which entry schedules which workers."""

from __future__ import annotations

from collections.abc import Iterator

from planner.cascades.data import PlannedCascade
from planner.plan import Plan
from planner.shards import ModelShards, Shard
from ppipe.report.content import Cell, Picture, Section, Table, number, share, table, text
from ppipe.report.graphs import stacked_bars

MOST_BARS = 36
"""Of one picture; tables hold all."""


def cascades_section(plan: Plan) -> Section | None:
    """How each cascade's SLO is divided among its models, and how many frames one makes for the next."""
    if not plan.cascades:
        return None
    words = (
        "One SLO holds from a frame to all that comes of it. Each model has its part of it, and as many "
        "frames as the models before it make.",
    )
    bars = [bar for cascade in plan.cascades for bar in _ways(cascade)]
    picture = stacked_bars("Parts of each way", "A bar for each way through a cascade", bars[:MOST_BARS])
    return Section("cascades", "Cascades", words, (picture,), (_members(plan),))


def _ways(cascade: PlannedCascade) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
    """A bar for each model that feeds no other: what the way to it takes of the SLO."""
    parts = {part.model: part for part in cascade.parts}
    feeding = {part.of for part in cascade.parts}
    for last in (part for part in cascade.parts if part.model not in feeding):
        way = [last]
        while way[0].of:
            way.insert(0, parts[way[0].of])
        stages = [(part.model, part.slo_us / 1e3) for part in way]
        yield f"{cascade.name} to {last.model}", stages, cascade.slo_us / 1e3


def _members(plan: Plan) -> Table:
    planned = {model.model: model.throughput_rps for model in plan.models}
    rows = [
        [
            text(cascade.name),
            text(part.model),
            text(part.of or "clients"),
            number(part.slo_us / 1e3),
            share(part.slo_us / cascade.slo_us),
            number(part.frames, 2, hint="for each frame of the cascade, on average"),
            number(part.bunch, 2, hint="frames that come at once, as one of them sees it"),
            number(planned.get(part.model)),
            number(cascade.throughput_rps),
        ]
        for cascade in plan.cascades
        for part in cascade.parts
    ]
    columns = (
        "cascade", "model", "fed by", "its SLO ms", "of the whole", "frames each", "bunch", "its frames/s",
        "cascade's frames/s",
    )  # fmt: skip
    return table("Models of cascades", columns, rows, keys=2)


def entries_section(plan: Plan) -> Section | None:
    """Whose dispatcher schedules which part of each model, who takes over, and what dividing costs."""
    if not plan.shards:
        return None
    words = [
        "Every entry serves every model. A model's workers are divided into shards; the dispatcher of one "
        "entry schedules a shard, and the next in its order takes it over when that entry is gone.",
    ]
    words += [line for one in plan.shards[:MOST_BARS] for line in _remarks(one)]
    return Section("entries", "Entries and shards", tuple(words), (_owned(plan),), (_shards(plan),))


def _remarks(one: ModelShards) -> Iterator[str]:
    if one.too_few:
        carried = len(one.shards) * (one.dispatcher_rps or 0.0)
        yield (
            f"{one.model}: its {len(one.shards)} dispatchers carry {carried:.0f} frames/s; the planned rate "
            f"takes {one.for_rate} shards."
        )
    if one.cost > 0:
        yield f"{one.model}: dividing its pools costs at most {one.cost:.1%}, were no frame ever passed on."


def _owned(plan: Plan) -> Picture:
    bars = []
    for one in plan.shards[:MOST_BARS]:
        parts: dict[str, float] = {}
        for shard in one.shards:
            parts[shard.order[0]] = parts.get(shard.order[0], 0.0) + shard.throughput_rps
        bars.append((one.model, list(parts.items()), sum(parts.values())))
    words = "A bar for each model: what the shards of each entry give of its planned frames/s"
    return stacked_bars("Planned frames/s by entry", words, bars, "frames/s", "planned rate")


def _shards(plan: Plan) -> Table:
    rows = [
        [
            text(one.model),
            number(place, 0),
            text(shard.order[0]),
            text(", ".join(shard.order[1:]) or "–"),
            number(shard.throughput_rps),
            number(_workers(shard), 0),
            _carried(one),
        ]
        for one in plan.shards
        for place, shard in enumerate(one.shards)
    ]
    columns = (
        "model",
        "shard",
        "home",
        "taken over by",
        "frames/s",
        "workers",
        "a dispatcher carries frames/s",
    )
    return table("Shards", columns, rows, keys=2)


def _workers(shard: Shard) -> int:
    return sum(len(stage) for pipeline in shard.workers for stage in pipeline)


def _carried(one: ModelShards) -> Cell:
    return number(one.dispatcher_rps, 0, hint="assumed, not measured" if one.assumed else "")
