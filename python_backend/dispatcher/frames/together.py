"""A client's request of several frames: each is scheduled by itself, and they are answered together.

Rules
- The answer is sent once: all outputs when the last frame has its own, or at the first failure an error that
  says which frame it was. After that the other frames' callers have gone: they are not worth a worker.
- The request is asked after its caller only while it has not been answered; Triton frees it with the answer.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping

import numpy as np

from python_backend.dispatcher.frames.frame import ErrorCode, SendError, SendOutputs
from python_backend.wire.kserve import Array


class Together:
    """The answer to one request of several frames. Thread-safe."""

    def __init__(
        self, rows: int, outputs: SendOutputs, error: SendError, is_cancelled: Callable[[], bool]
    ) -> None:
        """outputs, error, is_cancelled: of the request."""
        self._send_outputs = outputs
        self._send_error = error
        self._is_cancelled = is_cancelled
        self._answers: list[Mapping[str, Array] | None] = [None] * rows
        self._left = rows
        self._sent = False
        self._lock = threading.Lock()

    def outputs_of(self, row: int) -> SendOutputs:
        """What frame `row` is answered by."""
        return functools.partial(self._answer, row)

    def error_of(self, row: int) -> SendError:
        """What frame `row` is refused by."""
        return functools.partial(self._fail, row)

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the frames any more."""
        with self._lock:
            return self._sent or self._is_cancelled()

    def _answer(self, row: int, outputs: Mapping[str, Array]) -> None:
        with self._lock:
            self._answers[row] = outputs
            self._left -= 1
            if self._sent or self._left:
                return
            self._sent = True
        answers = [answer for answer in self._answers if answer is not None]
        self._send_outputs({name: np.concatenate([each[name] for each in answers]) for name in answers[0]})

    def _fail(self, row: int, code: ErrorCode, text: str) -> None:
        with self._lock:
            first, self._sent = not self._sent, True
        if first:
            self._send_error(code, f"frame {row} of {len(self._answers)}: {text}")
