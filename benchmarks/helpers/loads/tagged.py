"""An open-loop client for emulated deployments: numbers its frames, and checks that each answer is its
own's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from planner.profile import TensorSpec
from python_backend.wire import kserve
from python_backend.wire.grpc.channels import CHANNEL_OPTIONS

_GRACE_S = 2.0


@dataclass
class TaggedFrame:
    """One frame: when it was due and sent, and what came back. Times in seconds from the start."""

    due_s: float
    sent_s: float = 0.0
    ended_s: float | None = None
    answers: int = 0
    wrong: bool = False
    error: str = ""

    def in_time(self, slo_s: float) -> bool:
        """Whether it was answered with outputs within its SLO."""
        return self.ended_s is not None and not self.error and self.ended_s - self.sent_s <= slo_s


class TaggedLoad:
    """Sends frames to models on one or more servers, in turn over `targets`: (address, model)."""

    def __init__(
        self, targets: Sequence[tuple[str, str]], spec: TensorSpec, output: str, slo_us: int
    ) -> None:
        self._channels = [grpc.insecure_channel(address, options=CHANNEL_OPTIONS) for address, _ in targets]
        self._calls: list[Any] = [channel.unary_unary(kserve.INFER_METHOD) for channel in self._channels]
        self._heads = [kserve.request_head(model, (spec,), 1) for _, model in targets]
        self._frame = np.zeros(spec.bytes_per_frame, np.uint8)
        self._output = output
        self._slo_us = slo_us
        self._parameter = kserve.int_parameter("timeout", slo_us)
        self.frames: list[TaggedFrame] = []
        self._left = 0
        self._ended = threading.Condition()
        self._start_s = 0.0
        self._stop = threading.Event()

    def run(self, arrivals_us: Sequence[int], start_s: float | None = None) -> list[TaggedFrame]:
        """Send a frame at each time, counted from `start_s` (time.monotonic) or from now; returns when all
        have ended, or are long overdue.
        """
        self.frames = [TaggedFrame(due_s=arrival_us / 1e6) for arrival_us in arrivals_us]
        self._left = len(self.frames)
        self._start_s = time.monotonic() + 0.05 if start_s is None else start_s
        for number, frame in enumerate(self.frames):
            if self._stop.wait(max(0.0, self._start_s + frame.due_s - time.monotonic())):
                with self._ended:
                    self._left -= len(self.frames) - number
                    del self.frames[number:]
                break
            self._send(number, frame)
        with self._ended:
            self._ended.wait_for(lambda: self._left == 0, timeout=self._slo_us / 1e6 + 2 * _GRACE_S)
        return self.frames

    def stop(self) -> None:
        """Send no more frames; run() returns when those sent have ended."""
        self._stop.set()

    def close(self) -> None:
        """Give the connections back."""
        for channel in self._channels:
            channel.close()

    def _send(self, number: int, frame: TaggedFrame) -> None:
        self._frame[:8] = np.array([number], np.int64).view(np.uint8)
        turn = self._target(number)
        request = kserve.request_bytes(self._heads[turn], self._parameter, [[self._frame.data]])
        frame.sent_s = time.monotonic() - self._start_s
        call = self._calls[turn].future(request, timeout=self._slo_us / 1e6 + _GRACE_S)
        call.add_done_callback(lambda done: self._take(number, frame, turn, done))

    def _target(self, number: int) -> int:
        """Where the next frame goes."""
        return number % len(self._calls)

    def _failed(self, target: int, error: str) -> None:
        """A target has answered so."""

    def _lacking(self, outputs: Mapping[str, Any]) -> str:
        """What an answer lacks; '' for a whole one."""
        return ""

    def _came_back(self, target: int) -> None:
        """A target has answered a frame, or it was given up."""

    def _take(self, number: int, frame: TaggedFrame, target: int, call: Any) -> None:
        frame.ended_s = time.monotonic() - self._start_s
        frame.answers += 1
        self._came_back(target)
        error = call.exception()
        if error is not None:
            frame.error = f"{error.code().name}: {error.details()}"
            self._failed(target, frame.error)
        else:
            outputs = kserve.response_outputs(call.result())
            tag = np.ascontiguousarray(outputs[self._output]).reshape(-1).view(np.int64)[0]
            frame.wrong = int(tag) != number
            frame.error = self._lacking(outputs)
        with self._ended:
            self._left -= 1
            self._ended.notify_all()
