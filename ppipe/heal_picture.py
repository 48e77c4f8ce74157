"""The PNG of `ppipe demo --heal`: goodput second by second, without operate and with it, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ppipe.figures import save_figure
from ppipe.heal_demo import HealResult, HealRun

_COLOURS = ("#2a7fb8", "#7fb069", "#e6a23c", "#8e6bb0")
_OFFERED, _LOST, _PLANNED = "#555555", "#c0504d", "#2f7d4f"
_SIZE_INCHES = (11.0, 4.2)
_STEP_S = 1.0


def draw_heal(result: HealResult, path: Path, title: str) -> None:
    """Write the PNG. A panel for each run: what came, and what of it was answered in time, by model."""
    # matplotlib takes half a second to import, which other commands need not pay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, run in zip(panels, result.runs, strict=True):
        _draw_run(axes, result, run)
    panels[0].set_ylabel("frames/s")
    panels[0].set_ylim(0, 1.8 * max(sum(result.rates_rps.values()), 1.0))  # room for legend and names
    save_figure(figure, path, dpi=120)


def series(result: HealResult, run: HealRun) -> tuple[list[float], dict[str, list[float]]]:
    """Starts of the seconds, and each model's frames/s in time in each."""
    count = max(1, int(result.seconds / _STEP_S))
    rows = {model: [0.0] * count for model in result.rates_rps}
    for frame in run.outcomes:
        second = int(frame.due_us / 1e6 / _STEP_S)
        if second < count and frame.is_good(result.slo_us[frame.model]):
            rows[frame.model][second] += 1 / _STEP_S
    return [number * _STEP_S for number in range(count)], rows


def _draw_run(axes: Any, result: HealResult, run: HealRun) -> None:
    starts_s, rows = series(result, run)
    edges_s = [*starts_s, starts_s[-1] + _STEP_S]
    floor = np.zeros(len(starts_s))
    for colour, (model, rates) in zip(_COLOURS * len(rows), rows.items(), strict=False):
        axes.stairs(floor + rates, edges_s, baseline=floor, fill=True, color=colour, label=f"{model} in time")
        floor = floor + np.array(rates)
    axes.axhline(sum(result.rates_rps.values()), color=_OFFERED, linewidth=1, label="what comes")
    _mark(axes, run.lost_s, f"{result.loss.server} is killed", _LOST, 0.83)
    if run.served_s is not None and run.served_s < result.seconds:
        after_s = run.served_s - run.lost_s
        _mark(axes, run.served_s, f"the new plan serves, {after_s:.1f} s later", _PLANNED, 0.76)
    axes.set_title(run.name)
    axes.set_xlabel("seconds, by when frames were due")
    axes.set_xlim(0, edges_s[-1])
    axes.legend(fontsize="small", ncols=3, loc="upper center", columnspacing=1.0, handlelength=1.2)


def _mark(axes: Any, at_s: float, text: str, colour: str, height: float) -> None:
    axes.axvline(at_s, color=colour, linestyle="--", linewidth=1.2)
    axes.text(at_s, height, f" {text}", color=colour, fontsize="small", transform=axes.get_xaxis_transform())
