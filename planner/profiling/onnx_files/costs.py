"""What one ONNX operator costs, and what an engine makes of it: from shapes and attributes alone.

Rules
- As for torch (planner.profiling.networks.costs): a multiply-add is two operations, figures are for one
  frame, views move nothing, every other operator reads inputs and weights once and writes outputs once.
- Convolution: 2 * outputs * weights per output channel; transposed: 2 * inputs * weights per input channel;
  matrix product: 2 * outputs * inner size; attention: both of its products; recurrent: both products of each
  gate and step.
- Of If the dearer branch counts; a body of Loop or Scan counts once, and its owner is named as unknown.
- An operator of com.microsoft without a formula here is unknown, and counts as a product with its largest
  weight, as an unknown one of torch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from planner.profiling.network import Cost, KernelKind, Value, total
from planner.profiling.onnx_files.tensors import bodies_of, reads_of

# fmt: off
VIEWS = frozenset((
    "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
))
CONVOLUTIONS = frozenset(("Conv", "ConvInteger", "FusedConv", "NhwcConv", "NhwcFusedConv", "QLinearConv"))
PRODUCTS = frozenset((
    "Einsum", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "QGemm", "QLinearMatMul", "TransposeMatMul",
))
ATTENTION = frozenset(("Attention", "MultiHeadAttention"))
RECURRENT: Mapping[str, int] = {"GRU": 3, "LSTM": 4, "RNN": 1}
"""Gates."""
HEAVY = CONVOLUTIONS | PRODUCTS | ATTENTION | frozenset(RECURRENT) | {"ConvTranspose", "DeformConv"}
REDUCTIONS = frozenset((
    "ArgMax", "ArgMin", "AveragePool", "CumSum", "GlobalAveragePool", "GlobalMaxPool", "GroupNormalization",
    "InstanceNormalization", "LayerNormalization", "LogSoftmax", "LpNormalization", "LpPool", "MaxPool",
    "NonMaxSuppression", "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "SimplifiedLayerNormalization",
    "SkipLayerNormalization", "Softmax", "TopK",
))
SMOOTH = frozenset((
    "Elu", "Erf", "Exp", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "Mish", "Pow", "QuickGelu",
    "Sigmoid", "Softplus", "Sqrt", "Swish", "Tanh",
))
JOINING = SMOOTH | frozenset((
    "Abs", "Add", "BatchNormalization", "BiasGelu", "Clip", "DequantizeLinear", "Div", "LeakyRelu", "Max",
    "Min", "Mul", "Neg", "PRelu", "QuantizeLinear", "Relu", "Sub",
))
# fmt: on
_FUSED = frozenset(
    ("BiasGelu", "FastGelu", "QuickGelu", "SkipLayerNormalization", "SimplifiedLayerNormalization")
)
FEW_CHANNELS = 8


@dataclass(frozen=True)
class Sized:
    """A tensor as operators are counted by it: its sizes for one frame, empty where they are not known."""

    value: Value
    sizes: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many."""
        return self.value.numbers


Find = Callable[[str], Sized | None]
"""A tensor by its name."""


def cost_of(node: NodeProto, find: Find) -> Cost:
    """What a node costs for one frame."""
    if _name(node) in VIEWS:
        return Cost()
    bodies = [total(cost_of(inner, find) for inner in body.node) for body in bodies_of(node)]
    if bodies:
        return max(bodies, key=lambda cost: (cost.flops, cost.activation_bytes))
    read = [found for name in reads_of(node) if (found := find(name)) is not None]
    made = [found for name in node.output if name and (found := find(name)) is not None]
    return Cost(
        flops=_flops(node, find, made),
        activation_bytes=sum(each.value.bytes for each in (*read, *made) if not each.value.is_weight),
        weight_bytes=sum(each.value.bytes for each in read if each.value.is_weight),
    )


def is_heavy(node: NodeProto) -> bool:
    """Whether a network's time goes into such."""
    return _name(node) in HEAVY or bool(unknown_name(node))


def unknown_name(node: NodeProto) -> str:
    """The operator's name where what it costs is a guess, else ''."""
    name = _name(node)
    if name in ("Loop", "Scan"):
        return name
    if node.domain == "com.microsoft" and name not in HEAVY | JOINING | _FUSED:
        return f"com.microsoft::{name}"
    return ""


def kind_of(node: NodeProto, find: Find) -> KernelKind | None:
    """What limits its kernel; None of a view."""
    name = _name(node)
    if name in VIEWS:
        return None
    if name in CONVOLUTIONS or name == "DeformConv":
        weight = _weight(node, find)
        per_group = weight.sizes[1] if weight is not None and len(weight.sizes) > 1 else FEW_CHANNELS
        return (
            KernelKind.DEPTHWISE if per_group < FEW_CHANNELS and _groups(node) > 1 else KernelKind.CONVOLUTION
        )
    if name == "ConvTranspose":
        return KernelKind.CONVOLUTION
    if is_heavy(node):
        return KernelKind.PRODUCT
    return KernelKind.REDUCTION if name in REDUCTIONS else KernelKind.POINTWISE


def joins(node: NodeProto) -> bool:
    """Whether a kernel before it can do it in place."""
    return _name(node) in JOINING


def is_smooth(node: NodeProto) -> bool:
    """Whether it is a curve that matrix kernels do not end in."""
    return _name(node) in SMOOTH


def columns_of(node: NodeProto, find: Find) -> int:
    """Of the matrix that a matrix kernel writes: output channels per group, or the last dimension."""
    made = find(node.output[0])
    if made is None or len(made.sizes) < 2:
        return 0
    if _name(node) in CONVOLUTIONS | {"ConvTranspose"}:
        return made.sizes[1] // _groups(node)
    return made.sizes[-1] if _name(node) in PRODUCTS else 0


def _flops(node: NodeProto, find: Find, made: Sequence[Sized]) -> int:
    name = _name(node)
    outputs = max((each.numbers for each in made), default=0)
    given = [find(each) if each else None for each in node.input]
    first = given[0] if given else None
    weight = _weight(node, find)
    if name in CONVOLUTIONS and weight is not None and weight.sizes:
        return 2 * outputs * (weight.numbers // max(1, weight.sizes[0]))
    if name == "ConvTranspose" and first is not None and weight is not None and weight.sizes:
        return 2 * first.numbers * (weight.numbers // max(1, weight.sizes[0]))
    if name == "Einsum":
        return 2 * outputs * _contracted(node, given)
    if name in PRODUCTS and first is not None and first.sizes:
        inner = first.sizes[0] if _attribute(node, "transA") and name != "MatMul" else first.sizes[-1]
        return 2 * outputs * inner
    if name in ATTENTION and first is not None and len(first.sizes) > 1:
        return (
            4
            * first.numbers
            * (
                given[1].sizes[-2]
                if len(given) > 1 and given[1] and len(given[1].sizes) > 1
                else first.sizes[-2]
            )
        )
    if name in RECURRENT and first is not None:
        matrices = [each.numbers for each in given[1:3] if each is not None]
        steps = first.sizes[0] if first.sizes else 1
        return 2 * steps * sum(matrices)
    return _guessed(given, made) if unknown_name(node) else outputs


def _guessed(given: Sequence[Sized | None], made: Sequence[Sized]) -> int:
    """As an unknown operator of torch: each number of its largest weight once for every position."""
    largest = max(made, key=lambda each: each.numbers, default=None)
    kernels = [each for each in given if each is not None and each.value.is_weight and len(each.sizes) > 1]
    if largest is None or not kernels:
        return largest.numbers if largest else 0
    kernel = max(kernels, key=lambda each: each.numbers)
    channels = [size for size in largest.sizes[1:] if size in kernel.sizes] or [1]
    return 2 * kernel.numbers * (largest.numbers // max(1, *channels))


def _contracted(node: NodeProto, given: Sequence[Sized | None]) -> int:
    """Product of the sizes that an Einsum sums over."""
    equation = next((each.s.decode() for each in node.attribute if each.name == "equation"), "")
    terms, _, result = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, tensor in zip(terms.split(","), given, strict=False):
        if tensor is not None and len(term) == len(tensor.sizes):
            sizes |= dict(zip(term, tensor.sizes, strict=True))
    return math.prod(size for letter, size in sizes.items() if letter not in result)


def _weight(node: NodeProto, find: Find) -> Sized | None:
    """Of a convolution: what is moved over its input."""
    place = 3 if _name(node) == "QLinearConv" else 1
    return find(node.input[place]) if len(node.input) > place else None


def _groups(node: NodeProto) -> int:
    return _attribute(node, "group") or 1


def _attribute(node: NodeProto, name: str) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), 0)


def _name(node: NodeProto) -> str:
    return str(node.op_type)
