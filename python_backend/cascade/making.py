"""From one member's answer to the next one's frames: built-in steps, or a function of the user's.

A function is called as function(frame, outputs): a SentFrame and the answer to it, arrays by name without the
batch dimension. It gives frames, as `as_given` takes them, or (row, frame) where these come of certain rows
of the answer. It runs in threads of the entry server's process, several at once.

Rule: whatever a step raises or gives costs its own frame alone, and no more than `most` frames are taken.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from planner.cascades.served import ServedMember
from planner.manifest import ModelEntry
from python_backend.cascade.crops import NoCrop, crops
from python_backend.cascade.frames import Given, SentFrame, as_given
from python_backend.wire.kserve import Array

CROPS = "crops"
_LONGEST_FAULT = 300
_LAST_ROW = 2**31 - 1
"""Answers have rows as INT32."""
Step = Callable[[SentFrame, Mapping[str, Array]], Iterable[Any]]


class NoStep(ValueError):
    """A `make` that is nothing that can be called."""


@dataclass(frozen=True)
class MadeFrames:
    """Frames for a member, each with the row of the answer that it came of. faults: what was not made, and
    why.
    """

    frames: tuple[tuple[int, Given], ...] = ()
    faults: tuple[str, ...] = ()


class Maker:
    """Of one member's frames."""

    def __init__(self, member: ServedMember, entry: ModelEntry) -> None:
        """entry: of the model that takes the frames. Raises NoStep."""
        self._member = member
        self._entry = entry
        self._step: Step = crops if member.make == CROPS else _function(member.make)

    def make(self, frame: SentFrame, outputs: Mapping[str, Array]) -> MadeFrames:
        """Of one answer. Raises nothing."""
        frames: list[tuple[int, Given]] = []
        faults: list[str] = []
        try:
            items = itertools.islice(self._step(frame, outputs), self._member.most + 1)
            for number, item in enumerate(items):
                if number == self._member.most:
                    faults.append(f"more than {number} frames were made; those after are left out (most)")
                    break
                self._take(number, item, frames, faults)
        except BaseException as error:
            faults.append(f"{self._member.make}: {_text(error)}")
        return MadeFrames(tuple(frames), tuple(faults))

    def _take(self, number: int, item: Any, frames: list[tuple[int, Given]], faults: list[str]) -> None:
        if isinstance(item, NoCrop):
            faults.append(f"row {number}: {item}")
            return
        row = number
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], int):
            row, item = item
        if not 0 <= row <= _LAST_ROW:
            faults.append(f"row {row}: expected a row from 0 to {_LAST_ROW}")
            return
        try:
            frames.append((row, as_given(self._entry, item)))
        except (TypeError, ValueError) as error:
            faults.append(f"row {row}: {self._member.make} gave {error}")
        except Exception as error:  # of an object's own code, which numpy asks for an array
            faults.append(f"row {row}: {self._member.make}: {_text(error)}")


def _function(path: str) -> Step:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise NoStep(f"make {path!r}: {_text(error)}; it must be importable on the entry server") from error
    if not callable(found):
        raise NoStep(f"make {path!r}: a value of type {type(found).__name__}, which cannot be called")
    step: Step = found
    return step


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST_FAULT]
