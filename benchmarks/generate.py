"""How long generating, checking and linting a fleet's repository take: scripts/benchmarks generate [--json].

The example of 25 L4s and 75 T4s with three models, whose profile is estimated and planned first, untimed;
stage programs are not exported. The hash is that of the listing, which has the hash of every file: two
machines must print the same.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.helpers.report import main
from model_repo_generator.checking.on_disk import check
from model_repo_generator.generate import generate, placed
from model_repo_generator.lint import Context, lint
from model_repo_generator.writing.write import LISTING, hash_file
from planner.deployment import load_deployment
from planner.planning import plan as make_plan
from planner.profiling.run import ProfileOptions, profile_deployment

EXAMPLE = Path(__file__).parents[1] / "ensembles" / "examples" / "l4-t4.yaml"
ROUNDS = 5


def run(deployment: str = str(EXAMPLE)) -> dict[str, object]:
    """Medians, in seconds of wall and of processor time, and the hash."""
    spec = load_deployment(Path(deployment))
    classes = frozenset(each.name for each in spec.cluster.gpu_classes if each.stated is None)
    profile = profile_deployment(spec, options=ProfileOptions(estimate=classes))
    plan = placed(make_plan(spec.to_problem(profile)), spec, profile)
    known = Context(cluster=spec.to_cluster(), profile=profile)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "repository"
        return {
            "deployment": spec.name,
            "gpus": sum(server.gpu_count for server in spec.to_cluster().servers),
            "models": len(spec.models),
            **_timed("generate", lambda: generate(spec, profile, plan, root, export=False)),
            **_timed("check", lambda: check(spec, profile, plan, root, programs=False)),
            **_timed("lint", lambda: lint(root, context=known)),
            "triton_models": len(list(root.glob("groups/*/*/config.pbtxt"))),
            "hash": hash_file(root / LISTING),
        }


def _timed(name: str, do: Callable[[], object]) -> dict[str, float]:
    """Medians of wall and processor seconds."""
    walls, processor = [], []
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), time.process_time()
        do()
        walls.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return {
        f"{name}_s": round(statistics.median(walls), 3),
        f"{name}_processor_s": round(statistics.median(processor), 3),
    }


if __name__ == "__main__":
    main("Generating, checking and linting a fleet's repository.", run, deployment=str(EXAMPLE))
