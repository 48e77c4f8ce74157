"""One network of the zoo through ONNX: see benchmarks.onnx."""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ensembles.zoo.catalogue import ZooEntry
from ensembles.zoo.liveliness import noise_frames
from planner.deployment import ModelSpec, ProgramSpec, input_specs
from planner.execution import ExecutorOptions
from planner.plan import BlockRange
from planner.profiling.loading import load_checked
from planner.profiling.networks.loading import load_network
from planner.profiling.onnx_files.running import PlainRun
from planner.profiling.split import Split, split_model, split_network
from planner.profiling.stages import stage_module
from python_backend.stage.executors.prepare import prepare

BATCHES = (1, 2, 8)
LEAST, MOST, ENOUGH_S = 5, 40, 3.0
"""Runs per figure: at least and at most so many, and no more once that took so long."""
ROUNDS, ROUNDS_S = 9, 60.0
"""Of comparing stages with the unsplit file: so many, or as many as fit into so long."""
Arrays = Sequence[npt.NDArray[Any]]


def row_of(each: ZooEntry, frame: tuple[int, int, int], files: Path, *, timed: bool = True) -> dict[str, Any]:
    """The figures of a network on frames of this shape; its file is in `files`, or goes there."""
    torch.set_num_threads(1)
    export_s, file = exported(each, frame, files), file_of(each, frame, files)
    spec = each.spec(shape=frame, preprocess=None, postprocess=None)
    of_file = spec.model_copy(update={"program": ProgramSpec(onnx=file)})
    loaded = load_checked(of_file)
    split = split_network(of_file, loaded.network)
    stages = [stage(split, BlockRange(k, k + 1)) for k in range(split.block_count)]
    return {
        "model": each.name,
        "frame": list(frame),
        "blocks": split.block_count,
        "operators": len(split.network.operators),
        "max_rel_error": max(_difference(file, stages, frame, batch) for batch in BATCHES),
        **(_times(spec, split, stages, frame) if timed else {}),
        "export_s": round(export_s, 1),
    }


def _times(
    spec: ModelSpec, split: Split, stages: Sequence[Any], frame: tuple[int, int, int]
) -> dict[str, float]:
    one = [frames_of(frame, 1)]
    rounds = _rounds(stage(split, BlockRange(0, split.block_count)), stages, one)
    unsplit_s = statistics.median(unsplit for unsplit, _ in rounds)
    return {
        "stages_over_unsplit": round(statistics.median(split / unsplit for unsplit, split in rounds), 4),
        "unsplit_ms": round(unsplit_s * 1e3, 2),
        "unsplit_over_torch": round(unsplit_s / torch_seconds(spec, one), 3),
    }


def file_of(each: ZooEntry, frame: tuple[int, int, int], files: Path) -> Path:
    """Where its file is among others."""
    return files / f"{each.name}-{'x'.join(map(str, frame))}.onnx"


def exported(each: ZooEntry, frame: tuple[int, int, int], files: Path) -> float:
    """Seconds that it took to export it, 0 where the file is there already."""
    file, started = file_of(each, frame, files), time.perf_counter()
    if file.is_file():
        return 0.0
    partial = file.with_suffix(".part")
    export(each, frame, partial)
    partial.replace(file)
    return time.perf_counter() - started


def export(each: ZooEntry, frame: tuple[int, int, int], file: Path) -> None:
    """The network as torch.onnx writes it, with a batch of any size."""
    export_network(load_network(each.spec(shape=frame)), frame, file)


def export_network(network: torch.nn.Module, frame: tuple[int, int, int], file: Path) -> None:
    """As `export`, of a network that is there already."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *frame),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            verbose=False,
        )
    assert program is not None
    program.save(str(file))


def stage(split: Split, blocks: BlockRange) -> Any:
    """Blocks as a stage runs them."""
    part = split.part(blocks)
    program: Any = split.network
    return prepare(
        program.program_bytes(part), part.inputs, part.outputs, ExecutorOptions(), "cpu", max(BATCHES)
    )


def frames_of(frame: tuple[int, int, int], batch: int) -> npt.NDArray[Any]:
    """Noise that differs from frame to frame."""
    frames = [noise_frames(frame, seed=batch + k)[:1] for k in range(batch)]
    made: npt.NDArray[Any] = torch.cat(frames).numpy()
    return made


def torch_seconds(spec: ModelSpec, frames: Arrays) -> float:
    """Of the unsplit network in torch's executor."""
    split = split_model(spec)
    whole = BlockRange(0, split.block_count)
    module = stage_module(split, whole)
    run = prepare(module, input_specs(spec), split.outputs, ExecutorOptions(), "cpu", max(BATCHES))
    tensors = tuple(map(torch.from_numpy, frames))
    with torch.inference_mode():
        return seconds(lambda: run(tensors))


def seconds(run: Callable[[], Any]) -> float:
    """Median processor time of one run; the first is left out."""
    run()
    times: list[float] = []
    while len(times) < LEAST or (len(times) < MOST and sum(times) < ENOUGH_S):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return statistics.median(times)


def _rounds(whole: Any, stages: Sequence[Any], values: Arrays) -> list[tuple[float, float]]:
    """(seconds unsplit, seconds of all stages) in turn, so that a busy host weighs on both alike."""
    given = [values]
    for each in stages:
        given.append(each.run(given[-1]))
    rounds: list[tuple[float, float]] = []
    while len(rounds) < ROUNDS and (not rounds or sum(map(sum, rounds)) * 2 * LEAST < ROUNDS_S):
        before = _warm(whole, values)
        split = sum(_warm(each, own) for each, own in zip(stages, given, strict=False))
        rounds.append(((before + _warm(whole, values)) / 2, split))
    return rounds


def _warm(run: Any, values: Arrays) -> float:
    """Median processor time of a few runs one after another; the first is left out."""
    times = []
    for _ in range(LEAST):
        started = time.process_time()
        run.run(values)
        times.append(time.process_time() - started)
    return statistics.median(times[1:])


def _difference(file: Path, stages: Sequence[Any], frame: tuple[int, int, int], batch: int) -> float:
    """Between the stages one after another and the file in plain onnxruntime, as a share of the range."""
    frames = [frames_of(frame, batch)]
    right = PlainRun(str(file)).run(frames)
    values: Arrays = frames
    for each in stages:
        values = each.run(values)
    shares = [
        float(np.abs(given - wanted).max() / (wanted.max() - wanted.min()))
        for given, wanted in zip(values, right, strict=True)
    ]
    return max(share if np.isfinite(share) else float("inf") for share in shares)
