"""scripts/paper: our planner, scheduler and simulator against the paper's reference results.

    scripts/paper plan --data DIR [--planner ppipe|np|dart-r] [--fast] [--one-per-pair] [--json]
    scripts/paper three-stage --data DIR [--fast] [--json]
    scripts/paper capacity --data DIR ...        (benchmarks.paper.capacity_cli)
    scripts/paper baselines --data DIR ...       (benchmarks.paper.baselines)
    scripts/paper policies --data DIR ...        (benchmarks.paper.policies)
    scripts/paper robustness --data DIR ...      (benchmarks.paper.robustness)

A further subcommand is a module with `add_arguments(parser)` and `run(arguments) -> exit status`, named in
SUBCOMMANDS.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.paper import baselines as paper_baselines
from benchmarks.paper import capacity_cli as paper_capacity_cli
from benchmarks.paper import policies as paper_policies
from benchmarks.paper import robustness as paper_robustness
from benchmarks.paper.data import PaperDataError, PaperSetting, load_settings, load_three_stage
from planner.planning import plan

SUBCOMMANDS: dict[str, ModuleType] = {
    "baselines": paper_baselines,
    "capacity": paper_capacity_cli,
    "policies": paper_policies,
    "robustness": paper_robustness,
}
REFERENCE_OF = {"ppipe": "ppipe", "np": "np", "dart-r": "dart_r"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except PaperDataError as error:
        print(f"scripts/paper: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/paper", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    two = commands.add_parser("plan", help="plan the problems of settings.json")
    two.add_argument("--planner", choices=sorted(REFERENCE_OF), default="ppipe")
    two.add_argument(
        "--one-per-pair", action="store_true", help="one pipeline per ordered pair of classes, as the paper"
    )
    three = commands.add_parser("three-stage", help="plan the problems of three_stage.json")
    for command, run in ((two, _run_plan), (three, _run_three_stage)):
        command.add_argument(
            "--data", type=Path, required=True, metavar="DIR", help="folder of the paper's figures"
        )
        command.add_argument("--fast", action="store_true", help="fast mode: no proof of the optimum")
        command.add_argument("--json", action="store_true", help="a JSON list on standard output")
        command.set_defaults(run=run)
    for name, module in SUBCOMMANDS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").split("\n")[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _run_plan(arguments: argparse.Namespace) -> int:
    settings = load_settings(arguments.data)
    if arguments.one_per_pair:
        settings = tuple(_one_per_pair(setting) for setting in settings)
    rows = [
        {"group": setting.group, "cluster": setting.cluster}
        | _measure(setting, arguments.planner, arguments.fast)
        for setting in settings
    ]
    return _show(rows, arguments.json)


def _run_three_stage(arguments: argparse.Namespace) -> int:
    rows = [
        {"model": setting.model} | _measure(setting, "ppipe", arguments.fast)
        for setting in load_three_stage(arguments.data)
    ]
    return _show(rows, arguments.json)


def _one_per_pair(setting: PaperSetting) -> PaperSetting:
    options = replace(setting.problem.options, pipelines_per_class_pair=1)
    return replace(setting, problem=replace(setting.problem, options=options))


def _measure(setting: PaperSetting, planner: str, fast: bool) -> dict[str, Any]:
    """One row: what our plan reaches, what it could reach at most, and what the reference reached."""
    started = time.perf_counter()
    made = plan(setting.problem, planner, "fast" if fast else "proven")
    seconds = time.perf_counter() - started
    reference = reference_objective(setting, planner)
    return {
        "objective": made.objective,
        "bound": made.upper_bound,
        "gap": made.gap,
        "seconds": round(seconds, 3),
        "reference": reference,
        "ratio": None if reference is None else made.objective / reference,
    }


def reference_objective(setting: PaperSetting, planner: str) -> float | None:
    """The reference's objective, where the data has one."""
    raw = setting.reference.get(REFERENCE_OF[planner]) if setting.model is None else setting.reference
    value = raw.get("objective") if isinstance(raw, dict) else None
    return None if value is None else float(value)


def _show(rows: Sequence[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    table = Table()
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name in ("group", "cluster", "model") else "right")
    for row in rows:
        table.add_row(*(_text(name, value) for name, value in row.items()))
    Console(width=140).print(table)
    return 0


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "gap":
        return f"{value:.4%}"
    if name == "ratio":
        return f"{value:.5f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
