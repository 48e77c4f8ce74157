"""What passes between stages of one GPU: on the device (a chain, DLPack, CUDA IPC) or through host memory.

A network in three stages on one tritonserver, on GPU 0, or on the CPU where there is none; the same programs
both ways, frames one at a time through the dispatcher, whose time is the same in both. Without a GPU both
ways are in host memory, so only the answers mean anything, and that the way is the one that was asked for.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tritonclient.grpc as triton

from benchmarks.helpers.report import main
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
    write_entries,
)
from planner.cluster import Executor
from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel
from planner.manifest import Chain, DeploymentManifest, ModelEntry, StageProgram
from planner.plan import BlockRange
from planner.profiling.measuring.timing import device_name
from planner.profiling.split import Split, split_model
from planner.profiling.stages import save_stage
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

Frames = npt.NDArray[np.float32]
NO_GPU = "not measured: no GPU"
_FACTORY = "ensembles.zoo.pytorchcv_models:classifier"
_LATENCY_US = (20_000,)
"""Reserved for a stage; it is not held so long."""
_SLO_US = 10_000_000
_WARM_UP = 5


def run(network: str = "resnet18", size: int = 224, frames: int = 100) -> Mapping[str, Any]:
    """The figures of this benchmark."""
    cuda = torch.cuda.is_available()
    spec = ModelSpec(
        name="net",
        program=ProgramSpec(factory=_FACTORY, arguments={"name": network, "size": size}),
        input=TensorSpecModel(name="image", shape=(3, size, size)),
        slo_ms=60_000,
    )
    split = split_model(spec)
    cuts = (0, split.block_count // 3, 2 * split.block_count // 3, split.block_count)
    images = np.random.default_rng(0).standard_normal((frames, 1, 3, size, size), np.float32)
    results = {way: _served(split, cuts, way == "device", cuda, images) for way in ("host", "device")}
    median_ms = {way: statistics.median(times) for way, (_, times, _) in results.items()}
    return {
        "device": device_name("cuda" if cuda else "cpu", threads=1),
        "network": f"{network} {size} x {size}, three stages of one server",
        "cut_bytes": [split.cut_bytes[cut - 1] for cut in cuts[1:-1]],
        "ms": {way: round(value, 3) for way, value in median_ms.items()},
        "device_over_host": round(median_ms["device"] / median_ms["host"], 3),
        "chained_batches": {way: chained for way, (_, _, chained) in results.items()},
        "largest_difference": float(np.abs(results["host"][0] - results["device"][0]).max()),
        "context_mib": _context_mib() if cuda else NO_GPU,
    }


def entry_of(
    split: Split, cuts: Sequence[int], root: Path, executor: Executor, chained: bool, batches: int = 1
) -> ModelEntry:
    """Stages between `cuts`, saved under `root`, with a worker each on one server; chained as on GPU 0."""
    (root / "programs").mkdir(parents=True, exist_ok=True)
    ranges = [BlockRange(start, end) for start, end in pairwise(cuts)]
    programs = tuple(_program(split, blocks, root, executor, batches) for blocks in ranges)
    stages = tuple(EmulatedStage(_LATENCY_US * batches, ("one",), program.outputs) for program in programs)
    model = EmulatedModel(split.model, _SLO_US, 10.0, split.inputs[0], (EmulatedPipeline(batches, stages),))
    entry = build_manifest([model], free_base(31_000, 8), "handover").models[0]
    workers = tuple(stage.workers[0].name for stage in entry.served.pipelines[0].stages)
    chains = (Chain(f"{split.model}.p0", 0, "one", workers, gpu_id=0),) if chained else ()
    return replace(entry, programs=(programs,), chains=chains)


def _program(split: Split, blocks: BlockRange, root: Path, executor: Executor, batches: int) -> StageProgram:
    path = root / "programs" / f"{split.model}.b{blocks.start}-{blocks.end}.pt2"
    save_stage(split, blocks, path)
    return StageProgram(
        program=f"programs/{path.name}",
        program_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        inputs=split.inputs_of(blocks),
        outputs=split.outputs_of(blocks),
        executor=executor,
        max_batch_size=batches,
    )


def _served(
    split: Split, cuts: Sequence[int], chained: bool, cuda: bool, images: Frames
) -> tuple[Frames, list[float], int]:
    """(answers, milliseconds of each frame, batches that went to the chain)."""
    with tempfile.TemporaryDirectory(prefix="ppipe-handover-") as folder:
        root = Path(folder) / "repository"
        entry = entry_of(split, cuts, root, Executor.CUDA if cuda else Executor.CPU, chained)
        write_entries(root, [entry], entry.feedback_port + 1)
        with ServedDeployment(root, Path(folder) / "logs") as deployment:
            deployment.start()
            answers, times = answers_of(deployment.manifest, images)
            return answers, times[_WARM_UP:], chained_batches(deployment.manifest)


def answers_of(manifest: DeploymentManifest, images: Frames) -> tuple[Frames, list[float]]:
    """The first output for each frame, sent one at a time to the dispatcher, and milliseconds of each."""
    (entry,) = manifest.models
    client = triton.InferenceServerClient(manifest.entry.grpc_address)
    answers, times = [], []
    for image in images:
        tensor = triton.InferInput(entry.input.name, list(image.shape), entry.input.dtype)
        tensor.set_data_from_numpy(image)
        began = time.perf_counter()
        answers.append(client.infer(entry.dispatcher, [tensor]).as_numpy(entry.outputs[0].name))
        times.append((time.perf_counter() - began) * 1e3)
    client.close()
    return np.concatenate(answers), times


def chained_batches(manifest: DeploymentManifest) -> int:
    """What the dispatcher's own metrics say."""
    page = manifest.metrics_url(manifest.models[0])
    with urllib.request.urlopen(page, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        int(float(line.split()[-1])) for line in lines if line.startswith("ppipe_chained_batches_total")
    )


def _context_mib() -> int:
    """Of this process, on a GPU that nobody else uses: what is taken and is not torch's."""
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    return int(total - free - torch.cuda.memory_reserved()) >> 20


if __name__ == "__main__":
    main(
        "Tensors between stages of one GPU: on the device, or through host memory.",
        run,
        network="resnet18",
        size=224,
        frames=100,
    )
