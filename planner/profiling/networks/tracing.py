"""What a network's code calls, line by line: to say which line of it does what cannot be served.

Two runs of the same code are recorded and compared call by call. The first call that differs where it should
not is the culprit. Recording is slow, so it happens only once a network is known to be wrong.

Rules
- A call is one of torch's functions as the code sees it, with the innermost line of the code that is not
  torch's or ours.
- Frames are told apart by a batch of COUNT frames, a number that shapes seldom have.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

COUNT = 7
"""Frames of a batch in which one frame is followed."""
_INSIDE = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
Frames = tuple[torch.Tensor, ...]
"""A batch: each of the network's inputs."""
Network = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """One call: the function's plain name, the line of the network's code, and what it gave.

    `kept`: the tensors given, where the recording keeps them.
    """

    name: str
    line: str
    shapes: tuple[tuple[int, ...], ...]
    kept: tuple[torch.Tensor, ...] = ()
    failed: bool = False


def record(network: Network, frames: Frames, keep: bool = False) -> list[Call]:
    """The calls of one run. A run that fails ends with the call that failed."""
    recorder = _Recorder(keep)
    try:
        with torch.no_grad(), recorder:
            network(*frames)
    except Exception:  # what is recorded is compared; the caller has seen the failure itself
        recorder.note_failure()
    return recorder.calls


def first_of_other_kind(one: Sequence[Call], many: Sequence[Call], frames: int) -> Call | None:
    """The first call that a run of one frame does differently than a run of `frames`: another function, or
    a shape that is not the same but for the batch.
    """
    for single, batch in zip(one, many, strict=False):
        if single.name != batch.name or single.failed != batch.failed:
            return single if single.failed or not batch.failed else batch
        pairs = zip(single.shapes, batch.shapes, strict=False)
        if any(not _same_but_for_batch(lone, full, frames) for lone, full in pairs):
            return single
    longer = max(one, many, key=len)
    return longer[min(len(one), len(many))] if len(one) != len(many) else None


def first_that_varies(one: Sequence[Call], again: Sequence[Call]) -> Call | None:
    """The first call of two runs on the same frames that gives something else."""
    for first, second in zip(one, again, strict=False):
        if any(not same(left, right) for left, right in zip(first.kept, second.kept, strict=False)):
            return second
    return None


def first_that_mixes(one: Sequence[Call], other: Sequence[Call], frame: int) -> Call | None:
    """The first call that gives `frame` something else where only the frames beside it differ."""
    for first, second in zip(one, other, strict=False):
        pairs = zip(first.kept, second.kept, strict=False)
        if any(not _same_for(left, right, frame) for left, right in pairs):
            return second
    return None


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, numbers that are none included."""
    return one.shape == other.shape and bool(torch.equal(one.nan_to_num(), other.nan_to_num()))


def _same_for(one: torch.Tensor, other: torch.Tensor, frame: int) -> bool:
    """Whether one frame's part is the same, wherever in the tensor frames may lie."""
    if same(one, other):
        return True
    if one.shape != other.shape:
        return False
    return any(
        same(part, beside)
        for dim in range(one.dim())
        if one.shape[dim] and one.shape[dim] % COUNT == 0
        for part, beside in zip(_parts(one, dim, frame), _parts(other, dim, frame), strict=True)
    )


def _parts(value: torch.Tensor, dim: int, frame: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One frame's part where frames lie one after another, and where they alternate."""
    size = value.shape[dim] // COUNT
    before, after = value.shape[:dim], value.shape[dim + 1 :]
    one_after_another = value.reshape(*before, COUNT, size, *after)
    alternating = value.reshape(*before, size, COUNT, *after)
    return one_after_another.select(dim, frame), alternating.select(dim + 1, frame)


def _same_but_for_batch(lone: tuple[int, ...], full: tuple[int, ...], frames: int) -> bool:
    return len(lone) == len(full) and all(
        many in (one, frames * one) for one, many in zip(lone, full, strict=True)
    )


class _Recorder(TorchFunctionMode):
    """Notes every call that gives tensors."""

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._keep = keep
        self._under_way: Call | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._under_way = Call(name=_plain_name(func), line=line_of_caller(), shapes=(), failed=True)
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if tensors:
            self.calls.append(
                Call(
                    name=self._under_way.name,
                    line=self._under_way.line,
                    shapes=tuple(tuple(tensor.shape) for tensor in tensors),
                    kept=tuple(tensor.detach().clone() for tensor in tensors) if self._keep else (),
                )
            )
        self._under_way = None
        return result

    def note_failure(self) -> None:
        """The run has ended in the middle of a call, or between two."""
        if self._under_way is not None:
            self.calls.append(self._under_way)


def _plain_name(function: Any) -> str:
    name = resolve_name(function) or getattr(function, "__name__", str(function))
    return str(name).rpartition(".")[2].strip("_") or str(name)


def line_of_caller() -> str:
    """'FILE:LINE in FUNCTION (`CODE`)' of the innermost caller that is neither torch's nor ours, or ''."""
    for frame in _callers(sys._getframe(1)):
        path = frame.f_code.co_filename
        if not path.startswith(_INSIDE):
            return located(path, frame.f_lineno, frame.f_code.co_name)
    return ""


def located(path: str, line: int, function: str) -> str:
    """A line of code in one way everywhere: 'FILE:LINE in FUNCTION (`CODE`)'."""
    code = linecache.getline(path, line).strip()
    return f"{path}:{line} in {function}" + (f" (`{code}`)" if code else "")


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
