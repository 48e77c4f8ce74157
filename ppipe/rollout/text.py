"""Steps of a rollout as texts and as a table of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from planner.rollout.fleet import named_in
from planner.rollout.steps import Step, StepKind


def step_text(step: Step) -> str:
    """One step in a line."""
    if step.kind is StepKind.HAND_OVER:
        assert step.tables is not None
        return f"hand over: dispatchers use {len(set(named_in(step.tables)))} workers"
    return f"{step.kind.value}: {', '.join(step.workers)}"


def steps_table(steps: Sequence[Step], done: int = 0) -> Table:
    """A row per step: what, for how long, and what is served meanwhile."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in (("", "left"), ("step", "left"), ("s", "right"), ("frames/s meanwhile", "left")):
        table.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for number, step in enumerate(steps):
        mark = "[green]done[/green]" if number < done else str(number + 1)
        served = ", ".join(f"{model} {rate:.0f}" for model, rate in step.capacity_rps.items())
        table.add_row(mark, step_text(step).replace("[", "\\["), f"{step.duration_us / 1e6:.1f}", served)
    return table
