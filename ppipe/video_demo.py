"""A drawn clip through a detector and a reader, on real tritonservers: `ppipe demo --video`.

Words move over a picture; PP-OCR's networks, which a wheel carries, find and read them; what they found is
drawn into the clip. The steps are those of `ppipe profile`, `plan`, `generate`, `serve` and `watch`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

import ensembles
from model_repo_generator.generate import generate
from planner.deployment import Deployment, load_deployment
from ppipe import steps
from ppipe.console import ServerBoard, err, step
from ppipe.plan_view import plan_table
from ppipe.serving.launcher import ServedDeployment
from ppipe.watch.pacing import SendPolicy
from ppipe.watch.results import ResultFile
from ppipe.watch.session import WatchOptions, watch
from ppipe.watch.sources import parse_sources
from ppipe.workspace import Workspace

NAME = "reading"
VIDEO_FILE = Path(ensembles.__file__).parent / "examples" / "reading.yaml"
WIDTH, HEIGHT, FPS = 640, 320, 5
WORDS = ("TRITON", "PIPELINE", "READING")
_FONT = 48
_CHARACTERS = "character"
"""Where PP-OCR's recogniser keeps its symbols, a line each."""
_FILES = {"lines": "ch_PP-OCRv4_det_infer.onnx", "words": "ch_PP-OCRv4_rec_infer.onnx"}
_SYMBOLS = "symbols.txt"


class NoNetworks(RuntimeError):
    """The wheel with the networks is not installed."""


@dataclass(frozen=True)
class VideoResult:
    """What came of the clip's frames. read: how often each text was read."""

    frames: int
    complete: int
    partial: int
    read: Mapping[str, int]
    clip: Path
    picture: Path

    def summary(self) -> dict[str, Any]:
        """The last line of `ppipe demo --video --json`."""
        right = sum(count for text, count in self.read.items() if text in WORDS)
        return {
            "frames": self.frames,
            "complete": self.complete,
            "partial": self.partial,
            "read": dict(self.read),
            "read_right": round(right / max(1, sum(self.read.values())), 4),
            "clip": str(self.clip),
            "picture": str(self.picture),
        }


def video_deployment(folder: Path) -> Deployment:
    """The example, with the wheel's files; the reader's symbols go into `folder`. Raises NoNetworks."""
    models = _networks()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SYMBOLS).write_text(_symbols(models / _FILES["words"]), encoding="utf-8")
    deployment = load_deployment(VIDEO_FILE)
    specs = tuple(
        spec.model_copy(
            update={"program": spec.program.model_copy(update={"onnx": models / _FILES[spec.name]})}
        )
        for spec in deployment.models
    )
    return deployment.model_copy(update={"models": specs})


def run_video_demo(deployment: Deployment, workspace: Workspace, seconds: float) -> VideoResult:
    """Everything, in order."""
    with step("draw: a clip of moving words"):
        clip = draw_words(workspace.root / "words.mp4", seconds)
    with step("profile: split both networks, time their blocks"):
        profile = steps.run_profile(deployment, workspace, repeats=2)
    with step("plan: both models as one cascade"):
        plan = steps.run_plan(deployment, profile, workspace, "ppipe")
    err.print(plan_table(plan))
    with step("generate: export stage programs, write model repositories"):
        manifest = generate(deployment, profile, plan, workspace.repository, base=workspace.root, force=True)
    results = workspace.root / "words.jsonl"
    (cascade,) = manifest.cascades
    options = WatchOptions(
        url=manifest.entry.grpc_address,
        model=cascade.name,
        policy=SendPolicy.FOLLOW,
        ahead=2,
        timeout_us=4 * cascade.slo_us,
        clips=workspace.root / "annotated",
        served=manifest.doors,
    )
    with (
        step("serve, and watch the clip"),
        ServerBoard() as board,
        ServedDeployment(workspace.repository, workspace.logs, changed=board.changed) as served,
        results.open("w", encoding="utf-8") as lines,
    ):
        served.start()
        asyncio.run(watch(parse_sources([str(clip)], []), options, ResultFile(lines), lambda table: None))
    annotated = workspace.root / "annotated" / clip.name
    picture = _middle_picture(annotated, workspace.root / "words.png")
    return _result(results, annotated, picture)


def draw_words(path: Path, seconds: float) -> Path:
    """Write a clip in which every word goes its own way from side to side."""
    font = ImageFont.load_default(size=_FONT)
    with av.open(str(path), "w") as container:
        known = next(name for name in ("libx264", "mpeg4") if name in av.codecs_available)
        stream = container.add_stream(known, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(max(1, round(seconds * FPS))):
            image = Image.new("RGB", (WIDTH, HEIGHT), (235, 238, 240))
            draw = ImageDraw.Draw(image)
            for row, word in enumerate(WORDS):
                width = draw.textlength(word, font=font)
                share = abs((number * (row + 2) / 40 + row / 3) % 2 - 1)
                corner = 20 + share * (WIDTH - width - 40), 20 + row * 100
                draw.text(corner, word, fill=(30 + 40 * row, 40, 90), font=font)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path


def _networks() -> Path:
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise NoNetworks(
            "ppipe demo --video reads with PP-OCR's networks, which are not here: "
            "pip install --no-deps rapidocr-onnxruntime==1.4.4"
        )
    return Path(spec.origin).parent / "models"


def _symbols(network: Path) -> str:
    """A line for each class: the blank, the characters, and the space, which PP-OCR adds."""
    properties = {each.key: each.value for each in onnx.load(str(network)).metadata_props}
    return "\n".join(["", *properties[_CHARACTERS].split("\n"), " "]) + "\n"


def _middle_picture(clip: Path, picture: Path) -> Path:
    with av.open(str(clip)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    frames[len(frames) // 2].save(picture)
    return picture


def _result(results: Path, clip: Path, picture: Path) -> VideoResult:
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    answers = [line["answer"] for line in lines if "answer" in line]
    read = Counter(text for answer in answers for (text,) in answer["words.read_text"])
    partial = sum(answer["partial"] == [True] for answer in answers)
    return VideoResult(len(lines), len(answers) - partial, partial, read, clip, picture)
