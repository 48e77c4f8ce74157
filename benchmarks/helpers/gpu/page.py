"""The figures of scripts/gpu as a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TITLES = {
    "check": "The machine",
    "tests": "Tests that need a GPU",
    "executor": "The executor: stages over unsplit, against torch",
    "profile": "Profiles: four networks, and estimates against them",
    "slices": "Slices with MPS",
    "handover": "Hand-over on one GPU",
    "serve": "A served deployment of two classes",
}


def page(results: Mapping[str, Mapping[str, Any]], rehearsal: bool) -> str:
    """A section for every part that was run."""
    title = "# Figures of a GPU"
    if rehearsal:
        title = "# Rehearsal on a CPU: none of these figures is of a GPU"
    lines = [title, "", "Written by `scripts/gpu`; the same figures are in gpu.json.", ""]
    for part, result in results.items():
        lines += [f"## {_TITLES[part]}", "", f"{result['status']}, {result['seconds']:.0f} s.", ""]
        if result.get("why"):
            lines += [f"    {line}" for line in str(result["why"]).splitlines()] + [""]
        figures = result.get("figures", {})
        lines += _table(figures) if isinstance(figures, list) else _listed(figures)
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield f"| {' | '.join(names)} |"
    yield f"| {' | '.join('---' for _ in names)} |"
    for row in rows:
        yield f"| {' | '.join(_shown(row.get(name, '')) for name in names)} |"
    yield ""


def _listed(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures:
        yield "| figure | value |"
        yield "| --- | --- |"
    for name, value in figures.items():
        yield f"| {name} | {_shown(value)} |"
    yield ""


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
