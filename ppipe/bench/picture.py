"""The PNG of a measurement: what each system was asked for and what came back in time, and how long
it took.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppipe.bench.outcome import Fate
from ppipe.bench.run import Measured
from ppipe.figures import save_figure

_GOOD, _PLANNED, _LATE, _DROPPED = "#2a7fb8", "#c9d7e2", "#e6a23c", "#c0504d"
_SIZE_INCHES = (11.0, 4.2)


def draw(measured: Sequence[Measured], path: Path, title: str) -> None:
    """Write the PNG. Two panels: frames/s per system, and the latency distribution of answered frames."""
    # matplotlib takes half a second to import, which other commands need not pay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    rates, latencies = figure.subplots(1, 2)
    figure.suptitle(title)
    _draw_rates(rates, measured)
    _draw_latencies(latencies, measured)
    save_figure(figure, path, dpi=120)


def _draw_rates(axes: Any, measured: Sequence[Measured]) -> None:
    places = np.arange(len(measured))
    planned = [one.planned_rps or 0.0 for one in measured]
    axes.bar(places - 0.2, planned, 0.38, color=_PLANNED, label="planned")
    floor = np.zeros(len(measured))
    for label, colour, rates in (
        ("in time", _GOOD, [one.total.goodput_rps for one in measured]),
        ("late", _LATE, [one.total.late / one.seconds for one in measured]),
        ("dropped or failed", _DROPPED, [_lost_rps(one) for one in measured]),
    ):
        axes.bar(places + 0.2, rates, 0.38, bottom=floor, color=colour, label=label)
        floor = floor + np.array(rates)
    axes.set_xticks(places, [one.system for one in measured])
    axes.set_ylabel("frames/s")
    axes.set_title("asked of each system, and in time")
    axes.set_ylim(0, 1.15 * max([*planned, *floor, 1.0]))  # room for the legend above the bars
    axes.legend(fontsize="small", ncols=4, loc="upper center", columnspacing=1.0, handlelength=1.2)


def _lost_rps(measured: Measured) -> float:
    return (measured.total.requests - measured.total.answered) / measured.seconds


def _draw_latencies(axes: Any, measured: Sequence[Measured]) -> None:
    for one in measured:
        answered = [outcome for outcome in one.outcomes if outcome.fate is Fate.ANSWERED]
        latencies_ms = np.sort([outcome.latency_us / 1e3 for outcome in answered])
        shares = np.arange(1, len(latencies_ms) + 1) / max(1, len(one.outcomes))
        axes.step(latencies_ms, shares, where="post", label=one.system)
    for slo_us in sorted({slo for one in measured for slo in one.slo_us.values()}):
        axes.axvline(slo_us / 1e3, color="black", linestyle="--", linewidth=1)
    axes.set_xlabel("latency in ms, as clients see it (dashed: SLO)")
    axes.set_ylabel("share of all frames")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.legend(fontsize="small")
