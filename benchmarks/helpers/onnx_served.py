"""PP-OCR's text detection, the example deployment, on real tritonservers here: every answer against plain
onnxruntime on the unsplit file.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from planner.deployment import load_deployment
from ppipe.bench.frames import make_pictures
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate
from ppipe.bench.reference import make_references
from ppipe.bench.run import slos_us
from ppipe.bench.target import served_target
from ppipe.bench.workload import make_workload
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

EXAMPLE = Path(__file__).parents[2] / "ensembles" / "examples" / "text-detection.yaml"
RATE_RPS = 15.0
PICTURES = 16


def detector() -> Path:
    """The file that the wheel rapidocr-onnxruntime ships; its package need not be importable."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("rapidocr-onnxruntime is not installed: scripts/setup does it")
    return Path(spec.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"


def served(frames: int) -> Mapping[str, Any]:
    """At least so many frames, and what became of them."""
    with tempfile.TemporaryDirectory(prefix="ppipe-onnx-") as folder:
        path, work = Path(folder) / "deployment.yaml", Path(folder) / "work"
        plain = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
        plain["cluster"]["base_port"] = free_base(first=27_000, count=30)
        plain["models"][0]["program"] = {"onnx": str(detector())}
        path.write_text(yaml.safe_dump(plain), encoding="utf-8")
        for command in ("profile", "plan", "generate"):
            if run([command, str(path), "--work", str(work)]):
                raise SystemExit(f"ppipe {command} failed")
        with ServedDeployment(work / "repository", work / "logs") as deployment:
            deployment.start()
            return _measured(path, work / "repository", deployment, frames)


def _measured(path: Path, root: Path, deployment: ServedDeployment, frames: int) -> Mapping[str, Any]:
    specs, manifest = load_deployment(path).models, deployment.manifest
    pictures = make_pictures(PICTURES, seed=11, width=640, height=320)
    outcomes = send_load(
        served_target(manifest, pictures, {}),
        make_workload({"text": RATE_RPS}, seconds=1.1 * frames / RATE_RPS, seed=11, frames=PICTURES),
        make_references(specs, manifest, root, pictures, {}),
        LoadOptions(slo_us=slos_us(manifest)),
    )
    answered = [outcome for outcome in outcomes if outcome.fate is Fate.ANSWERED]
    return {
        "stages": [len(stages) for stages in manifest.model("text").programs],
        "frames": len(outcomes),
        "fates": dict(Counter(outcome.fate.value for outcome in outcomes)),
        "mismatched": sum(not outcome.matched for outcome in answered),
        "largest_error": max((outcome.abs_error for outcome in answered), default=None),
    }
