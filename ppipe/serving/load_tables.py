"""Tables of what dispatchers and workers do now, as wide as the terminal.

Rule: every heading and every number can be read. Columns that do not fit beside the first go into a further
table below, with the first column again; only text that is wider than the terminal is folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from ppipe.serving.live_metrics import CascadeRow, ModelRow, WorkerRow

_MODEL_HEADINGS = (
    "model", "arrive/s", "in time/s", "late/s", "dropped/s", "dropped for", "queue", "under way", "batch",
    "p50/SLO", "p99/SLO", "queue/SLO", "stages/SLO", "decision", "code",
)  # fmt: skip
_TEXTS = ("dropped for", "stages/SLO", "code")
_CASCADE_HEADINGS = (
    "cascade", "arrive/s", "complete/s", "partial/s", "others/s", "missing/s of", "open", "mean/SLO",
)  # fmt: skip
_WORKER_HEADINGS = ("worker", "", "busy", "", "batches/s")
_FULL = 20
"""Characters of a full bar."""
_PADDING = 2
_NARROWEST = 8
"""Of a column that must be folded."""


def model_tables(rows: Sequence[ModelRow], width: int) -> list[Table]:
    """One row per model."""
    return fitting_tables(_MODEL_HEADINGS, [_model_cells(row) for row in rows], width, left=_TEXTS)


def worker_tables(rows: Sequence[WorkerRow], width: int) -> list[Table]:
    """One row per worker."""
    return fitting_tables(_WORKER_HEADINGS, [_worker_cells(row) for row in rows], width)


def cascade_tables(rows: Sequence[CascadeRow], width: int) -> list[Table]:
    """One row per cascade."""
    cells = [_cascade_cells(row) for row in rows]
    return fitting_tables(_CASCADE_HEADINGS, cells, width, left=_CASCADE_HEADINGS[4:6])


def fitting_tables(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, left: Sequence[str] = ()
) -> list[Table]:
    """As few tables as it takes to show all columns in `width` characters; cells are rich markup. Headings in
    `left` are of text; all but those and the first column stand on the right.
    """
    columns = [[heading, *(row[index] for row in rows)] for index, heading in enumerate(headings)]
    widths = [max(Text.from_markup(cell).cell_len for cell in cells) + _PADDING for cells in columns]
    tables = []
    for group in _groups(widths, width):
        table = Table(box=None, padding=(0, _PADDING, 0, 0), width=None)
        for index in group:
            room = max(_NARROWEST, width - (widths[0] if index else 0))
            table.add_column(
                headings[index],
                justify="left" if index == 0 or headings[index] in (*left, "") else "right",
                no_wrap=widths[index] <= room,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(row[index] for index in group))
        tables.append(table)
    return tables


def _groups(widths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Columns of each table: the first one, and as many others, in order, as fit beside it."""
    group, used = [0], widths[0]
    for index in range(1, len(widths)):
        if used + widths[index] > width and len(group) > 1:
            yield group
            group, used = [0], widths[0]
        group.append(index)
        used += widths[index]
    yield group


def _model_cells(row: ModelRow) -> list[str]:
    stages = ", ".join(f"{place}: {share:.0%}" for place, share in row.stage_slo.items())
    return [
        row.model,
        f"{row.arrived_rps:.0f}",
        f"{row.in_time_rps:.0f}",
        f"{row.late_rps:.0f}",
        f"{sum(row.dropped_rps.values()):.0f}",
        ", ".join(row.dropped_rps) or "-",
        str(row.queue),
        str(row.in_flight),
        _number(row.mean_batch, "{:.1f}"),
        _number(row.median_slo, "{:.0%}"),
        _number(row.p99_slo, "{:.0%}"),
        _number(row.queue_slo, "{:.0%}"),
        stages or "-",
        _number(row.decision_us, "{:.0f} us"),
        "compiled" if row.compiled else "plain Python",
    ]


def _cascade_cells(row: CascadeRow) -> list[str]:
    ended = dict(row.ended_rps)
    complete, part = (ended.pop(end, 0.0) for end in ("complete", "partial"))
    return [
        row.cascade,
        f"{row.arrived_rps:.0f}",
        f"{complete:.0f}",
        f"{part:.0f}",
        _by_name(ended),
        _by_name(row.missing_rps),
        str(row.open_frames),
        _number(row.mean_slo, "{:.0%}"),
    ]


def _by_name(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()) or "-"


def _worker_cells(row: WorkerRow) -> list[str]:
    return [
        row.worker,
        "[green]up[/green]" if row.up else "[bold red]out[/bold red]",
        f"{row.utilisation:.0%}",
        "\u2588" * round(_FULL * row.utilisation),
        f"{row.batches_rps:.1f}",
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
