"""The problems that benchmarks of plans serve in simulation, and the options that choose them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.paper.data import load_settings
from benchmarks.paper.made import made_settings
from planner.deployment import load_deployment
from planner.problem import Problem
from planner.serving_build import Links
from ppipe import steps
from ppipe.workspace import Workspace

FLEET = "l4-t4"
_FLEET_FILE = Path(__file__).resolve().parents[2] / "ensembles" / "examples" / "l4-t4.yaml"


def parser_of(benchmark: str, text: str, *, each: str, seeds: int) -> argparse.ArgumentParser:
    """With the options that all of them have. each: what is loaded for so many seconds."""
    parser = argparse.ArgumentParser(prog=f"scripts/benchmarks {benchmark}", description=text)
    parser.add_argument("--data", type=Path, help="folder with models.json and settings.json")
    parser.add_argument("--made", type=int, default=0, metavar="N", help="so many made problems (default: 0)")
    parser.add_argument("--seed", type=int, default=1, help="of the made problems")
    parser.add_argument("--no-fleet", dest="fleet", action="store_false", help="leave out the README's fleet")
    parser.add_argument("--seconds", type=float, default=20.0, help=f"of load, for each {each} and seed")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, help="file to keep what is done in, and to go on from")
    return parser


def problems(arguments: argparse.Namespace) -> Iterator[tuple[str, Problem, Links]]:
    """Name, problem, and which links join its workers: the README's fleet, made ones, those of the data."""
    if arguments.fleet:
        deployment = load_deployment(_FLEET_FILE)
        with tempfile.TemporaryDirectory() as folder:
            gpus = frozenset(one.name for one in deployment.cluster.gpu_classes)
            profile = steps.run_profile(deployment, Workspace(Path(folder)), estimate=gpus)
        yield FLEET, deployment.to_problem(profile), "placed"
    for number, problem in enumerate(made_settings(arguments.seed, arguments.made)):
        yield f"made {arguments.seed}.{number}", problem, "paper"
    for setting in load_settings(arguments.data) if arguments.data else ():
        if setting.group is not None:
            yield setting.name, setting.problem, "paper"
