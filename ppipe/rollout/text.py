"""Steps of a rollout as texts and as a table of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from planner.rollout.fleet import named_in
from planner.rollout.steps import Step, StepKind
from ppipe.rollout.history import HistoryEntry, ModelFigures
from ppipe.wording import counted


def step_text(step: Step) -> str:
    """One step in a line."""
    if step.kind is StepKind.HAND_OVER:
        assert step.tables is not None
        return f"hand over: dispatchers use {counted(len(set(named_in(step.tables))), 'worker')}"
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


def silent_text(entry: str) -> str:
    """What becomes of an entry that a rollout does without."""
    return f"entry {entry} does not answer: it takes the last plan when it is back"


def figures_text(entry: HistoryEntry) -> str:
    """A rollout in a few lines: when, why, how it ended, and each model before and after."""
    head = f"{entry.at}  revision {entry.origin} to {entry.target}, {entry.seconds:.1f} s: {entry.outcome}"
    lines = [head, f"  {entry.cause}: {entry.why}", *(f"  {silent_text(name)}" for name in entry.without)]
    for model, after in entry.after.items():
        before = entry.before.get(model)
        was = "" if before is None else f"{_figures(before)} -> "
        lines.append(f"  {model}: {was}{_figures(after)}")
    return "\n".join(lines)


def _figures(one: ModelFigures) -> str:
    served = (
        "" if one.served_rps is None else f", {one.served_rps:.0f} of {one.arrived_rps or 0:.0f}/s in time"
    )
    return f"carries {one.capacity_rps:.0f}/s{served}"
