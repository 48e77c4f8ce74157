"""Stages joined from the programs of their blocks, against programs that were exported for the stages.

One network as a torch program and as an ONNX file, cut into two stages. Ways alternate batch by batch within
a turn and swap places from one to the next, so that what the host does meanwhile meets both. Ratios are
joined over alone, with intervals over all turns (see benchmarks.paired): processor time and latency of a
batch (the median of a turn), and, of fresh processes, what it takes until a stage could serve.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.helpers.networks import block_ways
from benchmarks.helpers.networks.block_ways import WAYS
from benchmarks.helpers.networks.onnx_zoo import export_network
from benchmarks.helpers.report import main
from benchmarks.paired import Turn, summary
from model_repo_generator.export import SplitPrograms, write_programs
from model_repo_generator.writing.write import hash_file
from planner import serial
from planner.cluster import Executor
from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel
from planner.execution import Compiler, ExecutorOptions
from planner.manifest import StageProgram
from planner.plan import BlockRange
from planner.profile import ProgramFormat
from planner.profiling.networks.loading import load_network
from planner.profiling.networks.saving import program_bytes
from planner.profiling.onnx_files.running import noise_of
from planner.profiling.split import Split, split_model
from planner.profiling.stages import export_stage
from python_backend.stage.executors.base import StageExecutor

LARGEST = 4
_FACTORY = "ensembles.zoo.pytorchcv_models:classifier"
_WARM_UP = 2
Stages = Sequence[StageExecutor]


@dataclass(frozen=True)
class Sample:
    """One batch through all stages."""

    cpu_s: float
    wall_s: float


def run(
    network: str, size: int, turns: int, rounds: int, loads: int, compiler: str, kinds: str, batches: str
) -> Mapping[str, Any]:
    """The figures. network: of pytorchcv. rounds: batches of each way in a turn; loads: processes of each."""
    torch.set_num_threads(1)
    spec = ModelSpec(
        name=network,
        program=ProgramSpec(factory=_FACTORY, arguments={"name": network, "size": size}),
        input=TensorSpecModel(name="image", shape=(3, size, size)),
        slo_ms=60_000,
    )
    options = ExecutorOptions(compiler=Compiler(compiler))
    with tempfile.TemporaryDirectory(prefix="ppipe-blocks-") as name:
        root = Path(name)
        specs = {"torch": spec}
        if "onnx" in kinds:
            export_network(load_network(spec), (3, size, size), root / "net.onnx")
            specs["onnx"] = spec.model_copy(update={"program": ProgramSpec(onnx=root / "net.onnx")})
        found: dict[str, Any] = {"network": f"{network} {size} x {size}", "stages": 2, "compiler": compiler}
        for kind in kinds.split(","):
            split, folder = split_model(specs[kind]), root / kind
            sizes = _write(split, folder, options)
            found[kind] = {
                "blocks": split.block_count,
                **_compared(split, folder, turns, rounds, list(map(int, batches.split(",")))),
                **(_loads(folder, loads) if loads else {}),
                "disk_mb": sizes,
            }
    return found


def _write(split: Split, folder: Path, options: ExecutorOptions) -> Mapping[str, float]:
    """Both ways' files and their StagePrograms; megabytes of each, for one plan and for two of other cuts."""
    (folder / "programs").mkdir(parents=True)
    made = SplitPrograms(split.model, "split", split.block_count, split.network.format)
    write_programs(split, made, {path: folder / path for path in made.paths})
    half = split.block_count // 2
    for index, blocks in enumerate(_cut(split, half)):
        alone = folder / f"alone.{index}.{split.network.format.value}"
        alone.write_bytes(_content(split, blocks))
        joined = StageProgram(
            program=made.list_path,
            program_sha256=hash_file(folder / made.list_path),
            inputs=split.inputs_of(blocks),
            outputs=split.outputs_of(blocks),
            executor=Executor.CPU,
            max_batch_size=LARGEST,
            options=options,
            first_block=blocks.start,
            past_block=blocks.end,
        )
        serial.save(joined, folder / f"joined.{index}.json")
        own = replace(
            joined, program=alone.name, program_sha256=hash_file(alone), first_block=0, past_block=0
        )
        serial.save(own, folder / f"alone.{index}.json")
    ours = _mb((folder / path).stat().st_size for path in made.paths)
    one = _mb(path.stat().st_size for path in folder.glob(f"alone.*.{split.network.format.value}"))
    other = _mb(len(_content(split, blocks)) for blocks in _cut(split, half - 1))
    return {"joined, any plan": ours, "alone, one plan": one, "alone, two plans": round(one + other, 2)}


def _cut(split: Split, after: int) -> Sequence[BlockRange]:
    return BlockRange(0, after), BlockRange(after, split.block_count)


def _content(split: Split, blocks: BlockRange) -> bytes:
    """The program of a stage alone, its ends as they travel."""
    network: Any = split.network
    if network.format is ProgramFormat.TORCH:
        return program_bytes(export_stage(split, blocks))
    content: bytes = network.program_bytes(split.part(blocks))
    return content


def _compared(
    split: Split, folder: Path, turns: int, rounds: int, batches: Sequence[int]
) -> Mapping[str, Any]:
    ways = {way: _loaded(way, folder) for way in WAYS}
    found: dict[str, Any] = {}
    for batch in batches:
        frames = noise_of(split.inputs, batch, seed=batch)
        alone, joined = (_answers(ways[way], frames) for way in WAYS)
        same = all(np.array_equal(one, other) for one, other in zip(alone, joined, strict=True))
        samples = [_turn(ways, frames, rounds, number) for number in range(turns + _WARM_UP)][_WARM_UP:]
        found[f"batch {batch}"] = {
            "bit_for_bit": same,
            "cpu_ms_per_batch": _ratio(samples, lambda each: 1e3 * _cpu_s(each)),
            "latency_ms": _ratio(samples, lambda each: 1e3 * _median_s(each)),
        }
    return found


def _loaded(way: str, folder: Path) -> Stages:
    stages = [
        block_ways.load(way, serial.load(StageProgram, file), folder)
        for file in block_ways.files(folder, way)
    ]
    for stage in stages:
        stage.warm_up()
    return stages


def _answers(stages: Stages, values: Sequence[Any]) -> Sequence[Any]:
    for stage in stages:
        values = stage.run(values)
    return values


def _turn(
    ways: Mapping[str, Stages], frames: Sequence[Any], rounds: int, number: int
) -> Mapping[str, Sequence[Sample]]:
    """Samples of each way; which goes first changes from batch to batch and from turn to turn."""
    samples: dict[str, list[Sample]] = {way: [] for way in ways}
    for round_ in range(rounds):
        for way in WAYS if (round_ + number) % 2 else WAYS[::-1]:
            began, used = time.perf_counter(), time.thread_time()
            _answers(ways[way], frames)
            samples[way].append(Sample(time.thread_time() - used, time.perf_counter() - began))
    return samples


def _cpu_s(samples: Sequence[Sample]) -> float:
    return statistics.median(each.cpu_s for each in samples)


def _median_s(samples: Sequence[Sample]) -> float:
    return statistics.median(each.wall_s for each in samples)


def _ratio(samples: Sequence[Mapping[str, Any]], figure: Any) -> Mapping[str, Any]:
    """Medians of both ways, and joined over alone with its interval."""
    told = summary([Turn(*(figure(each[way]) for way in WAYS)) for each in samples])
    return {
        "alone": round(told["before"], 3),
        "joined": round(told["after"], 3),
        "ratio": told["ratio"],
        "interval": told["interval"],
        "width": told["width"],
        "turns": told["turns"],
    }


def _loads(folder: Path, count: int) -> Mapping[str, Any]:
    """Of the first stage in processes of its own."""
    turns = []
    for number in range(count):
        ways = WAYS if number % 2 else WAYS[::-1]
        turns.append({way: _process(way, folder) for way in ways})
    return {
        name: _ratio(turns, lambda each, name=name: each[name])
        for name in ("load_s", "load_cpu_s", "resident_mb", "peak_mb")
    }


def _process(way: str, folder: Path) -> Mapping[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.helpers.networks.block_ways", way, str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: Mapping[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _mb(sizes: Iterable[int]) -> float:
    return round(sum(sizes) / 1e6, 2)


if __name__ == "__main__":
    main(
        "Stages joined from programs of blocks, against programs of their own.",
        run,
        network="resnet18",
        size=224,
        turns=12,
        rounds=10,
        loads=10,
        compiler="none",
        kinds="torch,onnx",
        batches=f"1,{LARGEST}",
    )
