"""Sizes of (fake) tensors of an exported graph, the batch filled in."""

from __future__ import annotations

import math
from typing import Any

import torch


def elements(value: Any, batch: int = 1) -> int:
    """Elements of a (fake) tensor, or of a list of them, for `batch` frames."""
    if isinstance(value, torch.Tensor):
        return math.prod(size_of(dim, batch) for dim in value.shape)
    if isinstance(value, tuple | list):
        return sum(elements(item, batch) for item in value)
    return 0


def tensor_bytes(value: Any, batch: int = 1) -> int:
    """Bytes of a (fake) tensor, or of a list of them, for `batch` frames."""
    if isinstance(value, torch.Tensor):
        return elements(value, batch) * value.element_size()
    if isinstance(value, tuple | list):
        return sum(tensor_bytes(item, batch) for item in value)
    return 0


def size_of(dim: Any, batch: int) -> int:
    """A dimension with the batch filled in; sizes with other unknowns count as in the example."""
    if not isinstance(dim, torch.SymInt):
        return int(dim)
    expression = dim.node.expr
    filled = expression.subs(dict.fromkeys(expression.free_symbols, batch))
    return int(filled)
