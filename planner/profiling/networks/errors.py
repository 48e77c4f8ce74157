"""What is said of a model that cannot be served: one error, and the line of the user's code it is about."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch


class ModelError(ValueError):
    """A model that cannot be loaded, exported or split; the message says which, where and what would do."""


def line_of(error: BaseException) -> str:
    """' at FILE:LINE in FUNCTION (`CODE`)' of the innermost frame of the model's own code, or ''."""
    return _innermost(traceback.extract_tb(error.__traceback__))


def line_now() -> str:
    """The same of where this thread is, called from within torch by way of logging."""
    frames = list(traceback.extract_stack())
    logs = (index for index, frame in enumerate(frames) if frame.filename == logging.__file__)
    return _innermost(frames[: next(logs, 0)])


def _innermost(frames: Sequence[traceback.FrameSummary]) -> str:
    torch_folder, here = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])
    # The callers' frames come first; the model's are those after this package called torch.
    called = max((index for index, frame in enumerate(frames) if frame.filename.startswith(here)), default=-1)
    for frame in reversed(frames[called + 1 :]):
        outside = not frame.filename.startswith((torch_folder, "<")) and not frame.filename.endswith(
            "contextlib.py"
        )
        if outside:
            return f" at {frame.filename}:{frame.lineno} in {frame.name} (`{frame.line}`)"
    return ""


def first_line(error: BaseException) -> str:
    """'TYPE: TEXT', the first line of it that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def shape_text(shape: Iterable[Any]) -> str:
    """'[2, 3]'."""
    return f"[{', '.join(str(size) for size in shape)}]"


def some_lines(error: BaseException, most: int = 3) -> str:
    """'TYPE: TEXT', the first few lines of it as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:most])}" if lines else type(error).__name__
