"""A cascade whose step blocks, or gives what nobody can send: other frames go on, nothing piles up."""

from __future__ import annotations

import dataclasses
import gc
import queue
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from python_backend.cascade import service as service_module
from python_backend.cascade.asking import Refusal
from python_backend.cascade.counts import End
from python_backend.cascade.parent import Outputs
from python_backend.cascade.service import CascadeService
from python_backend.wire.clock import now_us
from python_backend.wire.parameters.stream_place import StreamPlace
from tests.cascade.test_parent import CASCADE, MANIFEST
from tests.ppipe.kserve_double import serving

WAIT_S = 60.0
SLO_US = 60_000_000
"""No test waits for it."""
GO = threading.Event()
BEGUN = threading.Semaphore(0)


def blocking(frame: Any, outputs: Mapping[str, Any]) -> list[Any]:
    """A step that waits for another thread."""
    BEGUN.release()
    assert GO.wait(WAIT_S)
    return []


def first_blocks(frame: Any, outputs: Mapping[str, Any]) -> list[Any]:
    """A step that waits with the frame of zeros alone."""
    if not frame.given["frame"].any():
        BEGUN.release()
        assert GO.wait(WAIT_S)
    return [np.zeros(4, np.float32)]


def several(frame: Any, outputs: Mapping[str, Any]) -> Iterator[Any]:
    """Of four frames the second is text that cannot be encoded, and the third raises when it is read."""
    good = np.zeros(4, np.float32)
    yield good
    yield {"frame": np.array(["\ud800"], object)}
    yield {"frame": Hostile()}
    yield good


class Hostile:
    """A value that numpy asks for an array."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("not now")


class Caller:
    """Hears the answer."""

    def __init__(self) -> None:
        self.heard: queue.Queue[Outputs | Refusal] = queue.Queue()

    def outputs(self, outputs: Outputs) -> None:
        self.heard.put(outputs)

    def refuse(self, refusal: Refusal) -> None:
        self.heard.put(refusal)

    def is_cancelled(self) -> bool:
        return False


def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
    """Of any of the models."""
    response = pb.ModelInferResponse(model_name=request.model_name)
    response.outputs.add(name="scores", datatype="FP32", shape=[1, 2])
    response.raw_output_contents.append(np.ones((1, 2), np.float32).tobytes())
    return response


@pytest.fixture
def address() -> Iterator[str]:
    with serving(answer, threads=4) as found:
        yield found


def service(address: str, step: str, said: list[str], in_order: bool = False) -> CascadeService:
    """A detector, and the kinds of what the step makes of its answer."""
    first, second = CASCADE.members[:2]
    members = tuple(
        dataclasses.replace(each, by_us=SLO_US)
        for each in (first, dataclasses.replace(second, make=f"{__name__}:{step}"))
    )
    cascade = dataclasses.replace(CASCADE, members=members, slo_us=SLO_US, in_order=in_order)
    host, _, port = address.rpartition(":")
    entry = dataclasses.replace(MANIFEST.entry, host=host, grpc_port=int(port))
    return CascadeService(dataclasses.replace(MANIFEST, entry=entry), cascade, said.append)


def send(to: CascadeService, timeout_us: int = 0) -> tuple[Caller, weakref.ref[np.ndarray]]:
    """A frame; and its input, as long as somebody holds it."""
    caller, given = Caller(), np.zeros((1, 4), np.float32)
    to.arrive({"frame": given}, {}, now_us(), timeout_us, caller)
    return caller, weakref.ref(given)


def test_answers_of_a_stream_are_sent_in_its_order_and_places_rise(address: str) -> None:
    """The first frame waits for a thread that blocks; those after it are whole long before."""
    served = service(address, "first_blocks", [], in_order=True)
    GO.clear()
    heard: list[int] = []
    callers = [Caller() for _ in range(4)]

    def hear(number: int) -> Any:
        put = callers[number].heard.put
        return lambda found: (heard.append(number), put(found))

    try:
        for number, caller in enumerate(callers):
            caller.heard.put = hear(number)  # type: ignore[method-assign]
            given = {"frame": np.full((1, 4), number, np.float32)}
            stream = StreamPlace("yard" if number == 3 else "gate", number)
            served.arrive(given, {}, now_us(), 0, caller, stream)
        assert not isinstance(callers[3].heard.get(timeout=WAIT_S), Refusal), (
            "another stream waits for nothing"
        )
        end_s = time.monotonic() + WAIT_S
        while served.streams.held < 2 and time.monotonic() < end_s:
            time.sleep(0.002)
        assert (heard, served.streams.held) == ([3], 2)
        back = Caller()
        served.arrive({"frame": np.zeros((1, 4), np.float32)}, {}, now_us(), 0, back, StreamPlace("gate", 1))
        refusal = back.heard.get(timeout=WAIT_S)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "INVALID_ARGUMENT"
        assert "place 1 of stream gate is not after those that came before" in refusal.text
        GO.set()
        for caller in callers[:3]:
            assert not isinstance(caller.heard.get(timeout=WAIT_S), Refusal)
        assert heard == [3, 0, 1, 2]
        assert served.counts.value("ended_total", End.COMPLETE.value) == 4
    finally:
        GO.set()
        served.close()


def test_a_frame_keeps_the_parts_that_it_came_with(address: str) -> None:
    served = service(address, "first_blocks", [])
    GO.clear()
    try:
        caller = send(served)[0]
        assert BEGUN.acquire(timeout=WAIT_S)
        cascade = served.cascade
        served.serve_by(dataclasses.replace(cascade, members=tuple(
            dataclasses.replace(each, by_us=1) for each in cascade.members
        )))  # fmt: skip
        late = send(served)[0].heard.get(timeout=WAIT_S)
        assert isinstance(late, Refusal)
        assert "its time was over before it could be asked" in late.text
        GO.set()
        found = caller.heard.get(timeout=WAIT_S)
        assert not isinstance(found, Refusal)
        assert not found["partial"].any()
    finally:
        GO.set()
        served.close()


def test_a_frame_whose_refusal_cannot_be_sent_holds_up_none_of_its_stream(address: str) -> None:
    served = service(address, "first_blocks", [], in_order=True)
    GO.set()
    try:
        cascade, lost = served.cascade, Caller()
        lost.refuse = fail_to_send  # type: ignore[method-assign]
        first, *others = cascade.members
        served.serve_by(
            dataclasses.replace(cascade, members=(dataclasses.replace(first, by_us=-SLO_US), *others))
        )
        with pytest.raises(RuntimeError):  # long before its deadline, until which others would wait
            send_of(served, lost, "gate")
        served.serve_by(cascade)
        after = Caller()
        send_of(served, after, "gate")
        assert not isinstance(after.heard.get(timeout=WAIT_S / 2), Refusal)
    finally:
        served.close()


def test_a_frame_whose_end_is_lost_holds_up_its_stream_for_a_while_though_no_other_comes(
    address: str,
) -> None:
    served = service(address, "first_blocks", [], in_order=True)
    GO.set()
    try:
        served.streams.came(-1, "gate", 0, now_us(), now_us())
        after = Caller()
        send_of(served, after, "gate")
        assert not isinstance(after.heard.get(timeout=WAIT_S / 2), Refusal)
    finally:
        served.close()


def fail_to_send(_: Refusal) -> None:
    raise RuntimeError("no shared memory")


def send_of(to: CascadeService, caller: Caller, stream: str) -> None:
    """The stream's next frame."""
    to.arrive({"frame": np.zeros((1, 4), np.float32)}, {}, now_us(), 0, caller, StreamPlace(stream))


def test_a_frame_that_a_newer_one_replaced_counts_apart() -> None:
    assert service_module._end_of(Refusal("UNAVAILABLE", "d: reason=superseded")) is End.SUPERSEDED
    assert service_module._end_of(Refusal("UNAVAILABLE", "d: reason=overload")) is End.DECLINED


def block_all_threads(served: CascadeService) -> None:
    """Frames that are sent after this wait behind four that keep the threads."""
    GO.clear()
    while BEGUN.acquire(blocking=False):
        pass
    for _ in range(4):
        send(served)
        assert BEGUN.acquire(timeout=WAIT_S)


def test_what_one_frame_of_an_answer_costs_is_that_frame(address: str) -> None:
    said: list[str] = []
    served = service(address, "several", said)
    found = send(served)[0].heard.get(timeout=WAIT_S)
    served.close()
    assert not isinstance(found, Refusal)
    np.testing.assert_array_equal(found["kinds.answered"], [[True, False, True]])
    lines = [line.decode() for line in found["missing"][0]]
    assert len(lines) == 2
    assert any("RuntimeError: not now" in line for line in lines)
    assert any("UnicodeEncodeError" in line for line in lines)
    assert said == []


def test_frames_behind_a_step_that_blocks_are_partial_and_not_kept(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four threads, room for two more answers; what is beyond is answered at once."""
    monkeypatch.setattr(service_module, "_MOST_WAITING", 2)
    served = service(address, "blocking", [])
    try:
        block_all_threads(served)
        sent = [send(served) for _ in range(5)]
        end_s = time.monotonic() + WAIT_S
        while sum(not caller.heard.empty() for caller, _ in sent) < 3 and time.monotonic() < end_s:
            time.sleep(0.002)
        assert served.counts.value("ended_total", End.PARTIAL.value) == 3
        assert served.counts.open_frames() == 6
        answered = [(caller, given) for caller, given in sent if not caller.heard.empty()]
        assert len(answered) == 3
        for caller, _ in answered:
            found = caller.heard.get_nowait()
            assert not isinstance(found, Refusal)
            assert b"answers wait" in found["missing"][0, 0]
        end_s = time.monotonic() + WAIT_S
        while any(given() is not None for _, given in answered) and time.monotonic() < end_s:
            gc.collect()
            time.sleep(0.002)
        assert [given() for _, given in answered] == [None] * 3
        served.close()
        assert served.counts.open_frames() == 0
    finally:
        GO.set()


def test_a_frame_that_waits_for_threads_is_not_kept_once_it_was_answered(address: str) -> None:
    served = service(address, "blocking", [])
    try:
        block_all_threads(served)
        caller, given = send(served, timeout_us=200_000)
        caller.heard.get(timeout=WAIT_S)
        end_s = time.monotonic() + WAIT_S
        while given() is not None and time.monotonic() < end_s:
            gc.collect()
            time.sleep(0.002)
        assert given() is None
        served.close()
    finally:
        GO.set()
