"""Which requests a dispatcher takes: what finds room, what another entry passes on; and frames of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, build_manifest
from planner.profile import TensorSpec
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.frames.room import Bounds, Room
from python_backend.dispatcher.requests import Requests, Triton
from python_backend.wire import forwarded, ticket_codec
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.parameters.caller import CALLER
from python_backend.wire.signing.keys import TicketError

SLO_US, LONGEST_US = 10_000, 50_000
IMAGE = TensorSpec("image", "FP32", (3,))
MARK = Forwarded("d", "m", "a", "b", 60_000, priority=-3, stream="camera", place=4, caller="c")


class Driver:
    """Counts what it is told."""

    slo_us = SLO_US

    def __init__(self) -> None:
        self.room = Room(Bounds(frames=5, bytes=100, patient_frames=2, patient_us=15_000))
        self.arrived: list[Frame] = []
        self.counted = 0
        self.probed: list[Frame] = []

    def arrive(self, frames: Sequence[Frame]) -> None:
        self.arrived += frames

    def refused(self, frames: int) -> None:
        self.counted += frames

    def probe(self, frame: Frame) -> None:
        self.probed.append(frame)


class Model:
    """Requests, and what has become of them. said: errors that were sent."""

    def __init__(self) -> None:
        stage = EmulatedStage((1_000,), ("server",), (TensorSpec("y", "FP32", (1,)),))
        emulated = EmulatedModel(
            "net", SLO_US, 100, IMAGE, (EmulatedPipeline(1, (stage,)),), longest_timeout_us=LONGEST_US
        )
        (entry,) = build_manifest([emulated], 20_000, "d").models
        self.driver = Driver()
        self.sent: list[Any] = []
        self.said: list[Any] = []
        triton = Triton(
            send_outputs=self.send_outputs,
            send_error=lambda sender, code, text: self.said.append((sender, code, text)),
            refusal=lambda code, text: (code, text),
        )
        self.requests = Requests(entry, self.driver, self.passed_on, triton)

    def passed_on(self, text: str) -> Forwarded:
        if text != "genuine":
            raise TicketError("the signature is not of another entry of this deployment")
        return MARK

    def send_outputs(self, sender: Any, outputs: Mapping[str, Any]) -> None:
        self.sent.append((sender, outputs["y"].ravel().tolist()))

    def take(self, requests: Sequence[Any]) -> Any:
        return self.requests.take(requests)


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    yield made
    made.driver.arrived.clear()


def tensor(as_numpy: Callable[[], Any]) -> Any:
    return SimpleNamespace(name=lambda: "image", as_numpy=as_numpy)


def request(timeout_us: int = 0, parameters: str = "", rows: int = 1) -> Any:
    """One whose frames are 0, 1, 2, ... throughout."""
    frames = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1)
    return SimpleNamespace(
        timeout=lambda: timeout_us,
        parameters=lambda: parameters,
        inputs=lambda: [tensor(lambda: frames)],
        get_response_sender=lambda: "sender",
        is_cancelled=lambda: False,
    )


def test_a_request_becomes_a_frame(model: Model) -> None:
    text = '{"ppipe_priority":3,"ppipe_stream":"camera","ppipe_place":7,"ppipe-caller":"192.0.2.1"}'
    assert model.take([request(timeout_us=4_000, parameters=text), request()]) is None
    first, second = model.driver.arrived
    assert [first.priority, first.stream, first.place, first.caller] == [-2, "camera", 7, "192.0.2.1"]
    assert [second.priority, second.stream, second.place, second.caller] == [0, "", -1, ""]
    assert [frame.deadline_us - frame.arrived_us for frame in (first, second)] == [4_000, SLO_US]
    assert first.arrived_us == second.arrived_us
    assert first.request_id != second.request_id
    assert (first.stays, bytes(first.data)) == (False, bytes(12))
    first.send_outputs({"y": np.ones((1, 1))})
    second.send_error(ErrorCode.UNAVAILABLE, "late")
    assert model.sent == [("sender", [1.0])]
    assert model.said == [("sender", ErrorCode.UNAVAILABLE, "late")]


def test_a_request_of_several_frames_is_answered_once(model: Model) -> None:
    assert model.take([request(rows=3)]) is None
    frames = model.driver.arrived
    assert [np.frombuffer(frame.data, np.float32)[0] for frame in frames] == [0, 1, 2]
    for number, frame in enumerate(frames):
        assert model.sent == []
        frame.send_outputs({"y": np.full((1, 1), number)})
    assert model.sent == [("sender", [0, 1, 2])]


def test_a_mark_is_of_one_frame(model: Model) -> None:
    marked = f'{{"{forwarded.PARAMETER}":"genuine"}}'
    assert model.take([request(parameters=marked), request(parameters=marked, rows=2)]) is None
    (frame,) = model.driver.arrived
    assert frame.deadline_us - frame.arrived_us == LONGEST_US, "60 ms are left, at most 50 are given"
    said = (frame.priority, frame.stream, frame.place, frame.stays, frame.caller)
    assert said == (-3, "camera", 4, True, "c")
    text = "parameter ppipe_forwarded: a request of 2 frames; expected one frame"
    assert model.said == [("sender", ErrorCode.INVALID, text)]


def test_what_is_wrong_is_answered_at_once(model: Model) -> None:
    wrong = request()
    wrong.inputs = lambda: [tensor(lambda: np.zeros((1, 4), np.float32))]
    broken = request()
    broken.inputs = lambda: [tensor(lambda: 1 / 0)]
    texts = ('{"ppipe_priority":0}', '{"ppipe_forwarded":"forged"}', '{"ppipe_stream":')
    assert model.take([wrong, broken, *(request(parameters=text) for text in texts)]) is None
    assert (model.driver.arrived, model.driver.counted) == ([], 0)
    codes = [code for _, code, _ in model.said]
    assert codes == [ErrorCode.INVALID, ErrorCode.INTERNAL, *[ErrorCode.INVALID] * 3]
    assert "expected frames: FP32 [n, 3]" in model.said[0][2]
    assert "ZeroDivisionError" in model.said[1][2]


def test_a_probe_is_no_frame(model: Model) -> None:
    probe = f'{{"{ticket_codec.PARAMETER}":"{{\\"probe\\":true}}"}}'
    assert model.take([request(parameters=probe)]) is None
    assert (len(model.driver.probed), model.driver.arrived, model.said) == (1, [], [])
    model.driver.probed[0].send_outputs({"y": np.zeros((1, 1))})
    assert model.sent == [("sender", [0])]


def test_requests_that_find_room_are_answered_later(model: Model) -> None:
    assert model.take([request(), request(timeout_us=LONGEST_US)]) is None
    assert len(model.driver.arrived) == 2


def test_requests_that_find_no_room_are_refused_where_they_stand(model: Model) -> None:
    answers = model.take([request() for _ in range(7)])
    assert answers[:5] == [None] * 5
    assert [code for code, _ in answers[5:]] == [ErrorCode.UNAVAILABLE] * 2
    assert all(text.startswith("net: ") and "reason=overload" in text for _, text in answers[5:])
    assert (len(model.driver.arrived), model.driver.counted) == (5, 2)


def test_who_would_go_after_others_while_no_more_may_is_refused_where_he_stands(model: Model) -> None:
    model.driver.room = Room(Bounds(frames=50, bytes=100, crowd_frames=2))
    model.driver.room.admit(
        [Frame(n, memoryview(b""), 0, SLO_US, print, print, caller=each) for n, each in enumerate("abab")]
    )
    known, stranger = (f'{{"{CALLER}":"{name}"}}' for name in ("known/k", "c"))
    answers = model.take([request(), request(parameters=known), request(parameters=stranger)])
    assert [answer is None for answer in answers] == [True, True, False]
    assert model.take([request(parameters="{" + CALLER)]) is None, "what cannot be read is refused later"


def test_of_refused_requests_every_frame_counts(model: Model) -> None:
    nothing = request()
    nothing.inputs = list
    model.take([*[request() for _ in range(5)], request(rows=4), request(rows=0), nothing])
    assert model.driver.counted == 4 + 1 + 1


def test_patient_requests_find_less_room(model: Model) -> None:
    patient = request(timeout_us=3_600_000_000)
    assert model.take([request(), request(), patient]) is None, "those before it are not patient"
    model.driver.room.admit([Frame(n, memoryview(b""), 0, LONGEST_US, print, print) for n in range(2)])
    answers = model.take([patient, request(), patient])
    assert [answer is None for answer in answers] == [False, True, False]


@pytest.mark.parametrize("name", [ticket_codec.PARAMETER, forwarded.PARAMETER])
def test_what_servers_send_each_other_is_looked_at_in_any_case(model: Model, name: str) -> None:
    assert model.take([request(parameters=f'{{"{name}":"genuine"}}') for _ in range(9)]) is None
    assert len(model.driver.arrived) == 9
