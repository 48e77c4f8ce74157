"""What was done to a deployment: its rollouts, why, and each model's figures before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from planner import serial
from ppipe.report.content import Cell, Picture, Section, Table, number, table, text
from ppipe.report.graphs import COLOURS, Axis, GraphLine, line_graph
from ppipe.rollout.history import HistoryEntry, ModelFigures

START = '{"at"'
"""What every line of a history begins with."""


def read_history(path: Path) -> tuple[list[HistoryEntry], str]:
    """Its whole lines, oldest first, and what is wrong with the last one, '' where nothing is.

    Raises planner.serial.FormatError for another line that is no rollout.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries: list[HistoryEntry] = []
    for place, line in enumerate(lines, start=1):
        try:
            entries.append(serial.loads(HistoryEntry, line, f"{path}:{place}"))
        except serial.FormatError as error:
            if place < len(lines) or not entries:
                raise
            return entries, f"{path}: the last line is cut off, and left out ({error})"
    return entries, ""


def history_section(entries: Sequence[HistoryEntry]) -> Section:
    """Every rollout, and what it did for each model."""
    done = sum(entry.outcome == "done" for entry in entries)
    words = (f"{len(entries)} rollouts, of which {done} were done and {len(entries) - done} failed.",)
    tables = (_rollouts(entries), _figures(entries))
    return Section("history", "What was done to it", words, tuple(_pictures(entries)), tables)


def _pictures(entries: Sequence[HistoryEntry]) -> Iterator[Picture]:
    """What each model's tables carried, before and after each rollout; none where a time cannot be read."""
    try:
        began = [datetime.fromisoformat(entry.at) for entry in entries]
        minutes = [(each - began[0]).total_seconds() / 60 for each in began]
    except (TypeError, ValueError):
        return
    lines: dict[str, list[tuple[float, float]]] = {}
    for entry, at in zip(entries, minutes, strict=True):
        for side, when in ((entry.before, at), (entry.after, at + entry.seconds / 60)):
            for model, figures in side.items():
                lines.setdefault(model, []).append((when, figures.capacity_rps))
    most = max((rate for points in lines.values() for _, rate in points), default=0.0)
    end = max((when for points in lines.values() for when, _ in points), default=0.0)
    if most > 0 and len(lines) <= COLOURS:
        drawn = [
            GraphLine(model, tuple(sorted(points)), f"l{number}", dots=True)
            for number, (model, points) in enumerate(lines.items())
        ]
        yield line_graph(
            "Frames/s carried",
            f"{len(entries)} rollouts within {end:.1f} minutes",
            drawn,
            Axis("minutes since the first rollout", 0.0, end or 1.0, "{:.1f}"),
            Axis("frames/s", 0.0, 1.05 * most, "{:.0f}"),
        )


def _rollouts(entries: Sequence[HistoryEntry]) -> Table:
    rows = [
        [
            text(entry.at),
            text(entry.cause),
            text(entry.why),
            text(f"{entry.origin} to {entry.target}"),
            text(entry.outcome),
            number(entry.seconds, 1),
            number(len(entry.steps), 0, hint="\n".join(entry.steps)),
        ]
        for entry in entries
    ]
    return table("Rollouts", ("at, UTC", "cause", "why", "revision", "outcome", "s", "steps"), rows)


def _figures(entries: Sequence[HistoryEntry]) -> Table:
    rows = [
        [
            text(entry.at),
            text(model),
            *(cell for side in (entry.before, entry.after) for cell in _sides(side.get(model))),
        ]
        for entry in entries
        for model in dict.fromkeys((*entry.before, *entry.after))
    ]
    columns = ("at, UTC", "model", "carried before", "in time before", "carried after", "in time after")
    note = "Frames/s: what the tables carry with the workers that answered, and what was answered in time."
    return table("Before and after", columns, rows, keys=2, note=note)


def _sides(figures: ModelFigures | None) -> tuple[Cell, Cell]:
    if figures is None:
        return number(None), number(None)
    arrived = "" if figures.arrived_rps is None else f"of {figures.arrived_rps:,.1f} that arrived"
    return number(figures.capacity_rps), number(figures.served_rps, hint=arrived)
