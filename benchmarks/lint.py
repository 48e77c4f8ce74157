"""How long the linter takes on a made-up repository: `python -m benchmarks.lint [MODELS]`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from ensembles.graphs import StepModel, chain_graph
from model_repo_generator import config
from model_repo_generator.lint import lint
from model_repo_generator.shims import model_py
from planner.cluster import Executor
from planner.profile import TensorSpec

STAGES = 4
"""Of each pipeline; its ensemble is a model too."""
ROUNDS = 5
FRAME = TensorSpec(name="frame", dtype="FP32", shape=(3, 224, 224))
FEATURES = TensorSpec(name="features", dtype="FP32", shape=(64, 56, 56))
BATCH = 8


def write_fleet(root: Path, models: int) -> None:
    """A repository of so many models, as the generator writes them: pipelines of stages, each an ensemble."""
    parameters = dict.fromkeys(("manifest", "model", "pipeline", "stage", "worker"), "some text")
    for pipeline in range(models // (STAGES + 1)):
        stages = [
            StepModel(
                name=f"net{pipeline}.s{stage}", inputs=(FEATURES if stage else FRAME,), outputs=(FEATURES,)
            )
            for stage in range(STAGES)
        ]
        for each in stages:
            text = config.stage_config(
                each.name, each.inputs, each.outputs, BATCH, Executor.CPU, 0, parameters
            )
            _write(root / each.name, text, model_py("stage"))
        graph = chain_graph(f"net{pipeline}", stages, (FEATURES,), BATCH)
        _write(root / graph.name, config.ensemble_config(graph), None)


def _write(folder: Path, text: str, code: str | None) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text)
    if code is not None:
        (folder / "1" / "model.py").write_text(code)


def main() -> None:
    """Print the wall and processor time of one lint."""
    models = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        write_fleet(Path(folder), models)
        wall, processor = [], []
        for _ in range(ROUNDS):
            began, used = time.perf_counter(), time.process_time()
            findings = lint(folder)
            wall.append(time.perf_counter() - began)
            processor.append(time.process_time() - used)
        print(
            f"lint of {models} models: {statistics.median(wall):.2f} s, processor time "
            f"{statistics.median(processor):.2f} s (medians of {ROUNDS}); {len(findings)} findings"
        )


if __name__ == "__main__":
    main()
