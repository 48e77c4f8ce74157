"""A server of this project as it was at an older revision, in a checkout of its own, for comparisons side by
side.

The checkout is made by `git worktree` and taken away again. What is served there is written by a script of
that revision's own functions, which is kept here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parents[3]
FRONT_REVISION = "69bcf91"
"""Of main before frames travelled as they came: an ensemble of decoding, dispatching and answering at the
entry.
"""

FRONT_SCRIPT = """
import json, sys
from pathlib import Path

from model_repo_generator import config
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, write_deployment
from model_repo_generator.entry import entry_models, preprocess_parameters
from model_repo_generator.shims import model_py
from planner.deployment import ModelSpec
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment

root, port, size, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
latency_us, slo_us = json.loads(sys.argv[5]), int(sys.argv[6])
image, scores = TensorSpec("image", "FP32", (3, size, size)), TensorSpec("scores", "FP32", (16,))
spec = ModelSpec.model_validate({
    "name": "net", "program": {"factory": "a:b"}, "slo_ms": slo_us / 1000, "preprocess": {"kind": "jpeg"},
    "input": {"name": "image", "dtype": "FP32", "shape": [3, size, size]},
})
models = entry_models(spec, (image,), (scores,), ())
step, public = models.preprocess, models.ensembles("net")[0]
parameters = preprocess_parameters(spec.preprocess)
extras = {
    step.name: {
        "config.pbtxt": config.preprocess_config(step.name, step.inputs, step.outputs, parameters),
        "1/model.py": model_py("preprocess"),
    },
    public.name: {"config.pbtxt": config.ensemble_config(public), "1/.keep": ""},
}
stage = EmulatedStage(tuple(latency_us), ("a",) * workers, (scores,))
model = EmulatedModel("net", slo_us, 100.0, image, (EmulatedPipeline(len(latency_us), (stage,)),))
manifest = write_deployment(root / "repository", [model], port, entry_extras=extras)
with ServedDeployment(root / "repository", root / "logs") as deployment:
    deployment.start()
    pids = {status.name: status.pid for status in deployment.statuses}
    address = f"{manifest.entry.host}:{manifest.entry.grpc_port}"
    print(json.dumps({"address": address, "pids": pids}), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Running:
    """A deployment that runs: where clients call it, and its servers' processes."""

    address: str
    pids: dict[str, int]


class NoCheckout(RuntimeError):
    """The older revision is not to be had: this is no git checkout with its history."""


@contextlib.contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a revision in `folder`, until the end. Raises NoCheckout."""
    added = ["git", "worktree", "add", "--detach", "--force", str(folder), revision]
    done = subprocess.run(added, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoCheckout(f"revision {revision} cannot be checked out: {done.stderr.strip()[-300:]}")
    try:
        yield folder
    finally:
        removed = ["git", "worktree", "remove", "--force", str(folder)]
        subprocess.run(removed, cwd=_ROOT, capture_output=True, check=False)


@contextlib.contextmanager
def serving(checked_out: Path, script: str, arguments: list[str], log: Path) -> Iterator[Running]:
    """A script of the checkout's own that says, as JSON on one line, what it serves, and serves until its
    input ends.
    """
    (checked_out / "front_before.py").write_text(script)
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "front_before.py", *arguments],
            cwd=checked_out,
            env=_environment(checked_out),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        try:
            assert process.stdout is not None
            yield _read(process.stdout, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=60)


def _read(stdout: IO[bytes], log: Path) -> Running:
    line = stdout.readline()
    if not line:
        raise NoCheckout(f"the older revision does not serve: {log.read_text(errors='replace')[-800:]}")
    told = json.loads(line)
    return Running(told["address"], told["pids"])


def _environment(checked_out: Path) -> dict[str, str]:
    # Servers and binaries are found beside the packages of the environment that runs us.
    triton = checked_out / ".venv"
    if not triton.exists():
        triton.symlink_to(_ROOT / ".venv")
    return {**os.environ, "PYTHONPATH": str(checked_out)}
