"""The frames of a dispatcher that have no answer yet, and the one way that each gets it.

Rules: a frame is answered exactly once, whoever comes first (Frame.claim), and forgotten with its answer.
Answers are sent by other threads (answers.py beside this), but for refusals, at whose time there may be none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from planner.manifest import STATUS, ModelEntry
from python_backend.dispatcher.frames.answers import Answer, Answers
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.frames.in_order import InOrder
from python_backend.dispatcher.frames.room import Room
from python_backend.dispatcher.metrics.counts import Counts
from python_backend.scheduler.actions import DropReason
from python_backend.wire.clock import NEVER, now_us
from python_backend.wire.kserve import zeros_of
from python_backend.wire.ragged import faults_of
from python_backend.wire.refusals import reason_in
from python_backend.wire.transport import Outputs

_SHOWN: Final = 40
"""Characters of a stream's name in a message."""


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
        self._in_order: InOrder | None = None
        self._orders = False
        self._most_rps: float | None = None
        self.serve_by(entry)

    def serve_by(self, entry: ModelEntry) -> None:
        """Frames that come from now on are answered as this table's policy for streams says, and measured by
        its SLO."""
        self._counts.serve_by(entry.served.slo_us)
        policy = entry.served.streams
        self._orders = policy is not None and policy.order == "stream"
        self._most_rps = None if policy is None else policy.most_rps
        if self._orders and self._in_order is None:
            self._in_order = InOrder(self._claimed, self._log)

    def add(self, frames: Iterable[Frame]) -> None:
        """Each will be answered."""
        self._by_id.update((frame.request_id, frame) for frame in frames)
        if self._in_order is not None and self._orders:
            self._in_order.came(frames)

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
        answers: list[Answer] = [
            (frame, {name: array[index : index + 1] for name, array in wanted})
            for index, frame in enumerate(frames)
            if index not in faults
        ]
        faulty = [frame for index, frame in enumerate(frames) if index in faults]
        for frame, text in zip(faulty, faults.values(), strict=False):
            if frame.claim():
                self._counts.unusable += 1
                self._answers.error(frame, ErrorCode.INVALID, text)
        self._end(faulty)
        if self._in_order is not None:
            answers = self._in_order.ready(answers, batch_id)
        self._answers.outputs(self._claimed(answers, batch_id))

    def _claimed(self, answers: Sequence[Answer], batch_id: int) -> list[Answer]:
        """Those that are to be sent: nobody else has answered their frames."""
        claimed = [answer for answer in answers if answer[0].claim()]
        self._forget([frame for frame, _ in answers], served=True)
        at_us = now_us()
        for frame, _ in claimed:
            self._counts.answered(at_us - frame.arrived_us, at_us <= frame.deadline_us, batch_id)
        return claimed

    def overtaken(self, at_us: int) -> list[Frame]:
        """Answer the frames whose deadlines passed while later answers of their streams waited; which they
        are.
        """
        frames = [] if self._in_order is None else self._in_order.overtaken(at_us)
        self._forget(frames)
        for frame in frames:
            self._answer_dropped(frame, DropReason.OVERTAKEN)
        return frames

    @property
    def due_us(self) -> int:
        """When `overtaken` is to be called; NEVER while no answer waits for another."""
        return NEVER if self._in_order is None else self._in_order.due_us

    @property
    def held(self) -> int:
        """Answers that wait for those to earlier frames of their streams."""
        return 0 if self._in_order is None else self._in_order.held

    def fail(self, frames: Sequence[Frame], text: str) -> None:
        """Answer with an error of ours."""
        for frame in frames:
            if frame.claim():
                self._answers.error(frame, ErrorCode.INTERNAL, text)
        self._end(frames)

    def relay(self, frame: Frame, code: ErrorCode, text: str) -> None:
        """Answer with what another entry said of a frame that was passed on."""
        if frame.claim():
            self._counts.dropped(reason_in(text))
            self._answers.error(frame, code, text)
        self._end([frame])

    def drop(self, frame: Frame, reason: DropReason) -> None:
        """Answer that nothing can serve it in time, unless a hop that was given up has just answered it."""
        if frame.claim():
            self._answer_dropped(frame, reason)
        self._end([frame])

    def _answer_dropped(self, frame: Frame, reason: DropReason) -> None:
        self._counts.dropped(reason)
        at_us = now_us()
        if reason is DropReason.OVERLOAD:
            self._room.gave_up(frame, at_us)
        text = stream_text(self._model, reason, frame.stream, frame.place, self._most_rps)
        if text is None:
            allowed_us = frame.deadline_us - frame.arrived_us
            text = drop_text(self._model, reason, at_us - frame.deadline_us, allowed_us)
        code = ErrorCode.INVALID if reason is DropReason.PLACE else ErrorCode.UNAVAILABLE
        self._answers.error(frame, code, text)

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

    def _end(self, frames: Sequence[Frame]) -> None:
        """They were answered with errors."""
        self._forget(frames)
        if self._in_order is not None:
            self._in_order.ended(frames)

    def _forget(self, frames: Iterable[Frame], served: bool = False) -> None:
        open_ = [frame for frame in frames if self._by_id.pop(frame.request_id, None) is not None]
        self._room.leave(open_, served)

    def close(self) -> None:
        """Send what was taken and forget all frames."""
        self.overtaken(now_us())
        self._by_id.clear()
        if self._in_order is not None:
            self._in_order.close()
        self._answers.close()


def stream_text(
    model: str, reason: DropReason, stream: str, place: int, most_rps: float | None
) -> str | None:
    """What a client reads whose frame was dropped because of its stream; None for other reasons."""
    name = repr(stream if len(stream) <= _SHOWN else f"{stream[:_SHOWN]}...")
    if reason is DropReason.SUPERSEDED:
        why = f"a newer frame of stream {name} came before this one was sent"
    elif reason is DropReason.RATE:
        why = f"stream {name} sends more than its {most_rps or 0:g} frames/s"
    elif reason is DropReason.PLACE:
        why = f"place {place} of stream {name} is not after those that came before; expected places that rise"
    elif reason is DropReason.OVERTAKEN:
        why = f"its deadline passed while the answer to a later frame of stream {name} waited for it"
    else:
        return None
    return f"{model}: {why}: reason={reason.value}"


def drop_text(model: str, reason: DropReason, late_us: int, allowed_us: int) -> str:
    """What a client reads whose frame was dropped. late_us: now minus deadline; allowed_us: all its time."""
    when = f"passed {late_us / 1000:.1f} ms ago" if late_us > 0 else f"is in {-late_us / 1000:.1f} ms"
    had = f"{allowed_us} us" if allowed_us < 1_000 else f"{allowed_us / 1000:.1f} ms"
    return f"{model}: the frame cannot meet its deadline, which {when} (it had {had}): reason={reason.value}"
