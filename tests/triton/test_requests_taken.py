"""Which requests a dispatcher's Triton model takes: what another entry passes on, what finds room."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.frames.room import Bounds, Room
from python_backend.wire import forwarded, ticket_codec
from python_backend.wire.forwarded import Forwarded

MODULES = ("python_backend.triton.replies", "python_backend.triton.dispatcher")
SLO_US, LONGEST_US = 10_000, 50_000


class Driver:
    """Counts what it is told; every request is one frame."""

    def __init__(self) -> None:
        self.room = Room(Bounds(frames=5, bytes=100, patient_frames=2, patient_us=15_000))
        self.arrived: list[Any] = []
        self.counted = 0
        self.table = SimpleNamespace(entry=SimpleNamespace(served=SimpleNamespace(slo_us=SLO_US)))

    def arrive(self, frames: Sequence[Any]) -> None:
        self.arrived += frames

    def refused(self, frames: int) -> None:
        self.counted += frames


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    triton = SimpleNamespace(
        TritonError=lambda text, code: (code, text), InferenceResponse=lambda output_tensors, error: error
    )
    triton.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    triton.TritonError.UNAVAILABLE = "UNAVAILABLE"
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    made = importlib.import_module(MODULES[1]).TritonPythonModel()
    made._longest_us, made._model = LONGEST_US, "net"
    made._dispatcher = SimpleNamespace(driver=Driver())
    made._intake = SimpleNamespace(names=("jpeg", "image"))
    made._frames = lambda request, arrived_us, time_us: [request]
    yield made
    for name in MODULES:
        sys.modules.pop(name, None)


def request(timeout_us: int = 0, parameters: str = "", rows: int = 1) -> Any:
    image = SimpleNamespace(as_numpy=lambda: np.zeros((rows, 3)))
    return SimpleNamespace(timeout=lambda: timeout_us, parameters=lambda: parameters, inputs={"image": image})


def test_a_mark_is_of_one_frame(model: Any) -> None:
    mark = Forwarded("d", "m", "a", "b", 60_000, priority=-3, stream="camera", place=4, caller="c")
    assert model._wanted({}, mark, 0, 1) == (50_000, -3, "camera", 4, True, "c")
    with pytest.raises(ValueError, match="ppipe_forwarded: a request of 2 frames; expected one"):
        model._wanted({}, mark, 0, 2)


def test_requests_that_find_room_are_answered_later(model: Any) -> None:
    requests = [request(), request(timeout_us=LONGEST_US)]
    assert model.execute(requests) is None
    assert model._dispatcher.driver.arrived == requests


def test_requests_that_find_no_room_are_refused_where_they_stand(model: Any) -> None:
    requests = [request() for _ in range(7)]
    answers = model.execute(requests)
    assert answers[:5] == [None] * 5
    assert [code for code, _ in answers[5:]] == ["UNAVAILABLE"] * 2
    assert all(text.startswith("net: ") and "reason=overload" in text for _, text in answers[5:])
    driver = model._dispatcher.driver
    assert (driver.arrived, driver.counted) == (requests[:5], 2)


def test_of_refused_requests_every_frame_counts(model: Any) -> None:
    nothing = request()
    nothing.inputs.clear()
    requests = [*[request() for _ in range(5)], request(rows=4), request(rows=0), nothing]
    model.execute(requests)
    assert model._dispatcher.driver.counted == 4 + 1 + 1


def test_patient_requests_find_less_room(model: Any) -> None:
    patient = request(timeout_us=3_600_000_000)
    assert model.execute([request(), request(), patient]) is None, "those before it are not patient"
    model._dispatcher.driver.room.admit(
        [Frame(n, memoryview(b""), 0, LONGEST_US, print, print) for n in range(2)]
    )
    answers = model.execute([patient, request(), patient])
    assert [answer is None for answer in answers] == [False, True, False]


@pytest.mark.parametrize("name", [ticket_codec.PARAMETER, forwarded.PARAMETER])
def test_what_servers_send_each_other_is_looked_at_in_any_case(model: Any, name: str) -> None:
    requests = [request(parameters=f'{{"{name}":"x"}}') for _ in range(9)]
    assert model.execute(requests) is None
    assert model._dispatcher.driver.arrived == requests
