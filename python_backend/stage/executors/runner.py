"""From a program's graph to a function that runs batches: each step takes what the one before it made.

The same steps serve stages, measure blocks and run benchmarks, on a CPU and on a GPU.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from planner.execution import ExecutorOptions
from planner.profile import TensorSpec
from python_backend.stage.executors.compiling import compiled
from python_backend.stage.executors.cuda_graphs import CudaRecorder, Graphed
from python_backend.stage.executors.float32 import set_float32
from python_backend.stage.executors.program_file import warm_sizes
from python_backend.stage.executors.rewriting import rewritten
from python_backend.stage.executors.task import Run, Task


def build_run(module: GraphModule, task: Task) -> Run:
    """The prepared program; `module` is given away. Raises ProgramError.

    Build outside of torch.inference_mode(), run inside of it. Outputs may be overwritten by the next call.
    """
    set_float32(task.options.precision)
    with torch.no_grad():
        run = compiled(rewritten(module, task), task)
    return _graphed(run, task)


def prepare(
    module: GraphModule,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    options: ExecutorOptions,
    device: str,
    largest_batch: int,
) -> Run:
    """build_run as planner.profiling.measuring.measure calls it: what is timed is what is served."""
    return build_run(module, Task(options, torch.device(device), inputs, outputs, largest_batch))


def _graphed(run: Run, task: Task) -> Run:
    options = task.options
    if not options.cuda_graphs or task.device.type != "cuda":
        return run
    sizes = warm_sizes(task.largest_batch, options.pad_to_captured)
    return Graphed(run, CudaRecorder(task.device), sizes, options.pad_to_captured)
