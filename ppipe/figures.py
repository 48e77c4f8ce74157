"""Saving a figure: the same figure gives the same bytes, PNG and SVG, and texts of an SVG stay texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SUFFIXES = (".png", ".svg")


def save_figure(figure: Any, path: Path, dpi: int = 130, data: str = "") -> None:
    """A figure of matplotlib, by the suffix of `path`. data: goes into an SVG, as its description.

    Raises ValueError for another suffix than those of SUFFIXES.
    """
    import matplotlib

    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: a figure is drawn as {' or '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "ppipe", "svg.fonttype": "none"}):
        described = {"Description": data} if data else {}
        metadata = {"Date": None, **described} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, metadata=metadata, dpi=dpi, facecolor="white")
