"""`ppipe simulate --replay`: a recorded log as it was, and under other policies and plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from planner.plan import Plan
from planner.problem import Problem
from planner.serving_build import Links, served_model
from python_backend.scheduler.event_log import read_logs
from python_backend.simulator.replay import Replayed, Served, replay_as_it_was, simulate_again


@dataclass(frozen=True)
class Replay:
    """One model's log. `ways`: what was served, by how."""

    replayed: Replayed
    ways: dict[str, Served]

    @property
    def exact(self) -> bool:
        """Whether every action is the one that was recorded."""
        return self.replayed.difference is None


def replay_file(
    path: Path, policies: Sequence[str], plan: Plan | None, problem: Problem | None, links: Links
) -> Iterator[Replay]:
    """Each model's log of a file. The recorded policy is simulated too, so that others have a like to compare
    with: a simulation knows nothing of what went wrong then.

    Raises OSError, EventLogError, planner.serial.FormatError, ValueError.
    """
    with path.open(encoding="utf-8") as file:
        for header, lines in read_logs(file, str(path)):
            replayed = replay_as_it_was(header, lines, f"{path}: ")
            ways = {"as it was": replayed.served}
            for policy in dict.fromkeys((header.policy, *policies)):
                ways[f"simulated, {policy}"] = simulate_again(replayed, replayed.served_model, policy)
            if plan is not None and problem is not None:
                served = served_model(plan, problem, header.model, links)
                for policy in dict.fromkeys(policies or (header.policy,)):
                    ways[f"other plan, {policy}"] = simulate_again(replayed, served, policy)
            yield Replay(replayed, ways)


def replay_table(replay: Replay) -> Table:
    """The ways side by side, one row each."""
    header = replay.replayed.header
    table = Table(title=f"{header.model}: {replay.replayed.served.frames} frames, SLO "
                  f"{replay.replayed.served_model.slo_us / 1e3:g} ms")  # fmt: skip
    table.add_column("")
    for heading in ("attainment", "late", "dropped", "p50, ms", "p99, ms"):
        table.add_column(heading, justify="right")
    for name, served in replay.ways.items():
        dropped = ", ".join(f"{number} {why}" for why, number in served.dropped.items()) or "0"
        table.add_row(
            name,
            f"{served.attainment:.2%}",
            str(served.late),
            dropped,
            f"{served.latency_p50_us / 1e3:.1f}",
            f"{served.latency_p99_us / 1e3:.1f}",
        )
    return table


def verdict(replay: Replay) -> str:
    """One or a few lines: do the actions agree with the recorded ones?"""
    found = replay.replayed
    if found.difference is None:
        return f"{found.header.model}: all {found.lines} lines replay to the recorded actions"
    note = "" if found.header.from_start else (
        "\n  (the log was begun while its dispatcher was serving, so its first lines cannot agree)"
    )  # fmt: skip
    first = found.difference
    return (
        f"{found.header.model}: {found.equal_lines} of {found.lines} lines replay to the recorded actions; "
        f"first difference: line {first.line}, {first.event}\n"
        f"  recorded: {', '.join(first.recorded) or 'nothing'}\n"
        f"  now:      {', '.join(first.now) or 'nothing'}{note}"
    )
