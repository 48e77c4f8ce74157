"""Tables of what dispatchers and workers do now."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ppipe.serving.live_metrics import ModelRow, WorkerRow

_MODEL_HEADINGS = (
    "model", "arrive/s", "in time/s", "late/s", "dropped/s", "queue", "under way", "batch",
    "latency p50, p99 / SLO", "SLO spent: queue, stages", "decision",
)  # fmt: skip
_WORKER_HEADINGS = ("worker", "", "busy", "batches/s")
_FULL = 20
"""Characters of a full bar."""


def model_table(rows: Sequence[ModelRow]) -> Table:
    """One row per model."""
    table = _table(_MODEL_HEADINGS)
    for row in rows:
        dropped = sum(row.dropped_rps.values())
        reasons = ", ".join(row.dropped_rps)
        stages = ", ".join(f"{place}: {share:.0%}" for place, share in row.stage_slo.items())
        table.add_row(
            row.model,
            f"{row.arrived_rps:.0f}",
            f"{row.in_time_rps:.0f}",
            f"{row.late_rps:.0f}",
            f"{dropped:.0f} ({reasons})" if reasons else "0",
            str(row.queue),
            str(row.in_flight),
            _number(row.mean_batch, "{:.1f}"),
            f"{_number(row.median_slo, '{:.0%}')}, {_number(row.p99_slo, '{:.0%}')}",
            f"{_number(row.queue_slo, '{:.0%}')}" + (f"; {stages}" if stages else ""),
            _number(row.decision_us, "{:.0f} us"),
        )
    return table


def worker_table(rows: Sequence[WorkerRow]) -> Table:
    """One row per worker."""
    table = _table(_WORKER_HEADINGS)
    for row in rows:
        bar = "\u2588" * round(_FULL * row.utilisation)
        table.add_row(
            row.worker,
            "[green]up[/green]" if row.up else "[bold red]out[/bold red]",
            f"{row.utilisation:4.0%} {bar}",
            f"{row.batches_rps:.1f}",
        )
    return table


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2))
    for heading in headings:
        table.add_column(heading)
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
