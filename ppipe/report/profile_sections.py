"""A profile as a heat map: time per frame of each block, by class and batch, and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator

from planner.profile import LatencyTable, ModelProfile, Profile, Source
from ppipe.report.content import Cell, Section, Table, number, table, text

MOST_CELLS = 8_000
"""Of heat maps in one page; models beyond are named, not shown."""


def profile_section(profile: Profile) -> Section:
    """A heat map for each model, as long as there is room."""
    tables: list[Table] = []
    cells = 0
    left_out = []
    for model in profile.models:
        cells += sum(len(one.batch_sizes) * model.block_count for one in model.tables)
        if cells > MOST_CELLS and tables:
            left_out.append(model.model)
            continue
        tables.append(_heat_map(model))
    words = [
        "Milliseconds for a whole batch. The darker a cell, the longer a block takes per frame, compared "
        "within its model. An italic number with ± is estimated, with the error to expect; the others are "
        "measured or stated."
    ]
    if left_out:
        words.append(f"Not shown, because the page would grow too large: {', '.join(left_out)}.")
    return Section("profile", "The profile", tuple(words), tables=(*tables,))


def _heat_map(model: ModelProfile) -> Table:
    per_frame = [
        us / batch for one in model.tables for row in one.latency_us
        for batch, us in zip(one.batch_sizes, row, strict=True) if us > 0
    ]  # fmt: skip
    low, high = min(per_frame, default=1.0), max(per_frame, default=1.0)
    batches = sorted({batch for one in model.tables for batch in one.batch_sizes})
    rows = [row for one in model.tables for row in _rows(model, one, batches, low, high)]
    columns = ("class", "block", "what", *(f"batch {batch}" for batch in batches))
    error = model.precision_error
    least, most = min(model.cut_bytes, default=0), max(model.cut_bytes, default=0)
    note = f"Cuts carry {least:,} to {most:,} bytes per frame."
    if error is not None:
        note += f" Outputs differ from FP32 by {error:.1e} of their range at most."
    return table(f"Profile of {model.model}", columns, rows, keys=2, note=note)


def _rows(
    model: ModelProfile, latencies: LatencyTable, batches: list[int], low: float, high: float
) -> Iterator[list[Cell]]:
    kind = latencies.gpu if latencies.slices_per_gpu == 1 else f"1/{latencies.slices_per_gpu} {latencies.gpu}"
    for block in range(model.block_count):
        name = model.block_names[block] if block < len(model.block_names) else ""
        cells = [text(kind), number(block, 0), text(name)]
        for batch in batches:
            if batch not in latencies.batch_sizes:
                cells.append(number(None))
                continue
            column = latencies.batch_sizes.index(batch)
            cells.append(_cell(latencies, block, column, low, high))
        yield cells


def _cell(latencies: LatencyTable, block: int, column: int, low: float, high: float) -> Cell:
    us, batch = latencies.latency_us[block][column], latencies.batch_sizes[column]
    source, error = latencies.source.value, ""
    if latencies.source is Source.ESTIMATED and latencies.expected_error is not None:
        error = f" ±{latencies.expected_error:.0%}"
    elif latencies.spread:
        error = f" ±{latencies.spread[block][column]:.0%}"
    return Cell(
        f"{us / 1e3:.2f}{error if latencies.source is Source.ESTIMATED else ''}",
        us,
        hint=f"{source}{error}; {us / batch / 1e3:.3f} ms per frame",
        shade=_shade(us / batch, low, high),
        mark="estimated" if latencies.source is Source.ESTIMATED else "",
    )


def _shade(us: float, low: float, high: float) -> float:
    """By the logarithm, because blocks differ by orders of magnitude."""
    if us <= 0 or high <= low:
        return 0.0
    return round((math.log(us) - math.log(low)) / (math.log(high) - math.log(low)), 2)
