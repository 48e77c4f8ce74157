"""`ppipe watch` on looped files for minutes: is memory bounded, do results' ages grow, is every result named?

A model of emulated workers is served on real tritonservers; the command runs as a user's would, in a process
of its own. Clips are drawn. SIGINT and SIGTERM end it early, with the figures of what was watched by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.helpers.loads.clips import draw_clip
from benchmarks.helpers.report import main
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, write_deployment
from planner.deployment import PreprocessSpec, recipe_of
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

_LATENCY_US = (6_000, 7_000, 8_000, 9_000)
_SLO_US = 300_000
_INPUT = TensorSpec("image", "FP32", (3, 64, 64))
_LOOK_S = 5.0
_WARM_S = 20.0
"""What a process takes in its first seconds is not counted as growth."""


def run(minutes: float = 10.0, sources: int = 16, fps: float = 5.0) -> Mapping[str, Any]:
    """The figures of this benchmark. fps: of each source."""
    with tempfile.TemporaryDirectory(prefix="ppipe-watch-") as folder:
        root = Path(folder)
        clips = [draw_clip(root / f"camera-{number:02d}.mp4", seed=number) for number in range(sources)]
        write_deployment(root / "repository", [_model()], free_base(39_500, 30), name="watch")
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            url = deployment.manifest.entry.grpc_address
            watched = _watched(_command(clips, url, root / "results.jsonl", fps), 60 * minutes)
        lines = [json.loads(line) for line in (root / "results.jsonl").read_text().splitlines()]
    return {
        "emulated": True,
        "minutes": round(watched.seconds / 60, 2),
        "interrupted": watched.interrupted,
        "sources": sources,
        **_figures(lines, watched.resident),
    }


@dataclass(frozen=True)
class _Watched:
    """How long the command ran, whether that was cut short, and its resident bytes every few seconds."""

    seconds: float
    interrupted: bool
    resident: list[int]


def _model() -> EmulatedModel:
    preprocess = PreprocessSpec.model_validate({"frame": {"width": 320, "height": 240, "bytes": 20_000}})
    stage = EmulatedStage(_LATENCY_US, ("a", "a"), (TensorSpec("scores", "FP32", (16,)),))
    return EmulatedModel(
        name="net",
        slo_us=_SLO_US,
        planned_rps=300.0,
        input=_INPUT,
        pipelines=(EmulatedPipeline(4, (stage,)),),
        prepare=recipe_of(preprocess, _INPUT, "net"),
    )


def _command(clips: Sequence[Path], url: str, results: Path, fps: float) -> list[str]:
    command = [sys.executable, "-m", "ppipe", "watch", *map(str, clips), "--model", "net", "--url", url]
    return [*command, "--loop", "--fps", str(fps), "--json", str(results)]


def _watched(command: Sequence[str], seconds: float) -> _Watched:
    """Run the command for so long, or until a signal. Raises RuntimeError where it ends otherwise than by our
    SIGINT.
    """
    # Of its own session: Ctrl-C reaches it through us alone, once.
    with (
        _signalled() as stop,
        subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process,
    ):
        resident = []
        began_s = time.monotonic()
        end_s = began_s + seconds
        while (left_s := end_s - time.monotonic()) > 0 and process.poll() is None:
            if stop.wait(min(_LOOK_S, left_s)):
                break
            resident.append(_resident_bytes(process.pid))
        ran_s = time.monotonic() - began_s
        process.send_signal(signal.SIGINT)
        status = process.wait(timeout=30)
    if status != 128 + signal.SIGINT:
        raise RuntimeError(f"ppipe watch ended with status {status} after {ran_s:.0f} s")
    return _Watched(ran_s, stop.is_set(), resident)


@contextlib.contextmanager
def _signalled() -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM, which do nothing else meanwhile."""
    stop = threading.Event()
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _figures(lines: Sequence[Mapping[str, Any]], resident: Sequence[int]) -> dict[str, Any]:
    ages = np.array([line["age_ms"] for line in lines if "answer" in line])
    counted = {"results": len(lines), "answered": len(ages)}
    if not len(ages) or not resident:
        return counted
    third = max(1, len(ages) // 3)
    warm = list(resident[int(_WARM_S / _LOOK_S) :]) or list(resident)
    return {
        **counted,
        "without_stream_or_pts": sum(not ("stream" in line and "pts" in line) for line in lines),
        "places_missing": sum(_missing(lines).values()),
        "age_ms_p50": round(float(np.median(ages)), 2),
        "age_ms_p99": round(float(np.quantile(ages, 0.99)), 2),
        "age_ms_p50_first_third": round(float(np.median(ages[:third])), 2),
        "age_ms_p50_last_third": round(float(np.median(ages[-third:])), 2),
        "resident_mb_warm": round(warm[0] / 1e6, 1),
        "resident_mb_end": round(warm[-1] / 1e6, 1),
        "resident_mb_most": round(max(resident) / 1e6, 1),
        "resident_mb_by_minute": [round(each / 1e6, 1) for each in resident[:: int(60 / _LOOK_S)]],
    }


def _missing(lines: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Per stream, the places up to its last of which there is no line."""
    places: dict[str, set[int]] = {}
    for line in lines:
        places.setdefault(line["stream"], set()).add(line["place"])
    return {stream: max(found) + 1 - len(found) for stream, found in places.items()}


if __name__ == "__main__":
    main("ppipe watch on looped files: memory, ages, names.", run, minutes=10.0, sources=16, fps=5.0)
