"""Blocks joined: any stage of a split is what it would be as a program of its own, bit for bit."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from model_repo_generator.export import SplitPrograms, write_programs
from model_repo_generator.writing.write import hash_file
from planner.cluster import Executor
from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel
from planner.execution import ExecutorOptions, Precision
from planner.manifest import StageProgram
from planner.plan import BlockRange
from planner.profile import ProgramFormat
from planner.profiling.networks.saving import program_bytes
from planner.profiling.onnx_files.running import noise_of
from planner.profiling.split import Split, split_model
from planner.profiling.stages import export_stage
from python_backend.stage.executors.base import StageExecutor, make_executor
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.onnx_join import joined
from python_backend.stage.executors.onnx_session import OnnxSession, SessionDevice
from python_backend.stage.executors.runner import build_run
from python_backend.stage.executors.task import Task
from tests.onnx import files

BATCHES = (3, 1)


def split_of(program: Any, shape: tuple[int, ...], cut_dtype: str = "fp32", blocks: int = 10) -> Split:
    spec = ModelSpec(
        name="net",
        program=ProgramSpec(**program),
        input=TensorSpecModel(name="image", shape=shape),
        slo_ms=1000,
        blocks=blocks,
        cut_dtype=cut_dtype,
    )
    return split_model(spec)


def written(split: Split, kind: ProgramFormat, folder: Path) -> SplitPrograms:
    made = SplitPrograms("net", "ab12cd", split.block_count, kind)
    (folder / "programs").mkdir()
    write_programs(split, made, {path: folder / path for path in made.paths})
    return made


def stage_of(split: Split, made: SplitPrograms, folder: Path, blocks: BlockRange, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "program": made.list_path,
        "program_sha256": hash_file(folder / made.list_path),
        "inputs": split.inputs_of(blocks),
        "outputs": split.outputs_of(blocks),
        "executor": Executor.CPU,
        "max_batch_size": max(BATCHES),
        "first_block": blocks.start,
        "past_block": blocks.end,
    }
    return StageProgram(**{**fields, **changes})


def stage(
    split: Split, made: SplitPrograms, folder: Path, blocks: BlockRange, **changes: Any
) -> StageExecutor:
    return make_executor(stage_of(split, made, folder, blocks, **changes), folder, blocks.start == 0)


def ranges_of(split: Split) -> list[BlockRange]:
    """The whole, and what is left of it without its ends."""
    count = split.block_count
    return [BlockRange(0, count), BlockRange(1, max(2, count - 1))]


def test_every_stage_of_a_torch_split_is_its_own_program_bit_for_bit(tmp_path: Path) -> None:
    cases = [
        ("LongSkip", "fp16", Precision.FP32),
        ("LongSkip", "fp32", Precision.BF16),
        ("BatchArithmetic", "fp32", Precision.FP32),
        ("Mixed", "fp16", Precision.FP32),
        ("Tied", "fp32", Precision.FP32),
    ]
    for name, cut_dtype, precision in cases:
        split = split_of({"factory": f"tests.profiling.nets:{name}"}, (3, 8, 8), cut_dtype)
        assert split.block_count > 1
        folder = tmp_path / f"{name}-{cut_dtype}"
        folder.mkdir()
        made, options = written(split, ProgramFormat.TORCH, folder), ExecutorOptions(precision=precision)
        for blocks in ranges_of(split):
            new = stage(split, made, folder, blocks, options=options)
            inputs, outputs = split.inputs_of(blocks), split.outputs_of(blocks)
            content = program_bytes(export_stage(split, blocks))
            task = Task(options, torch.device("cpu"), inputs, outputs, max(BATCHES))
            old = build_run(torch.export.load(io.BytesIO(content)).module(), task)
            for batch in BATCHES:
                frames = noise_of(inputs, batch, seed=batch)
                with torch.inference_mode():
                    wanted = old(tuple(map(torch.from_numpy, frames)))
                assert_same(new.run(frames), [value.numpy() for value in wanted], (name, blocks))


def awkward() -> onnx.ModelProto:
    """A weight that two blocks read, sizes that follow from the batch in two blocks, one number per frame
    across all cuts, an early output, and names that Triton does not take.
    """
    shared = files.random("shared/weight:0", 4, 4, 3, 3)
    first, kernel = files.conv("first", "image", 4, 3)

    def again(source: str, makes: str) -> onnx.NodeProto:
        return helper.make_node("Conv", [source, "shared/weight:0"], [makes], pads=[1] * 4)

    def flat_and_back(source: str, makes: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Reshape", [source, "flat"], [f"{makes}/flat"]),
            helper.make_node("Relu", [f"{makes}/flat"], [f"{makes}/active"]),
            helper.make_node("Reshape", [f"{makes}/active", "deep"], [makes]),
        ]

    nodes = [
        helper.make_node("ReduceMean", ["image"], ["level:0"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Shape", ["image"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["batch/row"]),
        helper.make_node("Concat", ["batch/row", "rest"], ["flat"], axis=0),
        helper.make_node("Concat", ["batch/row", "square"], ["deep"], axis=0),
        first,
        again("first", "a"),
        *flat_and_back("a", "b"),
        again("b", "c"),
        *flat_and_back("c", "d"),
        again("d", "e"),
        helper.make_node("Unsqueeze", ["level:0", "last"], ["level/column"]),
        helper.make_node("GlobalAveragePool", ["e"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Mul", ["features", "level/column"], ["scores"]),
    ]
    numbers = {
        "zero": np.array(0), "axis": np.array([0]), "rest": np.array([256]), "last": np.array([1]),
        "square": np.array([4, 8, 8]),
    }  # fmt: skip
    weights = [shared, kernel, *(files.weight(name, array) for name, array in numbers.items())]
    outputs = [files.value("scores", ["batch", 4]), files.value("b", ["batch", 4, 8, 8])]
    return files.model(nodes, [files.value("image", ["batch", 3, 8, 8])], outputs, weights)


@pytest.mark.parametrize("cut_dtype", ["fp32", "fp16"])
def test_every_stage_of_an_onnx_split_is_its_own_program_bit_for_bit(tmp_path: Path, cut_dtype: str) -> None:
    path = files.saved(awkward(), tmp_path / "net.onnx")
    split = split_of({"onnx": path}, (3, 8, 8), cut_dtype)
    assert split.block_count > 2
    assert {"level_0"} <= {spec.name for cut in split.cut_tensors for spec in cut}
    made = written(split, ProgramFormat.ONNX, tmp_path)
    for start in range(split.block_count):
        for end in range(start + 1, split.block_count + 1):
            blocks = BlockRange(start, end)
            inputs, outputs = split.inputs_of(blocks), split.outputs_of(blocks)
            content = split.network.program_bytes(split.part(blocks))  # type: ignore[attr-defined]
            old = OnnxSession(content, inputs, outputs, ExecutorOptions(), SessionDevice(), max(BATCHES))
            new = stage(split, made, tmp_path, blocks)
            for batch in BATCHES:
                frames = noise_of(inputs, batch, seed=batch)
                assert_same(new.run(frames), list(old.run(old.take(frames))), blocks)


def test_what_blocks_share_is_in_the_joined_file_once(tmp_path: Path) -> None:
    split = split_of({"onnx": files.saved(awkward(), tmp_path / "net.onnx")}, (3, 8, 8))
    made = written(split, ProgramFormat.ONNX, tmp_path)
    content = [(tmp_path / path).read_bytes() for path in made.block_paths]
    whole = onnx.load_from_string(joined(content, split.inputs, split.outputs).content)
    onnx.checker.check_model(whole)
    names = [weight.name for weight in whole.graph.initializer]
    assert names.count("shared/weight:0") == 1
    assert sum(b"shared/weight:0" in each for each in content) > 1
    assert len(names) == len(set(names))
    outputs = [name for node in whole.graph.node for name in node.output]
    assert len(outputs) == len(set(outputs))


def test_blocks_that_do_not_fit_together_are_told(tmp_path: Path) -> None:
    split = split_of({"onnx": files.saved(files.chain(), tmp_path / "net.onnx")}, (3, 8, 8))
    made = written(split, ProgramFormat.ONNX, tmp_path)
    first, *_, last = [(tmp_path / path).read_bytes() for path in made.block_paths]
    with pytest.raises(ProgramError, match=r"one block gives .* and the next takes .*: generate"):
        joined([first, last], split.inputs, split.outputs)
    with pytest.raises(ProgramError, match="no ONNX program: it ends within a field"):
        joined([first[:-7]], split.inputs, split.outputs)
    with pytest.raises(ProgramError, match="no ONNX program"):
        joined([b""], split.inputs, split.outputs)


@pytest.mark.parametrize("kind", list(ProgramFormat))
def test_files_that_are_not_the_plans_are_told(tmp_path: Path, kind: ProgramFormat) -> None:
    program: dict[str, Any] = {"factory": "tests.profiling.nets:Chain"}
    if kind is ProgramFormat.ONNX:
        program = {"onnx": files.saved(files.chain(), tmp_path / "net.onnx")}
    split = split_of(program, (3, 8, 8))
    made, whole = written(split, kind, tmp_path), BlockRange(0, split.block_count)
    block = tmp_path / made.block_paths[1]
    with pytest.raises(ProgramError, match=r"lists \d blocks, and the stage runs \[0, 99\)"):
        stage(split, made, tmp_path, whole, past_block=99)
    with pytest.raises(ProgramError, match=r"json is not the program of this plan"):
        stage(split, made, tmp_path, whole, program_sha256="0" * 64)
    content = block.read_bytes()
    block.write_bytes(content + b" ")
    with pytest.raises(ProgramError, match=rf"{block.name} is not the program of this plan"):
        stage(split, made, tmp_path, whole)
    stage(split, made, tmp_path, BlockRange(0, 1))
    block.unlink()
    with pytest.raises(ProgramError, match=rf"{block.name}: No such file .*; generate the repository again"):
        stage(split, made, tmp_path, whole)
    (tmp_path / made.list_path).write_text("{}")
    with pytest.raises(ProgramError, match="no list of programs"):
        stage(split, made, tmp_path, whole, program_sha256="")


def assert_same(found: Sequence[Any], wanted: Sequence[Any], where: Any) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype, where
        np.testing.assert_array_equal(one, other, err_msg=str(where))
