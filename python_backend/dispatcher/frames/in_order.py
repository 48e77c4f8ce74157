"""Answers of a stream, sent in the order of its frames (scheduler.streams.answer_order).

Rules
- What is released is queued under the lock that released it, and a stream's answers all go to one thread: so
  they are sent in the order in which they were released.
- An answer that waits is no answer yet: its frame can still be answered otherwise, and is at the end.
- A frame that was overtaken is claimed at once, so that nobody sends its answer; whose turn it is answers it
  (`overtaken`), and tells the core.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from python_backend.dispatcher.frames.answers import Answer, Answers
from python_backend.dispatcher.frames.frame import Frame
from python_backend.scheduler.streams.answer_order import AnswerOrder, Released
from python_backend.wire.clock import now_us

_THREADS: Final = 4
Claim = Callable[[Sequence[Answer], int], list[Answer]]


class InOrder:
    """Of one model. Thread-safe."""

    def __init__(self, claim: Claim, log: Callable[[str], None]) -> None:
        """claim: says which answers of a batch are to be sent; nobody else sends them then."""
        self._claim = claim
        self._order = AnswerOrder()
        self._lock = threading.Lock()
        self._open: dict[int, Frame] = {}
        self._held: dict[int, tuple[Answer, int]] = {}
        """Answers that wait, with their batches."""
        self._overtaken: list[Frame] = []
        self._threads = [Answers(log, threads=1) for _ in range(_THREADS)]

    def came(self, frames: Iterable[Frame]) -> None:
        """Frames were taken in this order."""
        with self._lock:
            for frame in frames:
                if frame.stream:
                    self._open[frame.request_id] = frame
                    self._order.came(frame.request_id, frame.stream, frame.deadline_us)

    def ready(self, answers: Sequence[Answer], batch_id: int) -> list[Answer]:
        """Answers of a batch are there; returns those of frames that no order is known of, for the caller to
        send.
        """
        others: list[Answer] = []
        with self._lock:
            for answer in answers:
                request_id = answer[0].request_id
                if request_id not in self._open:
                    others.append(answer)
                elif request_id not in self._held:
                    self._held[request_id] = (answer, batch_id)
                    self._release(self._order.ready(request_id, now_us()))
        return others

    def ended(self, frames: Iterable[Frame]) -> None:
        """Frames were answered with errors."""
        with self._lock:
            for frame in frames:
                if self._open.pop(frame.request_id, None) is not None:
                    self._held.pop(frame.request_id, None)
                    self._release(self._order.ended(frame.request_id, now_us()))

    def overtaken(self, at_us: int) -> list[Frame]:
        """Let go what has waited long enough; the frames, claimed, that have lost their places to it."""
        with self._lock:
            self._release(self._order.expire(at_us))
            found, self._overtaken = self._overtaken, []
        return found

    @property
    def due_us(self) -> int:
        """When `overtaken` is to be called; NEVER while nobody waits."""
        return 0 if self._overtaken else self._order.next_us

    @property
    def held(self) -> int:
        """Answers that wait for earlier ones."""
        return len(self._held)

    def close(self) -> None:
        """Send what was released and end the threads; what waits is not sent."""
        for each in self._threads:
            each.close()

    def _release(self, released: Released) -> None:
        for request_id in released.answers:
            stream = self._open.pop(request_id).stream
            answer, batch_id = self._held.pop(request_id)
            claimed = self._claim([answer], batch_id)
            if claimed:
                self._threads[zlib.crc32(stream.encode()) % _THREADS].later(claimed)
        for request_id in released.overtaken:
            frame = self._open.pop(request_id)
            if frame.claim():
                self._overtaken.append(frame)
