"""torch.export with a dynamic batch dimension, and errors that say where in the model it failed.

Rules
- The batch is dimension 0 of the input, of every output, and of every tensor that may cross a cut.
- Programs are functional (no operator writes into a tensor), so values can be cut anywhere without regard to
  aliases.
"""

from __future__ import annotations

import contextlib
import gc
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

from planner.deployment import ModelSpec, input_spec
from planner.profile import TensorSpec
from planner.profiling.functional import make_functional
from planner.profiling.network import ModelError, load_network, load_program

MAX_BATCH = 1024
EXAMPLE_BATCH = 2  # torch.export takes sizes 0 and 1 for constants

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16, "FP16": torch.float16,
    "BF16": torch.bfloat16, "INT32": torch.int32, "FP32": torch.float32, "INT64": torch.int64,
    "FP64": torch.float64,
}  # fmt: skip
TRITON_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def export_model(
    spec: ModelSpec, device: str = "cpu", network: torch.nn.Module | None = None
) -> ExportedProgram:
    """The functional program of a deployment's model, its batch dimension dynamic. Raises ModelError.

    The device 'meta' makes a program without weights, in little time and memory. `network`: the loaded
    factory's, where the caller has it.
    """
    where = f"model {spec.name}"
    if spec.program.pt2 is not None:
        program = load_program(spec.program.pt2, where)
    else:
        network = network if network is not None else load_network(spec, device)
        program = export_network(network, input_spec(spec), where, device)
    with quiet():
        functional = make_functional(program)
    _check_signature(functional, input_spec(spec), where)
    return functional


def export_network(
    network: torch.nn.Module, frame: TensorSpec, where: str, device: str = "cpu"
) -> ExportedProgram:
    """torch.export of `network` on batches of `frame`. Raises ModelError with the line that failed."""
    example = example_batch(frame, EXAMPLE_BATCH, device)
    try:
        with quiet(), _lean_tracing(), torch.no_grad(), torch.device(device):
            return torch.export.export(network, (example,), dynamic_shapes=({0: batch_dim()},))
    except Exception as error:
        _require_runs(network, example, f"{where}: does not run on input {frame.name} {frame.dtype}")
        raise ModelError(
            f"{where}: torch.export rejects it{line_of(error)}: {_first_line(error)}{_hint(error)}"
        ) from error


def _require_runs(network: torch.nn.Module, example: torch.Tensor, where: str) -> None:
    """Raise ModelError where the network fails without torch.export too."""
    if example.is_meta:
        return
    try:
        with torch.no_grad():
            network(example)
    except Exception as error:
        shape = _shape(tuple(example.shape[1:]))
        raise ModelError(f"{where} [batch, {shape}]{line_of(error)}: {_first_line(error)}") from error


def batch_dim() -> Any:
    """The batch dimension, the same in every program."""
    return Dim("batch", min=1, max=MAX_BATCH)


def example_batch(frame: TensorSpec, batch: int, device: str = "cpu") -> torch.Tensor:
    """Zeros in the shape of `batch` frames. Raises ModelError for a dtype that torch does not have."""
    if frame.dtype not in TORCH_DTYPES:
        raise ModelError(f"input {frame.name}: dtype {frame.dtype} is not one of {', '.join(TORCH_DTYPES)}")
    return torch.zeros((batch, *frame.shape), dtype=TORCH_DTYPES[frame.dtype], device=device)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch's own deprecation warnings are not the user's concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _lean_tracing() -> Iterator[None]:
    """Trace without what nobody reads: a stack per operator, and looking for garbage among what all stays.

    An eighth of the time together.
    """
    traces, collecting = torch.fx.config.do_not_emit_stack_traces, gc.isenabled()
    torch.fx.config.do_not_emit_stack_traces = True
    gc.disable()
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = traces
        if collecting:
            gc.enable()


def line_of(error: BaseException) -> str:
    """' at FILE:LINE in FUNCTION (`CODE`)' of the innermost frame of the model's own code, or ''."""
    torch_folder, here = str(Path(torch.__file__).parent), str(Path(__file__).parent)
    frames = list(traceback.extract_tb(error.__traceback__))
    # The callers' frames come first; the model's are those after this package called torch.
    called = max((index for index, frame in enumerate(frames) if frame.filename.startswith(here)), default=-1)
    for frame in reversed(frames[called + 1 :]):
        outside = not frame.filename.startswith((torch_folder, "<")) and not frame.filename.endswith(
            "contextlib.py"
        )
        if outside:
            return f" at {frame.filename}:{frame.lineno} in {frame.name} (`{frame.line}`)"
    return ""


def _check_signature(program: ExportedProgram, frame: TensorSpec, where: str) -> None:
    signature = program.graph_signature
    if len(signature.user_inputs) != 1:
        raise ModelError(
            f"{where}: the program takes {len(signature.user_inputs)} tensors; one input, {frame.name}, is "
            "supported"
        )
    for output in signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            raise ModelError(
                f"{where}: the program writes to {output.target or output.arg.name} while it runs; a served "
                "model must not change between frames"
            )
    name = signature.user_inputs[0]  # made anew at every call
    node = next(node for node in program.graph.nodes if node.name == name)
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        raise ModelError(f"{where}: input {frame.name} is a {type(value).__name__}, not a tensor")
    if value.dim() == 0 or not isinstance(value.shape[0], torch.SymInt):
        raise ModelError(
            f"{where}: the batch dimension (dimension 0 of input {frame.name}) is fixed at "
            f"{value.shape[0] if value.dim() else 'nothing: a scalar'}; export it as dynamic"
        )
    shape = tuple(value.shape[1:])
    if any(isinstance(size, torch.SymInt) for size in shape) or shape != frame.shape:
        raise ModelError(
            f"{where}: input {frame.name} is [batch, {_shape(shape)}] in the program and "
            f"[batch, {_shape(frame.shape)}] in the deployment"
        )
    if value.dtype != TORCH_DTYPES.get(frame.dtype):
        raise ModelError(
            f"{where}: input {frame.name} is {TRITON_DTYPES.get(value.dtype, value.dtype)} in the program "
            f"and {frame.dtype} in the deployment"
        )


def _shape(shape: tuple[Any, ...]) -> str:
    return ", ".join(str(size) for size in shape)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _hint(error: BaseException) -> str:
    text = str(error)
    if "specialized" in text or "Constraints violated" in text:
        return (
            "; the model fixes the batch dimension to a constant: dimension 0 of its input must be the "
            "batch, "
            "of any size"
        )
    if "data-dependent" in text:
        return "; control flow that depends on data cannot be exported: use torch.where or torch.cond"
    return ""
