"""What a stage worker asks of the pool, and how it learns what came of it.

Rules
- A job is one message to a socket that all processes of the pool read from: whichever is free takes it. With
  it come two descriptors, the slot's memory and the writing end of a pipe.
- The process writes into the frame's record in the slot what it does, and closes the pipe when it ends: that
  wakes the asker. A process that dies closes it too, and its record says TAKEN still: so a crash blames the
  one frame that caused it. A frame that nobody took is not to blame.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from python_backend.wire.ragged import FrameKind

RECORD_BYTES = 256
"""State, length of the text, text."""
MESSAGE_BYTES = 8192
_JOB = struct.Struct("<QQQQIIqc")
_NO_LIMIT = -1


class RecordState(IntEnum):
    """Of a frame's record."""

    WAITING = 0
    TAKEN = 1
    DONE = 2
    FAULT = 3
    """The text says what is wrong with the frame."""
    LATE = 4
    """Nobody waits for it any more."""


@dataclass(frozen=True)
class FrameJob:
    """One frame. record, source, target: offsets in the slot of its record, its bytes and its pixels; recipe:
    the PrepareRecipe as JSON. until_us: after that it need not be begun.
    """

    record: int
    source: int
    size: int
    target: int
    width: int
    height: int
    kind: FrameKind
    until_us: int | None
    recipe: str

    def encode(self) -> bytes:
        """As a message."""
        head = _JOB.pack(
            self.record,
            self.source,
            self.size,
            self.target,
            self.width,
            self.height,
            _NO_LIMIT if self.until_us is None else self.until_us,
            self.kind.value.encode(),
        )
        return head + self.recipe.encode()


def decode(message: bytes) -> FrameJob:
    """What encode() made. Raises struct.error, ValueError."""
    record, source, size, target, width, height, until_us, kind = _JOB.unpack_from(message)
    return FrameJob(
        record,
        source,
        size,
        target,
        width,
        height,
        FrameKind(kind.decode()),
        None if until_us == _NO_LIMIT else until_us,
        message[_JOB.size :].decode(),
    )


def write_record(memory: memoryview, at: int, state: RecordState, text: str = "") -> None:
    """The text is cut to what a record holds."""
    said = text.encode()[: RECORD_BYTES - 2].decode("utf-8", "ignore").encode()
    memory[at + 1] = len(said)
    memory[at + 2 : at + 2 + len(said)] = said
    memory[at] = state


def read_record(memory: memoryview, at: int) -> tuple[RecordState, str]:
    """State and text."""
    length = memory[at + 1]
    return RecordState(memory[at]), bytes(memory[at + 2 : at + 2 + length]).decode("utf-8", "replace")
