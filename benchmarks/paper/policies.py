"""scripts/paper policies: every policy on the same plans under bursts and jitter, side by side.

For every workload of WORKLOADS and every policy the highest loads served at 99 % attainment, as in
benchmarks.paper.capacity; the ratio is to the reference's load under Poisson arrivals without jitter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.paper.capacity import Options, capacities
from benchmarks.paper.capacity_cli import add_plan_arguments
from python_backend.scheduler.policies import POLICIES


@dataclass(frozen=True)
class Conditions:
    """A workload: how frames arrive, and how much stage latencies vary."""

    name: str
    arrivals: str = "poisson"
    jitter: float = 0.0


WORKLOADS = (
    Conditions("poisson"),
    Conditions("cv2", arrivals="gamma:cv=2"),
    Conditions("cv4", arrivals="gamma:cv=4"),
    Conditions("jitter", jitter=0.05),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/paper policies`."""
    add_plan_arguments(parser)
    names = [conditions.name for conditions in WORKLOADS]
    parser.add_argument(
        "--workloads", nargs="+", choices=names, default=names, help="jitter: 5 %% (default: all)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, return the exit status."""
    given = {name: value for name, value in vars(arguments).items() if name in _OPTIONS}
    workloads = [conditions for conditions in WORKLOADS if conditions.name in arguments.workloads]
    rows = compare(arguments.data, Options(**given, bound=False), workloads)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        print(json.dumps(side_by_side(rows)), file=sys.stderr)
    else:
        Console(width=110).print(table(side_by_side(rows)))
    return 0


_OPTIONS = {field.name for field in fields(Options)}


def compare(data: Path, options: Options, workloads: Sequence[Conditions]) -> list[dict[str, Any]]:
    """A row for every case, workload and policy; every setting is planned once."""
    variants = [
        replace(options, policy=policy, arrivals=conditions.arrivals, jitter=conditions.jitter)
        for conditions in workloads
        for policy in POLICIES
    ]
    rows = capacities(data, options, sys.stderr, variants)
    names = {(conditions.arrivals, conditions.jitter): conditions.name for conditions in workloads}
    return [row | {"workload": names[row["arrivals"], row["jitter"]]} for row in rows]


def side_by_side(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every workload the mean and the least ratio of every policy, and in how many cases adaptive serves
    at least what the better of the others does."""
    found = []
    for workload in dict.fromkeys(row["workload"] for row in rows):
        ratios = {
            policy: {
                (row["group"], row["cluster"], row["model"]): row["ratio"]
                for row in rows
                if row["workload"] == workload and row["policy"] == policy
            }
            for policy in POLICIES
        }
        others = [ratios[policy] for policy in POLICIES if policy != "adaptive"]
        found.append(
            {
                "workload": workload,
                "cases": len(ratios["adaptive"]),
                "mean_ratio": {policy: sum(of.values()) / len(of) for policy, of in ratios.items()},
                "least_ratio": {policy: min(of.values()) for policy, of in ratios.items()},
                "adaptive_at_least_level": sum(
                    ratio >= max(other[case] for other in others)
                    for case, ratio in ratios["adaptive"].items()
                ),
            }
        )
    return found


def table(compared: Sequence[dict[str, Any]]) -> Table:
    """Workloads down, policies across: mean ratio (least)."""
    made = Table(title="load at 99 % attainment over the reference's: mean (least)")
    made.add_column("workload")
    for policy in POLICIES:
        made.add_column(policy, justify="right")
    made.add_column("adaptive ahead or level", justify="right")
    for one in compared:
        cells = [f"{one['mean_ratio'][policy]:.4f} ({one['least_ratio'][policy]:.3f})" for policy in POLICIES]
        made.add_row(one["workload"], *cells, f"{one['adaptive_at_least_level']} of {one['cases']}")
    return made
