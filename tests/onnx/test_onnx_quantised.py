"""Statically quantised files: cut at the INT8 tensors between Q and DQ, and bit-equal to the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from planner.plan import BlockRange
from planner.profiling.loading import load_checked
from planner.profiling.onnx_files.running import PlainRun, noise_of
from planner.profiling.split import split_network
from python_backend.stage.executors.onnx_join import joined
from tests.onnx import files

FRAME = (3, 16, 16)


class Noise(CalibrationDataReader):
    """A few frames to calibrate by."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self._frames = iter([rng.random((1, *FRAME), np.float32) for _ in range(4)])

    def get_next(self):
        frame = next(self._frames, None)
        return None if frame is None else {"image": frame}


@pytest.fixture(params=[QuantType.QInt8, QuantType.QUInt8], ids=["int8", "uint8"])
def quantised(request, tmp_path: Path) -> Path:
    whole, prepared, made = (tmp_path / f"{name}.onnx" for name in ("whole", "prepared", "made"))
    files.saved(files.chain(depth=6, channels=8), whole)
    quant_pre_process(str(whole), str(prepared))
    quantize_static(
        str(prepared),
        str(made),
        Noise(),
        quant_format=QuantFormat.QDQ,
        activation_type=request.param,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Without VNNI sums of 8-bit products saturate, and where depends on which kernels are fused.
        reduce_range=True,
    )
    return made


@pytest.mark.filterwarnings("ignore")  # onnxruntime.quantization's own
def test_a_quantised_file_is_cut_between_q_and_dq_and_is_bit_equal(spec, quantised, tmp_path):
    wanted = spec(quantised, blocks=3, image=FRAME)
    split = split_network(wanted, load_checked(wanted).network)
    assert split.block_count == 3
    assert {tensor.dtype for cut in split.cut_tensors for tensor in cut} <= {"INT8", "UINT8"}
    stages = [
        PlainRun(split.network.program_bytes(split.part(BlockRange(k, k + 1))))
        for k in range(split.block_count)
    ]
    paths = [tmp_path / f"block{k}.onnx" for k in range(split.block_count)]
    for k, path in enumerate(paths):
        split.network.save(split.part(BlockRange(k, k + 1)), path)
    blocks = [path.read_bytes() for path in paths]
    again = PlainRun(joined(blocks, split.inputs, split.outputs).content)
    whole = PlainRun(str(quantised))
    for batch in (1, 2, 8):
        frames = noise_of(split.inputs, batch, seed=batch)
        values = frames
        for stage in stages:
            values = stage.run(values)
        for given, same, right in zip(values, again.run(frames), whole.run(frames), strict=True):
            np.testing.assert_array_equal(given, right)
            np.testing.assert_array_equal(same, right)


@pytest.mark.filterwarnings("ignore")
def test_weights_stay_whole_numbers_in_the_stages(spec, quantised):
    wanted = spec(quantised, blocks=2, image=FRAME)
    split = split_network(wanted, load_checked(wanted).network)
    program = split.network.program(split.part(BlockRange(1, 2)))
    kernels = [each for each in program.graph.initializer if len(each.dims) == 4]
    assert kernels
    assert {each.data_type for each in kernels} == {3}, "INT8"
    sizes = [split.network.weight_bytes(split.span(BlockRange(k, k + 1))) for k in (0, 1)]
    assert sum(sizes) < 0.5 * sum(
        4 * np.prod(each.dims) for each in files.chain(6, channels=8).graph.initializer
    )
