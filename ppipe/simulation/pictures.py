"""Simulations as pictures: attainment against load, and a Gantt chart of reservations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner import serial
from planner.serving import ServedModel
from ppipe.figures import save_figure
from ppipe.simulation.curve import AttainmentCurve
from python_backend.scheduler.actions import Action, Dispatch, Drop, Hop
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import Event
from python_backend.simulator.capacity import Workload
from python_backend.simulator.driver import SimulatedDriver

_COLOURS = ("#3b6fb6", "#d98c2b", "#4f9d69", "#b6473b", "#7d5ba6", "#6b6b6b")


def draw_attainment(curve: AttainmentCurve, path: Path) -> None:
    """PNG or SVG of attainment against load factor: a line per policy, one for what no schedule can beat, and
    the 99 % line. An SVG holds the curve as its description, in JSON.
    """
    figure, axes = _figure((7.0, 4.0))
    for (policy, line), colour in zip(curve.lines.items(), _COLOURS, strict=False):
        axes.plot(curve.load_factors, line, marker="o", label=policy, color=colour)
    if curve.bound:
        most = "any schedule, at most"
        axes.plot(curve.load_factors, curve.bound, color="#222222", linestyle=":", label=most)
    axes.axhline(0.99, color="#888888", linewidth=0.8, linestyle="--")
    axes.set_xlabel(f"load factor (1 = {curve.planned_rps:.0f} frames/s planned)")
    axes.set_ylabel("attainment")
    axes.set_title(curve.model)
    axes.legend(frameon=False)
    save_figure(figure, path, dpi=110, data=serial.dumps(curve))


def draw_gantt(
    served: ServedModel,
    policies: Sequence[str],
    rate_rps: float,
    path: Path,
    workload: Workload,
    window_us: tuple[int, int],
    most_workers: int = 8,
) -> None:
    """PNG or SVG of what is reserved on the first workers of every pool, one panel per policy, on the same
    arrivals.

    A bar is a stage of a batch, coloured by batch; thin bars are transfers into it; crosses are drops.
    """
    figure, panels = _figure((11.0, 3.6 * len(policies)), len(policies))
    for axes, policy in zip(panels if len(policies) > 1 else [panels], policies, strict=True):
        hops, drops_us, counts = _record(served, policy, rate_rps, workload)
        rows = _rows(served, most_workers)
        for batch_id, hop in hops:
            if hop.worker in rows and hop.end_us > window_us[0] and hop.transfer_start_us < window_us[1]:
                _bar(axes, rows[hop.worker], hop, _COLOURS[batch_id % len(_COLOURS)])
        shown = [time_us / 1e3 for time_us in drops_us if window_us[0] <= time_us <= window_us[1]]
        axes.plot(shown, [-1.0] * len(shown), "x", color="#b6473b", markersize=5)
        axes.set_yticks(
            [-1, *rows.values()], ["dropped", *(name.split(".", 1)[-1] for name in rows)], fontsize=6
        )
        axes.set_xlim(window_us[0] / 1e3, window_us[1] / 1e3)
        axes.invert_yaxis()
        axes.set_title(f"{policy}: attainment {counts:.1%} at {rate_rps:.0f} frames/s", fontsize=9)
    axes.set_xlabel("ms")
    save_figure(figure, path, dpi=110)


def _record(
    served: ServedModel, policy: str, rate_rps: float, workload: Workload
) -> tuple[list[tuple[int, Hop]], list[int], float]:
    hops: list[tuple[int, Hop]] = []
    drops_us: list[int] = []

    def observe(event: Event, now_us: int, actions: list[Action]) -> None:
        del event
        for action in actions:
            if isinstance(action, Dispatch):
                hops.extend((action.ticket.batch_id, hop) for hop in action.ticket.hops)
            elif isinstance(action, Drop):
                drops_us.append(now_us)

    driver = SimulatedDriver(served, SchedulerCore(served, policy), observe=observe)
    counts = driver.run(iter(workload.times_us(rate_rps, workload.seeds[0], served.model)))
    return hops, drops_us, counts.attainment()


def _rows(served: ServedModel, most_workers: int) -> dict[str, int]:
    names = [
        worker.name
        for pipeline in served.pipelines
        for stage in pipeline.stages
        for worker in stage.workers[:most_workers]
    ]
    return {name: row for row, name in enumerate(names)}


def _bar(axes: Any, row: int, hop: Hop, colour: str) -> None:
    axes.broken_barh(
        [(hop.start_us / 1e3, (hop.end_us - hop.start_us) / 1e3)],
        (row - 0.38, 0.76),
        facecolor=colour,
        edgecolor="white",
        linewidth=0.4,
    )
    if hop.transfer_end_us > hop.transfer_start_us:
        length_us = hop.transfer_end_us - hop.transfer_start_us
        axes.broken_barh(
            [(hop.transfer_start_us / 1e3, length_us / 1e3)], (row + 0.3, 0.16), facecolor="#222222"
        )


def _figure(size: tuple[float, float], rows: int = 1) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1)
