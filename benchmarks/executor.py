"""What splitting costs, and how fast the executor is against torch itself, on whatever device is here.

Ways, in turn for `repeats` rounds, so that drifts of the host meet all alike; figures are medians of a batch:
    eager      the network as its author wrote it
    compiled   the same under torch.compile, the best of `modes`
    unsplit    the whole network as one stage program in the executor, the best of `compilers`
    stages     every block a stage program of its own, in the same way, one after another
On a GPU they are timed by CUDA events, on a CPU by the thread's processor time, which a busy host does not
stretch. Precisions are compared with FP32 on frames of noise.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from benchmarks.helpers.report import main
from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel
from planner.execution import Compiler, ExecutorOptions, Precision
from planner.plan import BlockRange
from planner.profiling.measuring.measure import MeasureOptions, chain_of
from planner.profiling.measuring.mps import SliceJob, measure_slices
from planner.profiling.measuring.timing import Run, Tensors, device_name, random_frames, time_chain
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.loading import load_network
from planner.profiling.networks.running import TorchChain
from planner.profiling.precision import precision_error
from planner.profiling.split import Split, split_model
from planner.profiling.stages import stage_module
from python_backend.stage.executors.runner import prepare

NO_GPU = "not measured: no GPU"
_WARM_UP = 3
_FACTORY = "ensembles.zoo.pytorchcv_models:classifier"
_MODES = {"cpu": "default", "cuda": "default,reduce-overhead,max-autotune"}
_COMPILERS = {"cpu": "none,inductor", "cuda": "none,inductor,aot-inductor"}


def run(
    network: str = "resnet18",
    size: int = 64,
    batch: int = 4,
    repeats: int = 15,
    modes: str = "",
    compilers: str = "",
) -> Mapping[str, Any]:
    """The figures of this benchmark. `network`: of pytorchcv, or a factory, 'package.module:callable'.
    `modes` '': those of the device; 'no' leaves torch.compile out.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    spec = _spec(network, size)
    split = split_model(spec)
    how = MeasureOptions(device=device, prepare=prepare)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        ways = _ways(spec, split, how, batch, modes or _MODES[device], compilers or _COMPILERS[device])
        frames = random_frames(split.inputs[0], batch, device, seed=0)
        times = _timed(ways, frames, device, repeats)
    medians = {way: statistics.median(values) for way, values in times.items()}
    return {
        "device": device_name(device, threads=1),
        "network": f"{network} {size} x {size}, batch {batch}, {split.block_count} stages",
        "clock": "CUDA events" if device == "cuda" else "processor time of one thread",
        "ms": {way: round(us / 1e3, 3) for way, us in medians.items()},
        **_ratios(medians),
        "repeatability": round(_repeatability(times), 4),
        "precision_error": _precision_errors(split, how),
        "slices_over_whole": _slices(spec, how) if device == "cuda" else NO_GPU,
        "gpu": device_name(device, 1) if device == "cuda" else NO_GPU,
    }


def _spec(network: str, size: int) -> ModelSpec:
    own = ":" in network
    return ModelSpec(
        name=network.partition(":")[2] or network,
        program=ProgramSpec(factory=network)
        if own
        else ProgramSpec(factory=_FACTORY, arguments={"name": network, "size": size}),
        input=TensorSpecModel(name="image", shape=(3, size, size)),
        slo_ms=60_000,
    )


def _ways(
    spec: ModelSpec, split: Split, how: MeasureOptions, batch: int, modes: str, compilers: str
) -> Mapping[str, Sequence[Run]]:
    """Programs to run one after another, by name of the way."""
    network = load_network(spec).to(how.device)
    ways: dict[str, Sequence[Run]] = {"eager": [_called(network)]}
    for mode in modes.split(","):
        if mode != "no":
            chosen = None if mode == "default" else mode
            ways[f"compiled {mode}"] = [_called(torch.compile(network, mode=chosen))]
    for compiler in compilers.split(","):
        options = ExecutorOptions(compiler=Compiler(compiler), cuda_graphs=how.device == "cuda")
        ways[f"unsplit {compiler}"] = [_whole(split, options, how, batch)]
        ways[f"stages {compiler}"] = _blocks(split, options, how, batch)
    return ways


def _called(network: Callable[..., Any]) -> Run:
    def call(inputs: Tensors) -> Tensors:
        return (network(*inputs),)

    return call


def _whole(split: Split, options: ExecutorOptions, how: MeasureOptions, batch: int) -> Run:
    blocks = BlockRange(0, split.block_count)
    module = stage_module(split, blocks)
    inputs, outputs = split.inputs_of(blocks), split.outputs_of(blocks)
    return prepare(module, inputs, outputs, options, how.device, batch)


def _blocks(split: Split, options: ExecutorOptions, how: MeasureOptions, batch: int) -> Sequence[Run]:
    chain = chain_of(split, replace(how, executor=options), batch)
    assert isinstance(chain, TorchChain)
    return chain.runs


def _timed(
    ways: Mapping[str, Sequence[Run]], frames: Tensors, device: str, repeats: int
) -> Mapping[str, list[float]]:
    """Microseconds of each round, by way."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for turn in range(repeats + _WARM_UP):
            for way, programs in ways.items():
                elapsed_us = _time(programs, frames, device)
                if turn >= _WARM_UP:
                    times[way].append(elapsed_us)
    return times


def _time(programs: Sequence[Run], frames: Tensors, device: str) -> float:
    if device == "cuda":
        return sum(time_chain(programs, frames, device, lambda: None))
    began = time.thread_time()
    values = frames
    for program in programs:
        values = program(values)
    return (time.thread_time() - began) * 1e6


def _ratios(medians: Mapping[str, float]) -> dict[str, Any]:
    best = _best(medians, "unsplit ")
    compiler = best.removeprefix("unsplit ")
    ratios: dict[str, Any] = {
        "executor": compiler,
        "stages_over_unsplit": {
            way.removeprefix("stages "): round(us / medians[way.replace("stages", "unsplit")], 3)
            for way, us in medians.items()
            if way.startswith("stages ")
        },
        "executor_over_eager": round(medians["eager"] / medians[best], 3),
    }
    if any(way.startswith("compiled ") for way in medians):
        fastest = _best(medians, "compiled ")
        ratios["torch_compile"] = fastest.removeprefix("compiled ")
        ratios["executor_over_compiled"] = round(medians[fastest] / medians[best], 3)
    return ratios


def _best(medians: Mapping[str, float], prefix: str) -> str:
    return min((way for way in medians if way.startswith(prefix)), key=lambda way: medians[way])


def _repeatability(times: Mapping[str, list[float]]) -> float:
    """Largest difference of any way between the odd and the even rounds, as a share."""
    halves = [[statistics.median(values[start::2]) for start in (0, 1)] for values in times.values()]
    return max(abs(one - other) / one for one, other in halves)


def _precision_errors(split: Split, how: MeasureOptions) -> dict[str, float]:
    return {
        precision.value: float(f"{_error(split, how, precision):.1e}")
        for precision in Precision
        if precision is not Precision.FP32
    }


def _error(split: Split, how: MeasureOptions, precision: Precision) -> float:
    return precision_error(split, replace(how, executor=ExecutorOptions(precision=precision)))


def _slices(spec: ModelSpec, how: MeasureOptions) -> Any:
    """By number of slices: time of one while the others are as busy, over the whole GPU's at batch 1."""
    job = SliceJob(spec=spec, classes=(), options=how, batch_sizes=(1,))
    try:
        found = {slices: measure_slices(job, slices) for slices in (1, 2, 4)}
    except ModelError as error:
        return f"not measured: {error}"
    totals = {slices: sum(row[0] for row in each.latency_us) for slices, each in found.items()}
    return {str(slices): round(us / totals[1], 3) for slices, us in totals.items()}


if __name__ == "__main__":
    main(
        "Splitting's cost and the executor's speed against torch.",
        run,
        network="resnet18",
        size=64,
        batch=4,
        repeats=15,
        modes="",
        compilers="",
    )
