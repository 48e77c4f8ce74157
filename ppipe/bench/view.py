"""The table of a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from ppipe.bench.run import Measured


def score_table(measured: Sequence[Measured]) -> Table:
    """A column per system."""
    table = Table(box=None, padding=(0, 2, 0, 2))
    table.add_column("")
    for one in measured:
        table.add_column(one.system, justify="right")
    for label, cells in _rows(measured):
        table.add_row(label, *cells)
    return table


def _rows(measured: Sequence[Measured]) -> list[tuple[str, list[str]]]:
    scores = [one.total for one in measured]
    seldom = {
        "superseded": [score.superseded for score in scores],
        "partial": [score.partial for score in scores],
    }
    others = [(name, list(map(str, counts))) for name, counts in seldom.items() if any(counts)]
    return [
        ("planned frames/s", [_number(one.planned_rps) for one in measured]),
        ("offered frames/s", [_number(score.offered_rps) for score in scores]),
        ("goodput frames/s", [_number(score.goodput_rps) for score in scores]),
        ("attainment", [f"{score.attainment:.2%}" for score in scores]),
        ("requests", [str(score.requests) for score in scores]),
        ("dropped", [_counts(score.drops) for score in scores]),
        *others,
        ("late", [str(score.late) for score in scores]),
        ("failed", [str(score.failed) for score in scores]),
        ("unanswered", [str(score.unanswered) for score in scores]),
        ("mismatched", [str(score.mismatched) if score.compared else "-" for score in scores]),
        ("largest error", [f"{score.max_abs_error:.1e}" if score.compared else "-" for score in scores]),
        (
            "p50, p95, p99 ms",
            [
                ", ".join(_number(value, 0) for value in (score.p50_ms, score.p95_ms, score.p99_ms))
                for score in scores
            ],
        ),
        ("client's send lag p99 ms", [_number(score.send_lag_p99_ms) for score in scores]),
    ]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "0"
