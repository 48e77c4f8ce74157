"""ONNX networks for those who may have none: the packages that read them are an extra of this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.deployment import ModelSpec
from planner.profile import TensorSpec
from planner.profiling.network import Network
from planner.profiling.networks.errors import ModelError


def load_onnx(spec: ModelSpec, inputs: tuple[TensorSpec, ...], file: Path) -> Network:
    """See planner.profiling.onnx_files.loading. Raises ModelError, also where the packages are missing."""
    load: Callable[..., Network] = _module(f"model {spec.name}").load_onnx
    return load(spec, inputs, file)


def check_onnx(spec: ModelSpec, network: Network, file: Path) -> tuple[str, ...]:
    """See planner.profiling.onnx_files.loading. Raises ModelError."""
    check: Callable[..., tuple[str, ...]] = _module(f"model {spec.name}").check_onnx
    return check(spec, network, file)


def input_names(spec: ModelSpec, inputs: tuple[TensorSpec, ...], file: Path) -> tuple[str, ...]:
    """The file's own names of the deployment's inputs. Raises ModelError."""
    names: Callable[..., tuple[str, ...]] = _module(f"model {spec.name}").input_names
    return names(spec, inputs, file)


def _module(where: str) -> Any:
    try:
        return importlib.import_module("planner.profiling.onnx_files.loading")
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise ModelError(
            f"{where}: program.onnx needs the packages onnx and onnxruntime (onnxruntime-gpu on a node "
            "with a GPU): pip install 'ppipe[onnx]'"
        ) from error
