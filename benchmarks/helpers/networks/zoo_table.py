"""The zoo's networks as a Markdown table, for docs/zoo.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per network; estimates carry their expected errors in the heading."""
    classes = list(rows[0]["expected_error"])
    estimates = [f"{name} ms +-{rows[0]['expected_error'][name]:.0%}" for name in classes]
    heading = ["model", "family", "package", "frame", "GFLOP", "blocks", "cuts, MB", *estimates]
    lines = [[*_known(row), *(f"{row['estimated_ms'][name]:.1f}" for name in classes)] for row in rows]
    if all("max_rel_error" in row for row in rows):
        heading.append("error")
        lines = [[*line, f"{row['max_rel_error']:.0e}"] for line, row in zip(lines, rows, strict=True)]
    table = [heading, ["---"] * len(heading), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def _known(row: Mapping[str, Any]) -> list[str]:
    return [
        row["model"],
        row["family"],
        row["package"],
        "x".join(map(str, row["frame"])),
        f"{row['gflop']:.0f}",
        str(row["blocks"]),
        " ".join(f"{value / 1e6:.1f}" for value in row["cut_bytes"]),
    ]
