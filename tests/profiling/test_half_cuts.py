"""Tensors between stages in FP16: half the bytes, the same network but for rounding, and a known error."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from planner.cluster import Executor
from planner.execution import ExecutorOptions, Precision
from planner.manifest import StageProgram
from planner.plan import BlockRange
from planner.profiling.measuring.measure import MeasureOptions
from planner.profiling.networks.loading import load_network
from planner.profiling.precision import precision_error
from planner.profiling.split import split_model
from planner.profiling.stages import save_stage
from python_backend.stage.executors.runner import prepare
from python_backend.stage.executors.torch_program import TorchExecutor
from tests.profiling import nets

FP32 = ExecutorOptions(precision=Precision.FP32)


def halved(spec, net):
    return split_model(spec(net).model_copy(update={"cut_dtype": "fp16"}))


def test_cuts_of_fp32_weigh_half_and_all_else_stays(spec) -> None:
    whole, half = split_model(spec(nets.LongSkip)), halved(spec, nets.LongSkip)
    assert whole.block_count == half.block_count > 1
    for before, after in zip(whole.cut_tensors, half.cut_tensors, strict=True):
        assert [tensor.name for tensor in before] == [tensor.name for tensor in after]
        assert {tensor.dtype for tensor in after if tensor != whole.inputs[0]} == {"FP16"}
    image_bytes = whole.inputs[0].bytes_per_frame
    carried = [whole.inputs[0] in cut for cut in whole.cut_tensors]
    assert half.cut_bytes == tuple(
        (size - image_bytes * with_image) // 2 + image_bytes * with_image
        for size, with_image in zip(whole.cut_bytes, carried, strict=True)
    )
    assert (half.inputs[0], half.outputs) == (whole.inputs[0], whole.outputs)
    assert half.digest != whole.digest


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_stages_of_the_executor_pass_fp16_and_agree_with_the_network(spec, tmp_path: Path, precision) -> None:
    split = halved(spec, nets.LongSkip)
    frames = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        expected = load_network(spec(nets.LongSkip))(frames).numpy()
    values = [frames.numpy()]
    for block in range(split.block_count):
        blocks = BlockRange(block, block + 1)
        path = tmp_path / f"{block}.pt2"
        save_stage(split, blocks, path)
        program = StageProgram(
            program=path.name,
            program_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            inputs=split.inputs_of(blocks),
            outputs=split.outputs_of(blocks),
            executor=Executor.CPU,
            max_batch_size=2,
            options=ExecutorOptions(precision=precision),
        )
        values = TorchExecutor(program, path, "cpu").run(values)
        assert [value.dtype for value in values] == [
            np.float16 if tensor.dtype == "FP16" else np.float32 for tensor in program.outputs
        ]
    (answer,) = values
    tolerance = 0.005 if precision is Precision.FP32 else 0.05
    assert np.abs(answer - expected).max() <= tolerance * (expected.max() - expected.min())


def test_the_error_of_fp16_cuts_is_measured(spec) -> None:
    how = MeasureOptions(executor=FP32, prepare=prepare)
    assert precision_error(split_model(spec(nets.LongSkip)), how) == 0.0
    assert 0.0 < precision_error(halved(spec, nets.LongSkip), how) < 0.01
