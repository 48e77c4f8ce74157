"""From a model in a deployment to its network, of whatever kind, with or without asking whether it may be
served.

Profiling asks (load_checked); whoever exports what was profiled does not ask again (load), as the split's
digest tells whether the network is still the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from planner.deployment import ModelSpec, input_specs
from planner.profiling.network import Network
from planner.profiling.networks.checked import checked_program, export_model
from planner.profiling.networks.network import TorchNetwork
from planner.profiling.onnx_door import check_onnx, load_onnx


@dataclass(frozen=True)
class Loaded:
    """A network that serves frame by frame. `remarks`: what its owner should know of it."""

    network: Network
    remarks: tuple[str, ...] = ()


def load(spec: ModelSpec, device: str = "cpu", module: torch.nn.Module | None = None) -> Network:
    """The network. Raises ModelError.

    The device 'meta' makes one without weights. `module`: what load_network(spec, device) gave, where the
    caller has it already.
    """
    if spec.program.onnx is not None:
        return load_onnx(spec, input_specs(spec), spec.program.onnx)
    return TorchNetwork(export_model(spec, device, module), input_specs(spec), f"model {spec.name}")


def load_checked(spec: ModelSpec, without_weights: bool = False) -> Loaded:
    """The network, once it has shown that it serves frame by frame. Raises ModelError.

    `without_weights`: weights that are not here are done without, as estimates need none.
    """
    if spec.program.onnx is not None:
        onnx = load_onnx(spec, input_specs(spec), spec.program.onnx)
        return Loaded(network=onnx, remarks=check_onnx(spec, onnx, spec.program.onnx))
    checked = checked_program(spec, without_weights=without_weights)
    network = TorchNetwork(checked.program, input_specs(spec), f"model {spec.name}")
    return Loaded(network=network, remarks=checked.remarks)
