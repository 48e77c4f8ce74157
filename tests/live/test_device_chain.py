"""Stages of one GPU pass tensors on by DLPack, through a real server. Here the GPU is the CPU: what is taken
and given is the same code, and the memory is the host's.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from planner.cluster import Executor
from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel
from planner.manifest import Chain, ModelEntry, StageProgram
from planner.plan import BlockRange
from planner.profiling.split import split_model
from planner.profiling.stages import save_stage
from ppipe.benchmarks.emulated_deployment import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
    write_entries,
)
from ppipe.launcher import ServedDeployment
from ppipe.ports import free_base
from python_backend.runtime.shm_layout import SMALLEST_BYTES
from tests.live.test_data_plane_chain import metrics
from tests.profiling import nets

pytestmark = pytest.mark.live

SIDE = 96
LATENCY_US = (20_000, 30_000)


def entry_on_one_gpu(root: Path) -> ModelEntry:
    """Three stages of nets.Masked in one server, chained as on GPU 0; across one cut goes a BOOL tensor."""
    split = split_model(
        ModelSpec(
            name="net",
            program=ProgramSpec(factory="tests.profiling.nets:Masked"),
            input=TensorSpecModel(name="image", shape=(3, SIDE, SIDE)),
            slo_ms=1000,
            blocks=4,
        )
    )
    ranges = [BlockRange(start, end) for start, end in pairwise((0, 2, 3, split.block_count))]
    (root / "programs").mkdir(parents=True)
    programs = []
    for blocks in ranges:
        path = root / "programs" / f"net.b{blocks.start}-{blocks.end}.pt2"
        save_stage(split, blocks, path)
        programs.append(
            StageProgram(
                program=f"programs/{path.name}",
                program_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                inputs=split.inputs_of(blocks),
                outputs=split.outputs_of(blocks),
                executor=Executor.CPU,
                max_batch_size=2,
            )
        )
    stages = tuple(EmulatedStage(LATENCY_US, ("one",), program.outputs) for program in programs)
    model = EmulatedModel("net", 2_000_000, 10.0, programs[0].inputs[0], (EmulatedPipeline(2, stages),))
    entry = build_manifest([model], free_base(31_000, 8), "d").models[0]
    workers = tuple(stage.workers[0].name for stage in entry.served.pipelines[0].stages)
    return replace(entry, programs=(tuple(programs),), chains=(Chain("net.p0", 0, "one", workers, gpu_id=0),))


def test_stages_of_one_gpu_hand_over_by_dlpack(tmp_path: Path) -> None:
    torch.manual_seed(0)
    root = tmp_path / "repository"
    entry = entry_on_one_gpu(root)
    first, second, _ = entry.programs[0]
    assert "BOOL" in {spec.dtype for spec in first.outputs + second.outputs}
    assert sum(spec.bytes_per_frame for spec in first.outputs) > SMALLEST_BYTES
    manifest = write_entries(root, [entry], entry.feedback_port + 1)
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" not in config_of(root, "net.p0.s0.w0")
    assert "FORCE_CPU_ONLY_INPUT_TENSORS" in config_of(root, "net.p0.s1.w0")

    with ServedDeployment(root, tmp_path / "logs") as deployment:
        deployment.start()
        frames = np.random.default_rng(0).standard_normal((4, 1, 3, SIDE, SIDE), np.float32)
        client = triton.InferenceServerClient(f"{manifest.entry.host}:{manifest.entry.grpc_port}")
        answers = []
        for frame in frames:
            tensor = triton.InferInput(entry.input.name, list(frame.shape), "FP32")
            tensor.set_data_from_numpy(frame)
            answers.append(client.infer(entry.dispatcher, [tensor]).as_numpy(entry.outputs[0].name))
        client.close()
        found = metrics(deployment.manifest)
        sent = sum(value for name, value in found.items() if name.startswith("ppipe_batches_total"))
        assert found["ppipe_chained_batches_total"] == sent >= len(frames)

    with torch.no_grad():
        wanted = split_whole()(torch.from_numpy(frames[:, 0]))
    np.testing.assert_allclose(np.concatenate(answers), wanted.numpy(), atol=1e-5)


def split_whole() -> nets.Masked:
    """The network whose weights the programs have."""
    torch.manual_seed(0)
    return nets.Masked().eval()


def config_of(root: Path, name: str) -> str:
    return (root / "groups" / "one" / name / "config.pbtxt").read_text()
