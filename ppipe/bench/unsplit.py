"""The unsplit network, run here: what a served answer must be, of whatever kind the network is.

An ONNX file is run as it is by plain onnxruntime; nothing that splits has a hand in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from planner.deployment import ModelSpec, input_specs
from planner.profile import TensorSpec
from planner.profiling.networks.export import TORCH_DTYPES
from planner.profiling.networks.loading import load_network, load_program
from planner.profiling.onnx_door import input_names
from ppipe.bench.target import Inputs, Tensor
from python_backend.wire.kserve import NUMPY_OF

_IMAGES = 4
"""Dimensions of a batch of images."""


class Unsplit(Protocol):
    """A network that answers frames, and outputs as they travel, without batch dimension."""

    def answer(self, frame: Inputs) -> list[Tensor]:
        """To one frame alone."""

    def answers_otherwise(self, frame: Inputs) -> list[list[Tensor]]:
        """To the same frame in other ways that are as right: in another layout, with itself beside it."""


def unsplit(spec: ModelSpec, outputs: Sequence[TensorSpec]) -> Unsplit:
    """The network of a model. Raises planner.profiling's ModelError."""
    return _OnnxUnsplit(spec, outputs) if spec.program.onnx is not None else _TorchUnsplit(spec, outputs)


class _TorchUnsplit:
    def __init__(self, spec: ModelSpec, outputs: Sequence[TensorSpec]) -> None:
        self._outputs = outputs
        self._network = _network(spec)

    def answer(self, frame: Inputs) -> list[Tensor]:
        return self._run([torch.from_numpy(tensor[np.newaxis]) for tensor in frame])

    def answers_otherwise(self, frame: Inputs) -> list[list[Tensor]]:
        pair = [torch.from_numpy(np.stack([tensor, tensor])) for tensor in frame]
        ways = [pair]
        if any(tensor.dim() == _IMAGES for tensor in pair):
            ways.append([_channels_last(tensor) for tensor in pair])
        return [self._run(ways[0]), *(made for way in ways[1:] if (made := self._run_if_taken(way)))]

    def _run_if_taken(self, tensors: Sequence[torch.Tensor]) -> list[Tensor]:
        """As _run; [] where the network does not take this layout, as one with x.view(...)."""
        try:
            return self._run(tensors)
        except RuntimeError:
            return []

    def _run(self, tensors: Sequence[torch.Tensor]) -> list[Tensor]:
        """What is returned for the first frame."""
        with torch.inference_mode():
            result = self._network(*tensors)
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        return [
            leaf.detach().to(TORCH_DTYPES[spec.dtype]).numpy()[0].reshape(spec.shape)
            for leaf, spec in zip(leaves, self._outputs, strict=True)
        ]


class _OnnxUnsplit:
    def __init__(self, spec: ModelSpec, outputs: Sequence[TensorSpec]) -> None:
        import onnxruntime  # an extra

        assert spec.program.onnx is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._outputs = outputs
        self._session = onnxruntime.InferenceSession(
            str(spec.program.onnx), options, providers=["CPUExecutionProvider"]
        )
        self._names = input_names(spec, input_specs(spec), spec.program.onnx)
        self._alone = set(spec.batch_sizes) == {1}

    def answer(self, frame: Inputs) -> list[Tensor]:
        return self._run([tensor[np.newaxis] for tensor in frame])

    def answers_otherwise(self, frame: Inputs) -> list[list[Tensor]]:
        if self._alone or self._is_fixed():
            return []
        return [self._run([np.stack([tensor, tensor]) for tensor in frame])]

    def _is_fixed(self) -> bool:
        return any(isinstance(each.shape[0], int) for each in self._session.get_inputs())

    def _run(self, tensors: Sequence[npt.NDArray[Any]]) -> list[Tensor]:
        made = self._session.run(None, dict(zip(self._names, tensors, strict=True)))
        return [
            np.asarray(array[0], NUMPY_OF[spec.dtype]).reshape(spec.shape)
            for array, spec in zip(made, self._outputs, strict=True)
        ]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == _IMAGES else tensor


def _network(spec: ModelSpec) -> torch.nn.Module:
    if spec.program.pt2 is not None:
        program = load_program(
            spec.program.pt2, f"model {spec.name}", spec.program.imports, spec.program.sha256
        )
        module: torch.nn.Module = program.module()
        return module
    return load_network(spec)
