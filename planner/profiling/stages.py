"""Programs of blocks [start, end) of a split model, saved as the same bytes.

Rules
- What is saved is joined with others by stages (planner.programs): the operators alone. What is exported and
  not saved is a stage of its own, whose ends are as they travel.
- Inputs and outputs are positional tensors in the order of Split.inputs_of and Split.outputs_of, batch first.
- A program holds the weights of its own operators and no others.
- Nothing that differs between machines is saved: no source paths, no example inputs.
"""

from __future__ import annotations

from pathlib import Path

from torch.export import ExportedProgram
from torch.fx import GraphModule

from planner.plan import BlockRange
from planner.profiling.networks.network import TorchNetwork
from planner.profiling.split import Split


def save_stage(split: Split, blocks: BlockRange, path: Path) -> None:
    """Export the operators of blocks [start, end) and save them at `path`, to be joined; the same split gives
    the same bytes.

    Raises ModelError, and ValueError past the last block.
    """
    split.network.save(split.part(blocks), path)


def export_stage(split: Split, blocks: BlockRange) -> ExportedProgram:
    """The program of blocks [start, end) of a torch network. Raises ModelError, ValueError, TypeError."""
    return _torch(split).exported(split.part(blocks))


def stage_module(split: Split, blocks: BlockRange) -> GraphModule:
    """Blocks [start, end) of a torch network as a module with positional tensor inputs and a tuple of
    outputs. Raises ValueError, TypeError.
    """
    return _torch(split).module(split.part(blocks))


def _torch(split: Split) -> TorchNetwork:
    if not isinstance(split.network, TorchNetwork):
        raise TypeError(f"model {split.model} is no torch program")
    return split.network
