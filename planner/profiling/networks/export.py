"""torch.export with a dynamic batch dimension, and errors that say where in the model it failed.

Rules
- The batch is dimension 0 of the input, of every output, and of every tensor that may cross a cut.
- Programs are functional (no operator writes into a tensor), so values can be cut anywhere without regard to
  aliases, and flat: regions of autocast and no_grad are part of the graph.
- What torch.export believes of two frames is compared with the network later (see behaviour).
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

from planner.profile import TensorSpec
from planner.profiling.network import Specs
from planner.profiling.networks.errors import ModelError, first_line, line_now, line_of
from planner.profiling.networks.functional import make_functional
from planner.profiling.networks.regions import without_regions

MAX_BATCH = 1024
EXAMPLE_BATCH = 2  # torch.export takes sizes 0 and 1 for constants

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16, "FP16": torch.float16,
    "BF16": torch.bfloat16, "INT32": torch.int32, "FP32": torch.float32, "INT64": torch.int64,
    "FP64": torch.float64,
}  # fmt: skip
TRITON_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_SYMBOLS = "torch.fx.experimental.symbolic_shapes"


def finished(program: ExportedProgram, inputs: Specs, where: str, device: str = "cpu") -> ExportedProgram:
    """A program as it comes from torch.export, flat, functional and checked; the given one may be changed."""
    with quiet():
        functional = make_functional(without_regions(program, device))
    _check_signature(functional, inputs, where)
    return functional


def export_network(
    network: torch.nn.Module, inputs: Specs, where: str, device: str = "cpu"
) -> ExportedProgram:
    """torch.export of `network` on batches of these inputs. Raises ModelError with the line that failed."""
    examples = tuple(example_batch(spec, EXAMPLE_BATCH, device) for spec in inputs)
    try:
        return export_batched(network, examples, device)
    except Exception as error:
        _require_runs(network, examples, inputs, where)
        line = line_of(error) or _guarded_line(network, examples)
        raise ModelError(f"{where}: torch.export rejects it{line}: {_brief(error)}{_hint(error)}") from error


def export_batched(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], device: str = "cpu"
) -> ExportedProgram:
    """torch.export with a dynamic batch in front of every input. Raises whatever torch.export raises.

    torch decides some things by comparing sizes (is this reshape the one that changes nothing?), takes the
    decision for a rule, and then rejects the program because the rule does not hold for every batch. The
    second try keeps such rules as checks while the program runs, and they are taken out: the program is
    compared with the network afterwards, at the sizes that matter.
    """
    dims = tuple({0: batch_dim()} for _ in examples)
    with quiet(), _silent(), _lean_tracing(), torch.no_grad(), torch.device(device):
        try:
            return torch.export.export(module, examples, dynamic_shapes=dims)
        except Exception as error:
            if "satisfy the generated guard" not in str(error):
                raise
        program = torch.export.export(
            module, examples, dynamic_shapes=dims, prefer_deferred_runtime_asserts_over_guards=True
        )
    _drop_checks(program)
    return program


def _drop_checks(program: ExportedProgram) -> None:
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _require_runs(
    network: torch.nn.Module, examples: tuple[torch.Tensor, ...], inputs: Specs, where: str
) -> None:
    """Raise ModelError where the network fails without torch.export too."""
    if examples[0].is_meta:
        return
    try:
        with torch.no_grad():
            network(*examples)
    except Exception as error:
        what = " and ".join(
            f"input {spec.name} {spec.dtype} [batch, {_shape(spec.shape)}]" for spec in inputs
        )
        said = f"{where}: does not run on {what}"
        raise ModelError(f"{said}{line_of(error)}: {first_line(error)}") from error


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
def _silent() -> Iterator[None]:
    """Drop what torch prints of a graph that it rejects, and what the network itself prints."""
    log = logging.getLogger(_SYMBOLS)
    level = log.level
    if log.getEffectiveLevel() > logging.INFO:  # lower: _guarded_line listens
        log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


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


class _Guards(logging.Handler):
    """Hears where torch fixes a size, with '[guard added]', and looks which line of the network is run."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if "guard added]" in record.getMessage() and (line := line_now()):
            self.lines.append(line)


def _guarded_line(network: torch.nn.Module, examples: Sequence[torch.Tensor]) -> str:
    """' at FILE:LINE in FUNCTION (`CODE`)' where torch.export, tried once more, fixes a size; or ''."""
    log, hears = logging.getLogger(_SYMBOLS), _Guards()
    before = log.handlers, log.level, log.propagate
    log.handlers, log.propagate = [hears], False
    log.setLevel(logging.INFO)
    try:
        export_batched(network, tuple(examples))
    except Exception:  # as it did before; what was heard counts
        pass
    finally:
        log.handlers, log.propagate = before[0], before[2]
        log.setLevel(before[1])
    return hears.lines[0] if hears.lines else ""


def _check_signature(program: ExportedProgram, inputs: Specs, where: str) -> None:
    signature = program.graph_signature
    if len(signature.user_inputs) != len(inputs):
        listed = ", ".join(spec.name for spec in inputs)
        raise ModelError(
            f"{where}: the program takes {len(signature.user_inputs)} tensors and the deployment lists "
            f"{len(inputs)} ({listed}): list all of them under inputs, in the program's order"
        )
    for output in signature.output_specs:
        if output.kind is not OutputKind.USER_OUTPUT:
            raise ModelError(
                f"{where}: the program writes to {output.target or output.arg.name} while it runs; a served "
                "model must not change between frames"
            )
    nodes = {node.name: node for node in program.graph.nodes}
    values = [nodes[str(name)].meta["val"] for name in signature.user_inputs]
    for value, spec in zip(values, inputs, strict=True):
        _check_input(value, spec, where)
    if len({value.shape[0].node.expr for value in values}) > 1:
        shapes = " and ".join(
            f"{spec.name} [{_shape(tuple(value.shape))}]" for value, spec in zip(values, inputs, strict=True)
        )
        raise ModelError(
            f"{where}: inputs {shapes} have different batches; a frame is one row of each, so export "
            "dimension 0 of all of them as one Dim"
        )


def _check_input(value: Any, frame: TensorSpec, where: str) -> None:
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


def _brief(error: BaseException) -> str:
    """The first line, and of violated constraints the one that says which."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Constraints violated") and len(lines) > 1:
        return f"{type(error).__name__}: {lines[1].partition('. ')[0]}"
    return first_line(error)


def _hint(error: BaseException) -> str:
    text = str(error)
    if "specialized" in text or "Constraints violated" in text:
        return (
            "; the code fixes the number of frames: dimension 0 of its input must be the batch, of any size. "
            "Write it for the whole batch, without int(x.shape[0]), a loop over frames or a branch on their "
            "number"
        )
    if "data-dependent" in text:
        return "; control flow that depends on data cannot be exported: use torch.where or torch.cond"
    if "numpy" in text:
        return "; numpy cannot be exported: use torch's own functions"
    return ""
