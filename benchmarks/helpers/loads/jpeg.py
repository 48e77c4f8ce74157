"""An open-loop client for emulated deployments that take JPEGs: each answer's tag must be its own frame's.

One thread sends; answers are read in gRPC's own threads. Frames are sent in turn from a few pictures, whose
tags are known before the run.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from ensembles.graphs import frame_input
from python_backend.stage.executors.emulated import frame_tag
from python_backend.wire import kserve
from python_backend.wire.grpc.channels import CHANNEL_OPTIONS
from python_backend.wire.ragged import body_of

_GRACE_S = 3.0


@dataclass
class Sent:
    """One frame. Times in microseconds from the start; `in_time`: answered with its own outputs within the
    SLO.
    """

    due_us: int
    sent_us: int = 0
    ended_us: int | None = None
    in_time: bool = False
    wrong: bool = False
    error: str = ""


class JpegLoad:
    """Sends to one model's dispatcher."""

    def __init__(self, address: str, model: str, jpegs: Sequence[bytes], slo_us: int) -> None:
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._call: Any = self._channel.unary_unary(kserve.INFER_METHOD)
        head = kserve.request_head(model, (frame_input("jpeg"),), 1)
        timeout = kserve.int_parameter("timeout", slo_us)
        self._requests = [kserve.request_bytes(head, timeout, body_of([[jpeg]])) for jpeg in jpegs]
        self._tags = [frame_tag(jpeg) for jpeg in jpegs]
        self._slo_us = slo_us
        self._left = 0
        self._ended = threading.Condition()
        self._start_s = 0.0

    def run(self, arrivals_us: Sequence[int]) -> list[Sent]:
        """Send a frame at each time; returns when all have ended, or are long overdue."""
        frames = [Sent(due_us=arrival_us) for arrival_us in arrivals_us]
        self._left = len(frames)
        self._start_s = time.monotonic() + 0.05
        for number, frame in enumerate(frames):
            wait_s = self._start_s + frame.due_us / 1e6 - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            self._send(number, frame)
        with self._ended:
            self._ended.wait_for(lambda: self._left == 0, timeout=self._slo_us / 1e6 + 2 * _GRACE_S)
        return frames

    def close(self) -> None:
        """Give the connection back."""
        self._channel.close()

    def _send(self, number: int, frame: Sent) -> None:
        which = number % len(self._requests)
        frame.sent_us = self._now_us()
        call = self._call.future(self._requests[which], timeout=self._slo_us / 1e6 + _GRACE_S)
        call.add_done_callback(lambda done: self._take(which, frame, done))

    def _take(self, which: int, frame: Sent, call: Any) -> None:
        ended_us = self._now_us()
        error = call.exception()
        if error is not None:
            frame.error = f"{error.code().name}: {error.details()}"
        else:
            (output, *_) = kserve.response_outputs(call.result()).values()
            frame.wrong = bytes(kserve.piece(output)[:8]) != self._tags[which]
            frame.in_time = not frame.wrong and ended_us - frame.due_us <= self._slo_us
        frame.ended_us = ended_us
        with self._ended:
            self._left -= 1
            self._ended.notify_all()

    def _now_us(self) -> int:
        return round((time.monotonic() - self._start_s) * 1e6)


def reasons(frames: Sequence[Sent]) -> Mapping[str, int]:
    """How often frames were declined for which reason; other errors by their code."""
    found = Counter(
        frame.error.rpartition("reason=")[2] if "reason=" in frame.error else frame.error.partition(":")[0]
        for frame in frames
        if frame.error
    )
    return dict(sorted(found.items()))
