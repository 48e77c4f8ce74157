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

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image, ImageDraw, ImageFont

from planner.deployment import load_deployment
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate
from ppipe.bench.reference import make_references
from ppipe.bench.run import slos_us
from ppipe.bench.target import served_target
from ppipe.bench.workload import make_workload
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

EXAMPLE = Path(__file__).parents[3] / "ensembles" / "examples" / "text-detection.yaml"
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


def picture_of_words(number: int) -> npt.NDArray[np.uint8]:
    """Random letters at random places: of a picture without text the detector answers next to nothing."""
    rng = np.random.default_rng((11, number))
    image = Image.new("RGB", (640, 320), "white")
    draw = ImageDraw.Draw(image)
    for line in range(3):
        word = "".join(chr(65 + letter) for letter in rng.integers(0, 26, rng.integers(4, 9)))
        corner = (int(rng.integers(0, 300)), 20 + 100 * line + int(rng.integers(0, 30)))
        draw.text(corner, word, fill="black", font=ImageFont.load_default(size=int(rng.integers(32, 56))))
    return np.asarray(image)


def _measured(path: Path, root: Path, deployment: ServedDeployment, frames: int) -> Mapping[str, Any]:
    specs, manifest = load_deployment(path).models, deployment.manifest
    pictures = [picture_of_words(number) for number in range(PICTURES)]
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
