"""The frames of a dispatcher that have no answer yet, and the one way that each gets it.

Rules: a frame is answered exactly once, whoever comes first (Frame.claim), and forgotten with its answer.
Answers are sent by other threads (dispatcher.answers), but for refusals, at whose time there may be none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from planner.manifest import STATUS, ModelEntry
from python_backend.dispatcher.answers import Answers
from python_backend.dispatcher.frame import ErrorCode, Frame
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.dispatcher.room import Room
from python_backend.scheduler.actions import DropReason
from python_backend.wire.clock import now_us
from python_backend.wire.kserve import zeros_of
from python_backend.wire.ragged import faults_of
from python_backend.wire.transport import Outputs


class OpenFrames:
    """See the module. Thread-safe."""

    def __init__(self, entry: ModelEntry, counts: Counts, log: Callable[[str], None], room: Room) -> None:
        self._model = entry.model
        self._names = [spec.name for spec in entry.outputs]
        self._zeros = {spec.name: zeros_of(spec) for spec in entry.outputs}
        self._counts = counts
        self._log = log
        self._by_id: dict[int, Frame] = {}
        self._answers = Answers(log)
        self._room = room

    def add(self, frames: Iterable[Frame]) -> None:
        """Each will be answered."""
        self._by_id.update((frame.request_id, frame) for frame in frames)

    def find(self, request_id: int) -> Frame | None:
        """None when it has been answered."""
        return self._by_id.get(request_id)

    def of(self, request_ids: Iterable[int]) -> list[Frame]:
        """Those of these that have no answer yet."""
        return [frame for id_ in request_ids if (frame := self._by_id.get(id_)) is not None]

    def all(self) -> list[Frame]:
        """Oldest first."""
        return list(self._by_id.values())

    def serve(self, frames: Sequence[Frame], outputs: Outputs, batch_id: int = -1) -> None:
        """Answer the frames of a batch with its outputs; returns when some are sent."""
        wanted = [(name, outputs[name]) for name in self._names]
        faults = faults_of(outputs[STATUS]) if STATUS in outputs else {}
        answers = [
            (frame, {name: array[index : index + 1] for name, array in wanted})
            for index, frame in enumerate(frames)
            if index not in faults and frame.claim()
        ]
        for index, text in faults.items():
            if index < len(frames) and frames[index].claim():
                self._counts.unusable += 1
                self._answers.error(frames[index], ErrorCode.INVALID, text)
        self._forget(frames)
        for frame, _ in answers:
            self._counts.answered(now_us() - frame.arrived_us, frame.deadline_us, batch_id)
        self._answers.outputs(answers)

    def fail(self, frames: Sequence[Frame], text: str) -> None:
        """Answer with an error of ours."""
        for frame in frames:
            if frame.claim():
                self._answers.error(frame, ErrorCode.INTERNAL, text)
        self._forget(frames)

    def drop(self, frame: Frame, reason: DropReason) -> None:
        """Answer that nothing can serve it in time, unless a hop that was given up has just answered it."""
        self._forget([frame])
        if frame.claim():
            self._counts.dropped(reason)
            allowed_us = frame.deadline_us - frame.arrived_us
            text = drop_text(self._model, reason, now_us() - frame.deadline_us, allowed_us)
            self._answers.error(frame, ErrorCode.UNAVAILABLE, text)

    def answer_probe(self, frame: Frame) -> None:
        """Answer with zeros; the frame was never added."""
        if frame.claim():
            self._answers.later([(frame, self._zeros)])

    def refuse(self, frames: Iterable[Frame], text: str) -> None:
        """Answer from this thread: at the end there are no others."""
        for frame in frames:
            if not frame.claim():
                continue
            try:
                frame.send_error(ErrorCode.UNAVAILABLE, text)
            except Exception as error:
                self._log(f"answering request {frame.request_id} failed: {error!r}")

    def _forget(self, frames: Iterable[Frame]) -> None:
        self._room.leave([frame for frame in frames if self._by_id.pop(frame.request_id, None) is not None])

    def close(self) -> None:
        """Send what was taken and forget all frames."""
        self._by_id.clear()
        self._answers.close()


def drop_text(model: str, reason: DropReason, late_us: int, allowed_us: int) -> str:
    """What a client reads whose frame was dropped. late_us: now minus deadline; allowed_us: all its time."""
    when = f"passed {late_us / 1000:.1f} ms ago" if late_us > 0 else f"is in {-late_us / 1000:.1f} ms"
    had = f"{allowed_us} us" if allowed_us < 1_000 else f"{allowed_us / 1000:.1f} ms"
    return f"{model}: the frame cannot meet its deadline, which {when} (it had {had}): reason={reason.value}"
