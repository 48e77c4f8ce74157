"""Which kernels torch takes for FP32 values on a GPU: true FP32, or TF32 with its 10 bits of mantissa.

A setting of the whole process. On a CPU it changes nothing.

torch has two interfaces to it and refuses a mixture; its own torch.export uses this, the older one (2.13).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from planner.execution import Precision


def set_float32(precision: Precision) -> None:
    """TF32 where the precision says so; half-precision programs keep true FP32 for what is left of it."""
    _set(precision is Precision.TF32, precision is Precision.TF32)


@contextlib.contextmanager
def float32(precision: Precision) -> Iterator[None]:
    """As set_float32, and as before afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_float32(precision)
    try:
        yield
    finally:
        _set(*before)


def _set(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions
