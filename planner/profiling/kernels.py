"""Operators grouped as an inference engine runs them: what follows a convolution in place is fused into it.

Rules
- A pointwise operator (batch normalisation included) joins the kernel that makes the last of its inputs, if
  shapes agree. Normalisation after a convolution is folded into its weights and costs nothing.
- Matrix kernels end in sums, scales and piecewise linear activations; a smooth one (SiLU, GELU, sigmoid) is a
  kernel after them, which later pointwise operators join: so TensorRT does it in FP32 and TF32 (its layer
  fusion catalog: convolution with ReLU, clip, element-wise sum; with GELU in FP16 and INT8 only).
- A kernel reads each outside value and each weight once, and writes what is read outside.
- Figures are for one frame, weights apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.profiling.network import KernelKind, Network, Operator, Value

MATRIX = (KernelKind.CONVOLUTION, KernelKind.DEPTHWISE, KernelKind.PRODUCT)


@dataclass(frozen=True)
class Kernel:
    """One fused kernel; `activation_bytes` and `outputs` (numbers written) per frame.

    `columns`: of matrix kernels, the output channels of a group, which are computed together; else 0.
    """

    kind: KernelKind
    flops: int
    activation_bytes: int
    weight_bytes: int
    outputs: int
    columns: int = 0


def kernels_of(network: Network, span: range) -> tuple[Kernel, ...]:
    """The kernels of a run of operators, in the order of their first ones; views make none."""
    groups: list[list[Operator]] = []
    group_of: dict[str, int] = {}
    for index in span:
        operator = network.operators[index]
        home = _home(operator, group_of)
        if home is None or (operator.smooth and _is_matrix(groups[home])):
            home = len(groups)
            groups.append([])
        groups[home].append(operator)
        group_of |= {value.name: home for value in operator.makes}
    readers = _readers(network)
    kernels = (_kernel(operators, readers) for operators in groups)
    return tuple(kernel for kernel in kernels if kernel is not None)


def _home(operator: Operator, group_of: dict[str, int]) -> int | None:
    """The kernel that the operator joins, or None: that of its latest input, as the others are there by
    then.
    """
    sources = [value for value in operator.reads if value.name in group_of]
    if not sources:
        return None
    latest = max(sources, key=lambda value: group_of[value.name])
    if operator.kind is None or (operator.joins and latest.shape == operator.makes[0].shape):
        return group_of[latest.name]
    return None


def _is_matrix(operators: Sequence[Operator]) -> bool:
    return any(operator.kind in MATRIX for operator in operators)


def _readers(network: Network) -> dict[str, set[str]]:
    """By value: the operators that read it; an output has one that is none of them."""
    readers: dict[str, set[str]] = {value.name: {""} for value in network.output_values}
    for operator in network.operators:
        for value in operator.reads:
            readers.setdefault(value.name, set()).add(operator.name)
    return readers


def _kernel(operators: Sequence[Operator], readers: dict[str, set[str]]) -> Kernel | None:
    kinds = [operator.kind for operator in operators if operator.kind is not None]
    if not kinds:
        return None
    kind = min(kinds, key=list(KernelKind).index)
    names = {operator.name for operator in operators}
    made = list(_unique(value for operator in operators for value in operator.makes))
    read = _unique(value for operator in operators for value in operator.reads if value not in made)
    written = [value for value in made if readers.get(value.name, set()) - names]
    folded = kind in (KernelKind.CONVOLUTION, KernelKind.DEPTHWISE)
    leading = [operator for operator in operators if operator.kind is kind]
    return Kernel(
        kind=kind,
        flops=sum(operator.cost.flops for operator in leading),
        activation_bytes=sum(value.bytes for value in (*written, *read) if not value.is_weight),
        weight_bytes=sum(
            value.bytes for value in read if value.is_weight and not (folded and value.dimensions <= 1)
        ),
        outputs=sum(value.numbers for value in written),
        columns=max((operator.columns for operator in leading), default=0),
    )


def _unique(values: Iterable[Value]) -> dict[Value, None]:
    return dict.fromkeys(values)
