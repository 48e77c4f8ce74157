"""A deployment planned from a measured profile, served by tritonservers here and measured by `ppipe bench`.

On a GPU one class is cut into two MPS slices; in a rehearsal two classes of one CPU take their place.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.helpers.gpu.profile import REHEARSED
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

_CLASSIFIER = "ensembles.zoo.pytorchcv_models:classifier"


def deployment(rehearse: bool) -> Mapping[str, Any]:
    """deployment.yaml as plain data."""
    classes: list[Mapping[str, Any]] = [{"name": "gpu", "max_slices_per_gpu": 2}]
    if rehearse:
        classes = [
            {"name": "fast", "executor": "cpu", "stated": {"gflop_per_s": 4, "gbyte_per_s": 4}},
            {"name": "slow", "executor": "cpu", "stated": {"gflop_per_s": 1, "gbyte_per_s": 2}},
        ]
    size = 32 if rehearse else 224
    program: Mapping[str, Any] = {
        "factory": _CLASSIFIER,
        "arguments": {"name": "resnet18", "size": size},
    }
    if rehearse:
        program = {"factory": REHEARSED.factory}
    return {
        "name": "gpu-figures",
        "planner": {"slo_margin": 0.4},
        "cluster": {
            "base_port": free_base(first=26_000, count=20),
            "gpu_classes": classes,
            "groups": [{"gpu": each["name"], "count": 1, "gpus_per_server": 1} for each in classes],
        },
        "models": [
            {
                "name": REHEARSED.name if rehearse else "resnet18",
                "program": program,
                "input": {"name": "image", "shape": [3, size, size]},
                "slo_ms": 400 if rehearse else 50,
                "batch_sizes": [1, 2] if rehearse else [1, 2, 4, 8],
                "blocks": 4,
            }
        ],
    }


def served(rehearse: bool) -> Mapping[str, Any]:
    """The plan in short, and what the bench counts."""
    with tempfile.TemporaryDirectory(prefix="ppipe-gpu-") as folder:
        path, work = Path(folder) / "deployment.yaml", Path(folder) / "work"
        path.write_text(yaml.safe_dump(deployment(rehearse)), encoding="utf-8")
        for command in ("profile", "plan", "generate"):
            _command(command, path, work)
        with ServedDeployment(work / "repository", work / "logs") as running:
            running.start()
            seconds = "2" if rehearse else "20"
            said = _command("bench", path, work, "--seconds", seconds, "--load", "0.5", "--json")
        plan = json.loads((work / "plan.json").read_text(encoding="utf-8"))
        stages = [
            [(stage["gpu"], stage["slices_per_gpu"], stage["workers"]) for stage in pipeline["stages"]]
            for model in plan["models"]
            for pipeline in model["pipelines"]
        ]
        return {"pipelines": stages, **json.loads(said)}


def _command(name: str, path: Path, work: Path, *options: str) -> str:
    """What a command of ours prints. Raises RuntimeError where it fails."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = run([name, str(path), "--work", str(work), *options])
    if status:
        raise RuntimeError(f"ppipe {name} ended with {status}")
    return out.getvalue()
