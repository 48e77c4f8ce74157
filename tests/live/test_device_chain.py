"""Stages of one GPU pass tensors on by DLPack, through a real server. Without a GPU on the CPU: what is taken
and given is the same code, and the memory is the host's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import handover
from model_repo_generator.emulated import write_entries
from planner.cluster import Executor
from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel
from planner.profiling.split import split_model
from ppipe.serving.launcher import ServedDeployment
from python_backend.wire.shm.layout import SMALLEST_BYTES
from tests.profiling import nets

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

SIDE = 96


def test_stages_of_one_gpu_hand_over_by_dlpack(tmp_path: Path) -> None:
    torch.manual_seed(0)
    split = split_model(
        ModelSpec(
            name="net",
            program=ProgramSpec(factory="tests.profiling.nets:Masked"),
            input=TensorSpecModel(name="image", shape=(3, SIDE, SIDE)),
            slo_ms=1000,
            blocks=4,
        )
    )
    root = tmp_path / "repository"
    executor = Executor.CUDA if torch.cuda.is_available() else Executor.CPU
    entry = handover.entry_of(split, (0, 2, 3, split.block_count), root, executor, chained=True, batches=2)
    first, second, _ = entry.programs[0]
    assert "BOOL" in {spec.dtype for spec in first.outputs + second.outputs}
    assert sum(spec.bytes_per_frame for spec in first.outputs) > SMALLEST_BYTES
    write_entries(root, [entry], entry.feedback_port + 1)
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" not in config_of(root, "net.p0.s0.w0")
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" in config_of(root, "net.p0.s1.w0")

    images = np.random.default_rng(0).standard_normal((4, 1, 3, SIDE, SIDE), np.float32)
    with ServedDeployment(root, tmp_path / "logs") as deployment:
        deployment.start()
        answers, _ = handover.answers_of(deployment.manifest, images)
        assert handover.chained_batches(deployment.manifest) >= len(images)

    torch.manual_seed(0)
    with torch.no_grad():
        wanted = nets.Masked().eval()(torch.from_numpy(images[:, 0]))
    np.testing.assert_allclose(answers, wanted.numpy(), atol=1e-2 if torch.cuda.is_available() else 1e-5)


def config_of(root: Path, name: str) -> str:
    return (root / "groups" / "one" / name / "config.pbtxt").read_text()
