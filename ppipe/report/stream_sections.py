"""What each stream got: frames that name one, by the event logs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.streams import StreamPolicy
from ppipe.report.content import Cell, Picture, Section, Table, number, share, table, text
from ppipe.report.graphs import Axis, GraphLine, line_graph
from ppipe.report.runs import Run, RunFrame, quantile_ms

MOST_PICTURES = 12
MOST_ROWS = 600
"""Of the table: those that got least for their weight."""


@dataclass(frozen=True)
class _Stream:
    """One stream in one run. part: the run with this stream's frames alone."""

    name: str
    weight: float
    part: Run

    @property
    def overtaking(self) -> int:
        """Frames that were computed before the one that came before them."""
        ends = [frame.ended_us for frame in self.part.frames.values() if frame.ended_us is not None]
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
    found: dict[str, dict[int, RunFrame]] = {}
    for request_id, frame in run.frames.items():
        if frame.stream:
            found.setdefault(frame.stream, {})[request_id] = frame
    return [
        _Stream(name, policy.weight_of(name), replace(run, frames=frames)) for name, frames in found.items()
    ]


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
    return [one.part.in_time / seconds / one.weight for one in streams]


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
    latencies, drops = one.part.latencies_us, one.part.drops
    dropped = ", ".join(f"{count} {why}" for why, count in sorted(drops.items())) or "0"
    return [
        text(run.model),
        text(one.name),
        number(one.weight),
        number(len(one.part.frames), 0),
        number(one.part.in_time, 0),
        number(over_weight * one.weight, 2),
        number(over_weight, 2),
        share(one.part.attainment),
        Cell(dropped, sum(drops.values())),
        number(one.overtaking, 0),
        *(number(quantile_ms(latencies, part)) for part in (0.5, 0.99)),
    ]
