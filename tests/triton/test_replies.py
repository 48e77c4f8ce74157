"""Answers through Triton's response senders, which stand-ins play: one each, also when one cannot be sent."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from python_backend.wire.hop_failure import FailureKind, HopFailure

FAILURE = HopFailure(FailureKind.COMPUTE, 0, "w", "no room")


class Sender:
    """`room`: whether outputs can be sent."""

    def __init__(self, room: bool) -> None:
        self.room = room
        self.sent: list[Any] = []

    def send(self, response: Any, flags: int) -> None:
        if response.output_tensors and not self.room:
            raise RuntimeError("Failed to increase the shared memory pool size")
        self.sent.append(response.error or "outputs")


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with a stand-in for Triton's."""

    class TritonError(Exception):
        UNAVAILABLE = INVALID_ARG = INTERNAL = 1

        def __init__(self, text: str, code: int) -> None:
            super().__init__(text)

    def response(output_tensors: list[Any], error: Any = None) -> Any:
        return SimpleNamespace(output_tensors=output_tensors, error=error)

    triton = SimpleNamespace(
        TritonError=TritonError, InferenceResponse=response, Tensor=lambda name, array: (name, array)
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.delitem(sys.modules, "python_backend.triton.replies", raising=False)
    module = importlib.import_module("python_backend.triton.replies")
    yield module
    del sys.modules["python_backend.triton.replies"]


def reply_of(replies: Any, sender: Sender) -> Any:
    return replies.SenderReply(SimpleNamespace(get_response_sender=lambda: sender))


def test_the_first_answer_counts(replies: Any) -> None:
    sender = Sender(room=True)
    reply = reply_of(replies, sender)
    reply.outputs({"y": np.zeros(1)})
    reply.failure(FAILURE)
    del reply
    assert sender.sent == ["outputs"]


def test_outputs_that_cannot_be_sent_leave_room_for_the_failure(replies: Any) -> None:
    """A caller without any answer would wait for all of its time, and blame the worker."""
    sender = Sender(room=False)
    reply = reply_of(replies, sender)
    with pytest.raises(RuntimeError, match="pool size"):
        reply.outputs({"y": np.zeros(1)})
    reply.failure(FAILURE)
    assert [str(error) for error in sender.sent] == [FAILURE.to_wire()]


def test_a_reply_that_is_forgotten_says_so(replies: Any) -> None:
    sender = Sender(room=False)
    reply_of(replies, sender)
    assert "lost inside the stage" in str(sender.sent[0])
