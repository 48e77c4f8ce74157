"""The parts of scripts/gpu, each a function that gives figures or raises Skipped with what is missing.

Run as `python -m benchmarks.helpers.gpu.parts PART --out FOLDER [--rehearse]`: JSON on the last line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
_PACKAGES = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tritonclient",
    "pydantic",
    "pytest",
    "pytorchcv",
)


class Skipped(Exception):
    """A part that cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Job:
    """How a part is run. `out`: folder for what it keeps of itself."""

    rehearse: bool
    out: Path

    @property
    def device(self) -> str:
        """'cuda', or in a rehearsal 'cpu'."""
        return "cpu" if self.rehearse else "cuda"


def check(job: Job) -> Mapping[str, Any]:
    """What is there."""
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    found["missing"] = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        found["onnxruntime"] = onnxruntime.__version__
        found["providers"] = onnxruntime.get_available_providers()
    found["tritonserver"] = shutil.which("tritonserver") or _own_tritonserver() or "none"
    found["mps"] = _mps()
    if torch.cuda.is_available():
        properties: Any = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        found["cuda"] = str(torch.version.cuda)
    return found


def tests(job: Job) -> Mapping[str, Any]:
    """The tests of the executor and the hand-over; on a GPU with those that wait for one."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("pytest is not installed")
    files = ["tests/stage/test_handover.py"]
    if not job.rehearse:
        files += ["tests/stage/test_executor_steps.py", "tests/stage/test_onnx_executor.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode:
        raise RuntimeError(done.stdout[-500:])
    return {"pytest": last[0] if last else ""}


def executor(job: Job) -> Mapping[str, Any]:
    """benchmarks.executor: stages over unsplit, executor over torch, errors per precision."""
    from benchmarks.executor import run

    if job.rehearse:
        small = "benchmarks.helpers.gpu.small_net:small_net"
        return run(network=small, size=32, batch=1, repeats=3, modes="no", compilers="none")
    return run(size=224, batch=8)


def profile(job: Job) -> list[Mapping[str, Any]]:
    """Four networks in both kinds and two precisions; see gpu_profile."""
    from benchmarks.helpers.gpu.profile import rows

    return rows(job.device, job.out / "profile.json", job.rehearse)


def slices(job: Job) -> Mapping[str, Any]:
    """Time of one of several slices over the whole device's, with the others as busy."""
    from benchmarks.helpers.gpu.profile import slices_over_whole

    if not job.rehearse and _mps() != "running":
        raise Skipped("MPS's control daemon does not run: nvidia-cuda-mps-control -d")
    return slices_over_whole(job.device, job.rehearse)


def handover(job: Job) -> Mapping[str, Any]:
    """benchmarks.handover: three stages of one server, chained on the device and by way of the host."""
    from benchmarks.handover import run

    _require_tritonserver()
    return run(size=32, frames=10) if job.rehearse else run()


def serve(job: Job) -> Mapping[str, Any]:
    """A deployment of two classes, planned, served and measured; see gpu_serve."""
    from benchmarks.helpers.gpu.serve import served

    _require_tritonserver()
    if not job.rehearse and _mps() != "running":
        raise Skipped("two slices of one GPU need MPS: nvidia-cuda-mps-control -d")
    return served(job.rehearse)


PARTS: Mapping[str, Callable[[Job], Any]] = {
    part.__name__: part for part in (check, tests, executor, profile, slices, handover, serve)
}


def _require_tritonserver() -> None:
    if not (shutil.which("tritonserver") or _own_tritonserver()):
        raise Skipped("no tritonserver: scripts/setup installs one, or put one on PATH")


def _own_tritonserver() -> str:
    from ppipe.serving.binaries import BinaryMissing, find_tritonserver

    try:
        return str(find_tritonserver().server)
    except BinaryMissing:
        return ""


def _mps() -> str:
    if shutil.which("nvidia-cuda-mps-control") is None:
        return "not installed"
    from planner.profiling.measuring.mps import require_mps
    from planner.profiling.networks.errors import ModelError

    try:
        require_mps("cuda")
    except ModelError:
        return "not running"
    return "running"


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    chosen = parser.parse_args()
    try:
        figures = PARTS[chosen.part](Job(chosen.rehearse, chosen.out))
        print(json.dumps({"status": "ok", "figures": figures}))
    except Skipped as skipped:
        print(json.dumps({"status": "skipped", "why": str(skipped)}))


if __name__ == "__main__":
    main()
