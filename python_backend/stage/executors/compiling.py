"""The compilers of a program: none, torch.compile, or AOTInductor. Work is done while a stage warms up.

torch.compile is told that dimension 0 varies, so it compiles once for all batches, and once more for a batch
of 1, which it always treats on its own. AOTInductor compiles once. Both keep what they made in torch's
own cache (TORCHINDUCTOR_CACHE_DIR), which the workers of a stage on one host share.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from torch.fx import GraphModule

from planner.execution import Compiler
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.task import Run, Task, Tensors

_EXAMPLE_BATCH = 2
"""torch.export takes sizes 0 and 1 for constants."""


def compiled(module: GraphModule, task: Task) -> Run:
    """The program as a function. Raises ProgramError where the compiler cannot be had."""
    if task.options.compiler is not Compiler.NONE:
        require_compiler(task.device, task.options.compiler)
    return _COMPILERS[task.options.compiler](module, task)


def require_compiler(device: torch.device, compiler: Compiler) -> None:
    """Raises ProgramError where torch has no compiler for kernels of this device."""
    if device.type == "cuda" and not _has_triton():
        raise ProgramError(
            f"compiler '{compiler.value}' needs OpenAI's triton package on a GPU; install it, or set 'none'"
        )
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except Exception as error:
        raise ProgramError(
            f"compiler '{compiler.value}' needs a C++ compiler (g++ or clang++), and none is found; install "
            "one, or set 'none'"
        ) from error


def _has_triton() -> bool:
    from torch.utils._triton import has_triton

    return bool(has_triton())


def _eager(module: GraphModule, task: Task) -> Run:
    return lambda inputs: _as_tuple(module(*inputs))


def _jit(mode: str | None) -> Callable[[GraphModule, Task], Run]:
    def build(module: GraphModule, task: Task) -> Run:
        function: Any = torch.compile(module, fullgraph=True, mode=mode)

        def run(inputs: Tensors) -> Tensors:
            for tensor in inputs:
                if tensor.shape[0] > 1:
                    torch._dynamo.mark_dynamic(tensor, 0)
            return _as_tuple(function(*inputs))

        return run

    return build


def _ahead_of_time(module: GraphModule, task: Task) -> Run:
    batch = Dim("batch", min=1, max=max(_EXAMPLE_BATCH, task.largest_batch))
    dims = tuple({0: batch} for _ in task.inputs)
    try:
        with tempfile.TemporaryDirectory(prefix="ppipe-aoti-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations are not the user's concern
            program = torch.export.export(module, task.zeros(_EXAMPLE_BATCH), dynamic_shapes=dims)
            path = torch._inductor.aoti_compile_and_package(
                program, package_path=str(Path(folder) / "stage.pt2")
            )
            function: Any = torch._inductor.aoti_load_package(path)
    except Exception as error:
        raise ProgramError(f"AOTInductor rejects the program: {type(error).__name__}: {error}") from error
    return lambda inputs: _as_tuple(function(*inputs))


_COMPILERS: Mapping[Compiler, Callable[[GraphModule, Task], Run]] = {
    Compiler.NONE: _eager,
    Compiler.INDUCTOR: _jit(None),
    # Graphs are captured here or not at all; torch.compile's own would hand out memory that it reuses.
    Compiler.AUTOTUNE: _jit("max-autotune-no-cudagraphs"),
    Compiler.AOT_INDUCTOR: _ahead_of_time,
}


def _as_tuple(results: Any) -> Tensors:
    return tuple(results) if isinstance(results, tuple | list) else (results,)
