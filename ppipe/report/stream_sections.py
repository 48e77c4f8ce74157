"""What each stream got: frames that name one, by the event logs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from planner.streams import StreamPolicy
from ppipe.report.content import Cell, Picture, Section, Table, number, share, table, text
from ppipe.report.graphs import Axis, GraphLine, line_graph
from ppipe.report.runs import Run, RunFrame
from python_backend.scheduler.actions import DropReason

MOST_PICTURES = 12
MOST_ROWS = 600
"""Of the table: those that got least for their weight."""


@dataclass
class _Stream:
    """One stream's frames in one run."""

    name: str
    weight: float
    frames: list[RunFrame] = field(default_factory=list)

    def in_time(self, slo_us: int) -> int:
        return sum(frame.latency_us is not None and frame.latency_us <= slo_us for frame in self.frames)

    @property
    def overtaking(self) -> int:
        """Frames that were computed before the one that came before them."""
        ends = [frame.ended_us for frame in self.frames if frame.ended_us is not None]
        return sum(later < earlier for earlier, later in itertools.pairwise(ends))


def streams_section(runs: Sequence[Run]) -> Section | None:
    """None where no frame names a stream."""
    found = [(run, streams) for run in runs if (streams := _streams(run))]
    if not found:
        return None
    words = ["Goodput over weight is what a stream got of what it is due; a level line is a fair share."]
    words += [line for run, streams in found for line in _words(run, streams)]
    pictures = tuple(_picture(run, streams) for run, streams in found[:MOST_PICTURES])
    return Section("streams", "Streams", tuple(words), pictures, (_table(found),))


def _streams(run: Run) -> list[_Stream]:
    policy = run.served.streams or StreamPolicy()
    found: dict[str, _Stream] = {}
    for frame in run.frames.values():
        if frame.stream:
            one = found.get(frame.stream)
            if one is None:
                one = found[frame.stream] = _Stream(frame.stream, policy.weight_of(frame.stream))
            one.frames.append(frame)
    return list(found.values())


def _words(run: Run, streams: Sequence[_Stream]) -> Iterator[str]:
    shares = _shares(run, streams)
    squares = sum(each**2 for each in shares)
    policy = run.served.streams
    said = f"{run.model}: {len(streams)} streams"
    if policy is not None:
        said += f" (order {policy.order}, keep {policy.keep}, share {policy.share})"
    if squares:
        jain = sum(shares) ** 2 / (len(shares) * squares)
        said += f"; Jain's index of goodput over weight is {jain:.4f}, 1 being equal"
    overtaking = sum(one.overtaking for one in streams)
    ordered = policy is not None and policy.order == "stream"
    held = ", and their answers were held back until then" if overtaking and ordered else ""
    yield f"{said}; {overtaking} frames were computed before an earlier one of their stream{held}."


def _shares(run: Run, streams: Sequence[_Stream]) -> list[float]:
    """Frames/s in time over weight, of each."""
    seconds = run.seconds or 1.0
    return [one.in_time(run.served.slo_us) / seconds / one.weight for one in streams]


def _picture(run: Run, streams: Sequence[_Stream]) -> Picture:
    shares = sorted(_shares(run, streams))
    points = tuple((100 * (place + 0.5) / len(shares), value) for place, value in enumerate(shares))
    most = max(shares) or 1.0
    return line_graph(
        f"{run.model}: goodput over weight",
        f"{len(streams)} streams, from {shares[0]:.2f} to {shares[-1]:.2f} frames/s for each unit of weight",
        (GraphLine("streams", points, "l0", dots=len(points) <= 100),),
        Axis("% of streams, ascending", 0.0, 100.0, "{:.0f}"),
        Axis("frames/s over weight", 0.0, 1.1 * most, "{:.1f}"),
    )


def _table(found: Sequence[tuple[Run, Sequence[_Stream]]]) -> Table:
    rows = [
        (each, _row(run, one, each))
        for run, streams in found
        for one, each in zip(streams, _shares(run, streams), strict=True)
    ]
    shown = sorted(rows, key=lambda pair: pair[0])[:MOST_ROWS] if len(rows) > MOST_ROWS else rows
    left_out = len(rows) - len(shown)
    note = f"{left_out} streams that got more for their weight are left out." if left_out else ""
    columns = (
        "model", "stream", "weight", "frames", "in time", "goodput frames/s", "over weight", "attainment",
        "dropped", "overtaking", "p50 ms", "p99 ms",
    )  # fmt: skip
    return table("What each stream got", columns, [row for _, row in shown], keys=2, note=note)


def _row(run: Run, one: _Stream, over_weight: float) -> list[Cell]:
    latencies = sorted(frame.latency_us for frame in one.frames if frame.latency_us is not None)
    drops = Counter(frame.why for frame in one.frames if frame.why)
    dropped = ", ".join(f"{count} {why}" for why, count in sorted(drops.items())) or "0"
    ended = len(latencies) + sum(drops.values()) - drops[DropReason.SUPERSEDED.value]
    in_time = one.in_time(run.served.slo_us)
    return [
        text(run.model),
        text(one.name),
        number(one.weight),
        number(len(one.frames), 0),
        number(in_time, 0),
        number(over_weight * one.weight, 2),
        number(over_weight, 2),
        share(in_time / ended if ended else None),
        Cell(dropped, sum(drops.values())),
        number(one.overtaking, 0),
        *(number(_at(latencies, part)) for part in (0.5, 0.99)),
    ]


def _at(ascending: Sequence[int], part: float) -> float | None:
    return ascending[min(len(ascending) - 1, int(part * len(ascending)))] / 1e3 if ascending else None
