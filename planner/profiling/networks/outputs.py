"""What a network returns, as named tensors: tuples, dicts, named tuples, dataclasses, classes of model hubs.

Rules
- A tensor's name is its way through what is returned: 'logits', 'hidden_0'; 'output', 'output_0' where there
  are no names. A single tensor is 'output'. Two that become one name are refused.
- None is left out. Anything else that is no tensor is refused.
- Names come from the structure that torch.export keeps with a program, so a loaded program has them too, and
  classes that are registered without key paths (as model hubs did for years) have them from their context.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.profiling.networks.errors import ModelError


@dataclass(frozen=True)
class Outputs:
    """The names of a network's tensors, in the order of what it returns."""

    names: tuple[str, ...]

    def tensors(self, result: Any) -> tuple[torch.Tensor, ...]:
        """The tensors of one more result of the same network."""
        return tuple(leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))


def outputs_of(result: Any, where: str, inputs: frozenset[str]) -> Outputs:
    """What a network that returned `result` answers. Raises ModelError."""
    leaves, spec = pytree.tree_flatten(result)
    kept = [leaf is not None for leaf in leaves]
    names = output_names(spec, kept, where, inputs)
    for name, leaf in zip(names, (leaf for leaf in leaves if leaf is not None), strict=True):
        if not isinstance(leaf, torch.Tensor):
            raise ModelError(f"{where}: {_no_tensor(name, leaf)}")
    return Outputs(names=names)


def output_names(spec: Any, kept: Sequence[bool], where: str, inputs: frozenset[str]) -> tuple[str, ...]:
    """Names of the kept leaves of a pytree, safe for Triton, none of them an input's. Raises ModelError."""
    paths = [path for path, keep in zip(_paths(spec), kept, strict=True) if keep]
    if not paths:
        raise ModelError(f"{where}: forward returns no tensor; return what clients are to get")
    names = [_name(path) for path in paths]
    names = [f"output_{name}" if name in inputs else name for name in names]
    for name, count in Counter(names).items():
        if count > 1:
            keys = " and ".join(
                repr(" ".join(path)) for path, own in zip(paths, names, strict=True) if own == name
            )
            raise ModelError(
                f"{where}: outputs {keys} would both be called {name} in Triton; give one another name"
            )
    return tuple(names)


def safe_name(name: str) -> str:
    """`name` in letters, digits and underscores."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "tensor"


def _name(path: tuple[str, ...]) -> str:
    name = "_".join(map(safe_name, path)) or "output"
    return f"output_{name}" if name[0].isdigit() else name


def _paths(spec: Any) -> list[tuple[str, ...]]:
    """The way to each leaf."""
    if spec.is_leaf():
        return [()]
    children = spec.children()
    keys = _keys(spec.context, len(children))
    return [(key, *rest) for key, child in zip(keys, children, strict=True) for rest in _paths(child)]


def _keys(context: Any, count: int) -> list[str]:
    """Names of a node's children from what its class keeps: keys, fields, or those among other things."""
    fields = getattr(context, "_fields", None)
    several = context if isinstance(context, list | tuple) else ()
    for candidate in (fields, context, *several):
        listed = isinstance(candidate, list | tuple) and len(candidate) == count
        if listed and all(isinstance(key, str | int) for key in candidate):
            return [str(key) for key in candidate]
    return [str(index) for index in range(count)]


def _no_tensor(name: str, value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if dataclasses.is_dataclass(value):
        return (
            f"forward returns a {kind}, a dataclass that torch does not know: call "
            f"torch.export.register_dataclass({type(value).__qualname__}) after its definition, or return a "
            "tuple or a dict"
        )
    if isinstance(value, bool | int | float | str):
        kind = type(value).__name__
        return f"output {name} is the {kind} {value!r}, no tensor: leave it out of what forward returns"
    return (
        f"output {name} is a {kind}, which torch does not know: return a tuple or a dict of tensors, or "
        "register it (torch.utils._pytree.register_pytree_node)"
    )
