"""Model specs for ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from planner.deployment import ModelSpec
from planner.profiling.onnx_files.loading import load_onnx
from planner.profiling.onnx_files.network import OnnxNetwork
from tests.onnx import files


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., ModelSpec]:
    """spec(model or path, image=(3, 8, 8)): of a file with these inputs of FP32, or name='INT64 2 3'."""

    def make(
        made: onnx.ModelProto | Path, blocks: int = 4, batch_sizes: Any = (1, 2, 4, 8), **inputs: Any
    ) -> ModelSpec:
        path = made if isinstance(made, Path) else files.saved(made, tmp_path / "net.onnx")
        listed = [_tensor(name, shape) for name, shape in (inputs or {"image": (3, 8, 8)}).items()]
        return ModelSpec(
            name="net",
            program={"onnx": path},
            inputs=listed,
            slo_ms=1000,
            blocks=blocks,
            batch_sizes=batch_sizes,
        )

    return make


@pytest.fixture
def network(spec: Callable[..., ModelSpec]) -> Callable[..., OnnxNetwork]:
    """network(model, image=(3, 8, 8)), checked."""

    def load(*args: Any, **kwargs: Any) -> OnnxNetwork:
        return loaded(spec(*args, **kwargs))

    return load


def loaded(spec: ModelSpec) -> OnnxNetwork:
    from planner.deployment import input_specs

    assert spec.program.onnx is not None
    return load_onnx(spec, input_specs(spec), spec.program.onnx)


def _tensor(name: str, shape: Any) -> dict[str, Any]:
    if isinstance(shape, str):
        dtype, *sizes = shape.split()
        return {"name": name, "dtype": dtype, "shape": tuple(map(int, sizes))}
    return {"name": name, "shape": shape}
