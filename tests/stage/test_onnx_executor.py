"""The executor of ONNX stages: the steps of torch's, and none of torch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.prepare.pixels import normalised
from model_repo_generator.writing.bundle import BUNDLE, bundle_files
from planner import serial
from planner.cluster import Executor
from planner.execution import CONTEXT_BYTES, ExecutorOptions, Precision, Provider
from planner.manifest import StageProgram
from planner.profile import TensorSpec
from python_backend.stage import engine_cache
from python_backend.stage.executors import onnx_session
from python_backend.stage.executors.base import make_executor
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.onnx_session import SessionDevice
from tests.ensembles.recipes import recipe
from tests.onnx import files

INPUTS = (TensorSpec("size", "INT64", (2,)), TensorSpec("image", "FP32", (3, 16, 16)))
OUTPUTS = (TensorSpec("scores", "FP32", (4,)),)
RECIPE = recipe((3, 16, 16))


def program(folder: Path, **changes: Any) -> StageProgram:
    path = files.saved(files.sized(), folder / "net.onnx")
    fields = {
        "program": path.name,
        "program_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "executor": Executor.CPU,
        "max_batch_size": 4,
    }
    return StageProgram(**{**fields, **changes})


def frames(batch: int) -> list[Any]:
    rng = np.random.default_rng(batch)
    return [rng.integers(0, 9, (batch, 2)), rng.random((batch, 3, 16, 16), np.float32)]


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_batch_is_what_plain_onnxruntime_makes_of_it(tmp_path: Path, batch: int) -> None:
    import onnxruntime

    executor = make_executor(program(tmp_path), tmp_path, first_stage=True)
    executor.warm_up()
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    given = frames(batch)
    (right,) = session.run(None, {"size": given[0], "image": given[1]})
    (kept,) = executor.run(given)
    np.testing.assert_array_equal(kept, right)
    np.testing.assert_array_equal(executor.run_on_device(given)[0], right)
    executor.run(frames(4))
    np.testing.assert_array_equal(kept, right, "an answer is not overwritten by the next batch")


def test_inputs_that_lie_apart_in_memory_are_taken(tmp_path: Path) -> None:
    executor = make_executor(program(tmp_path), tmp_path, first_stage=True)
    sizes, images = frames(4)
    whole = executor.run([sizes[::2], images[::2]])
    np.testing.assert_array_equal(whole[0], executor.run([sizes[::2].copy(), images[::2].copy()])[0])


def test_pixels_become_the_input_that_they_are_for(tmp_path: Path) -> None:
    executor = make_executor(program(tmp_path), tmp_path, first_stage=True, prepare=RECIPE)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    sizes = frames(2)[0]
    made = np.stack([normalised(frame, RECIPE) for frame in pixels])
    np.testing.assert_array_equal(executor.run([sizes, pixels])[0], executor.run([sizes, made])[0])


def test_a_program_that_is_not_the_plans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="is not the program of this plan"):
        make_executor(program(tmp_path, program_sha256="0" * 64), tmp_path, first_stage=True)
    with pytest.raises(ProgramError, match="No such file"):
        make_executor(program(tmp_path, program="other.onnx"), tmp_path, first_stage=True)
    with pytest.raises(ProgramError, match="takes 2 and gives 1 tensors; the manifest says 1 and 1"):
        make_executor(program(tmp_path, inputs=INPUTS[:1]), tmp_path, first_stage=True)


def test_a_program_that_fails_says_which_it_was(tmp_path: Path) -> None:
    executor = make_executor(program(tmp_path), tmp_path, first_stage=True)
    with pytest.raises(ProgramError, match=r"net\.onnx: .*image"):
        executor.run([frames(1)[0], np.zeros((1, 3, 9, 9), np.float32)])


def test_a_gpu_without_its_provider_is_told(tmp_path: Path) -> None:
    """Where onnxruntime is built for CPUs."""
    with pytest.raises(ProgramError, match=r"provider 'cuda' is not part of .*onnxruntime-gpu"):
        make_executor(program(tmp_path, executor=Executor.CUDA), tmp_path, first_stage=True, device="cuda:0")


def test_settings_of_the_gpu_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine_cache.CACHE, str(tmp_path))
    place = SessionDevice(device="cuda:1", memory_bytes=CONTEXT_BYTES + 1000)
    settings = onnx_session.cuda_settings(ExecutorOptions(precision=Precision.FP32), place)
    assert (settings["device_id"], settings["gpu_mem_limit"], settings["use_tf32"]) == ("1", "1000", "0")
    half = ExecutorOptions(precision=Precision.FP16, provider=Provider.TENSORRT)
    settings = onnx_session.tensorrt_settings(half, place, INPUTS, 8, b"a program")
    assert settings["trt_profile_max_shapes"] == "size:8x2,image:8x3x16x16"
    assert (settings["trt_fp16_enable"], settings["trt_bf16_enable"]) == ("True", "False")
    kept = Path(settings["trt_engine_cache_path"])
    assert kept.is_dir()
    assert kept.parent == engine_cache.engine_folder(1)
    assert settings["trt_timing_cache_path"] == str(kept.parent), "layers' timings say nothing of weights"
    with pytest.raises(ProgramError, match="CUDA alone needs about"):
        onnx_session.memory_limit(CONTEXT_BYTES)


def test_engines_of_programs_that_differ_in_weights_alone_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine_cache.CACHE, str(tmp_path))
    options = ExecutorOptions(provider=Provider.TENSORRT)

    def folder(content: bytes) -> str:
        place = SessionDevice(device="cuda")
        return onnx_session.tensorrt_settings(options, place, INPUTS, 8, content)["trt_engine_cache_path"]

    assert folder(b"graph 1.0") != folder(b"graph 2.0")
    assert folder(b"graph 1.0") == folder(b"graph 1.0"), "what was profiled is there when a stage loads"


def test_engines_that_nobody_opens_any_more_go_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv(engine_cache.CACHE, str(cache))
    used, left, other = (engine_cache.engines_of(text, 0) for text in (b"used", b"left", b"other"))
    older = cache / "NVIDIA-L4-470.1" / left.name
    mine = cache / "notes"
    for folder in (older, mine):
        folder.mkdir(parents=True)
    for folder in (used, left, older, other):
        (folder / "graph.engine").write_text("an engine")
    past_s = time.time() - engine_cache.KEPT_S - 3600
    for folder in (used, left, older, mine):
        os.utime(folder, (past_s, past_s))
    assert engine_cache.engines_of(b"used", 0) == used
    assert (used / "graph.engine").exists()
    assert (other / "graph.engine").exists(), "it was opened lately"
    assert not left.exists()
    assert not older.parent.exists(), "of an earlier driver"
    assert mine.is_dir()


def test_engines_are_kept_per_kind_of_gpu_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine_cache.CACHE, str(tmp_path / "cache"))
    card = tmp_path / "proc" / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA L4\nIRQ: 25\n")
    (tmp_path / "proc" / "version").write_text("NVRM version: NVIDIA UNIX Kernel Module  550.54.15  Tue\n")
    found = engine_cache.engine_folder(0, tmp_path / "proc")
    assert found == tmp_path / "cache" / "NVIDIA-L4-550.54.15"
    assert engine_cache.engine_folder(3, tmp_path / "proc").name == "gpu-550.54.15"
    assert engine_cache.engine_folder(0, tmp_path / "none").name == "gpu-unknown"


ALONE = """
import json, sys
from pathlib import Path
import numpy as np
import python_backend.dispatcher.factory, python_backend.dispatcher.intake, python_backend.stage.factory
from planner import serial
from planner.manifest import StageProgram
from python_backend.stage.executors.base import make_executor

folder = Path(sys.argv[1])
program = serial.load(StageProgram, folder / "program.json")
executor = make_executor(program, folder, first_stage=True)
executor.warm_up()
made = executor.run([np.ones((2, 2), np.int64), np.ones((2, 3, 16, 16), np.float32)])
print(json.dumps([made[0].tolist(), sorted(name for name in sys.modules if "." not in name)]))
"""
NEEDED = (
    "numpy", "numpy.libs", "onnxruntime", "flatbuffers", "packaging", "tritonclient", "grpc", "google",
    "ml_dtypes", "rapidjson", "rapidjson.cpython-311-x86_64-linux-gnu.so", "typing_extensions.py", "six.py",
    "urllib3",
)  # fmt: skip
"""onnxruntime and tritonclient with what they need themselves."""


def test_a_copy_of_the_run_time_needs_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    for path, text in bundle_files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    site = tmp_path / "site"
    site.mkdir()
    for name in NEEDED:
        source = Path(np.__file__).parents[1] / name
        if source.exists():
            (site / name).symlink_to(source)
    made = program(tmp_path)
    (tmp_path / "program.json").write_text(serial.dumps(made), encoding="utf-8")
    environment = {"PYTHONPATH": f"{tmp_path / BUNDLE}:{site}", "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", ALONE, str(tmp_path)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer, modules = json.loads(done.stdout)
    assert not {"torch", "onnx", "PIL", "cv2", "simplejpeg", "pydantic", "yaml"}.intersection(modules)
    executor = make_executor(made, tmp_path, first_stage=True)
    given = [np.ones((2, 2), np.int64), np.ones((2, 3, 16, 16), np.float32)]
    np.testing.assert_allclose(answer, executor.run(given)[0], rtol=1e-6)
