"""scripts/paper capacity: what each model of each setting bears (benchmarks.paper.capacity), in print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.paper.bound import mean_shares
from benchmarks.paper.capacity import PLANNERS, STEP, Options, capacities
from python_backend.scheduler.policies import POLICIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/paper capacity`."""
    add_plan_arguments(parser)
    parser.add_argument("--policy", choices=POLICIES, default="adaptive")
    parser.add_argument("--arrivals", default="poisson", help="poisson, gamma:cv=2, ... (default: poisson)")
    parser.add_argument(
        "--jitter", type=float, default=0.0, help="standard deviation of stage latencies, a share"
    )
    parser.add_argument(
        "--no-bound", dest="bound", action="store_false", help="leave out the clairvoyant bound"
    )


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """What is served, for how long and on which links."""
    parser.add_argument("--data", type=Path, required=True, help="folder with models.json and settings.json")
    parser.add_argument("--planner", choices=PLANNERS, default="ppipe")
    parser.add_argument("--margin", default="auto", help="auto, or a share of the SLO (default: auto)")
    parser.add_argument("--links", choices=("paper", "placed"), default="paper")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1..N (default: 3)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--plans", type=Path, help="folder to keep the plans of --margin auto in")
    parser.add_argument("--json", action="store_true", help="rows as JSON on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, return the exit status."""
    options = Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})
    rows = capacities(arguments.data, options, sys.stderr)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        print(json.dumps(summary(rows)), file=sys.stderr)
    else:
        for row in rows:
            place = f"{row['group']} {row['cluster']:10} {row['model'][:32]:32}"
            share = row.get("clairvoyant_share")
            of_bound = "" if share is None else f"  {share:.1%} of what any schedule could"
            print(f"{place} {row['load_rps']:7.0f} {row['ratio']:.3f}{of_bound}")
        print(json.dumps(summary(rows), indent=1))
    return 0


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the cases; utilisation of the high class (named first) and the low one, summed over the
    models of a setting."""
    settings: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in rows:
        settings.setdefault((row["group"], row["cluster"]), []).append(row)
    high, low = [], []
    for members in settings.values():
        classes = list(members[0]["utilisation"])
        high.append(sum(row["utilisation"][classes[0]] for row in members))
        low.append(sum(row["utilisation"][classes[-1]] for row in members))
    steps = [abs(row["load_rps"] - row["reference_load_rps"]) for row in rows]
    return {
        "cases": len(rows),
        "mean_ratio": sum(row["ratio"] for row in rows) / len(rows),
        "least_ratio": min(row["ratio"] for row in rows),
        "mean_load_factor": sum(row["load_factor"] for row in rows) / len(rows),
        "within_one_step": sum(
            step <= STEP * row["load_rps"] / row["load_factor"] + 1.01 if row["load_factor"] else False
            for step, row in zip(steps, rows, strict=True)
        ),
        "utilisation_high": sum(high) / len(high),
        "utilisation_low": sum(low) / len(low),
    } | mean_shares(rows)
