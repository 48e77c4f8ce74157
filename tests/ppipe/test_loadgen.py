"""The open-loop client against a server whose every answer is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from planner.profile import TensorSpec
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate, FrameResult
from ppipe.bench.reference import Reference
from ppipe.bench.score import score
from ppipe.bench.target import SystemUnderTest, WayIn, tensor_request
from ppipe.bench.workload import Arrival, RequestTrace, make_workload
from tests.ppipe.kserve_double import Answer, serving

FRAMES = 4
INPUT = TensorSpec(name="x", dtype="FP32", shape=(2,))
OUTPUT = TensorSpec(name="y", dtype="FP32", shape=(2,))
ANSWERS = [np.array([frame, -frame], dtype=np.float32) for frame in range(FRAMES)]
REFERENCES = {
    "m": Reference(
        model="m",
        ways=(frozenset({OUTPUT.name}),),
        answers=tuple({OUTPUT.name: answer} for answer in ANSWERS),
    )
}
SLO_US = {"m": 100_000}
PATIENT = LoadOptions(SLO_US, grace_s=60.0)
"""However slow the host is, what is answered is answered in time."""


def frame_of(request: service_pb2.ModelInferRequest) -> int:
    return int(np.frombuffer(request.raw_input_contents[0], dtype=np.float32)[0])


def response(
    request: service_pb2.ModelInferRequest, values: np.ndarray, request_id: str | None = None
) -> service_pb2.ModelInferResponse:
    answer = service_pb2.ModelInferResponse(
        model_name=request.model_name, id=request.id if request_id is None else request_id
    )
    answer.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    answer.raw_output_contents.append(values.astype(np.float32).tobytes())
    return answer


def right(
    request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
) -> service_pb2.ModelInferResponse:
    return response(request, ANSWERS[frame_of(request)])


def send(
    answer: Answer,
    workload: RequestTrace,
    references: Mapping[str, Reference] = REFERENCES,
    options: LoadOptions = PATIENT,
) -> list[FrameResult]:
    inputs = [tensor_request(INPUT, np.array([frame, 0], dtype=np.float32)) for frame in range(FRAMES)]
    with serving(answer) as address:
        target = SystemUnderTest({"m": [WayIn(address, "m")]}, {"m": inputs})
        return send_load(target, workload, references, options)


def every(count: int, gap_us: int) -> RequestTrace:
    arrivals = tuple(Arrival(due_us=i * gap_us, model="m", frame=i % FRAMES) for i in range(count))
    return RequestTrace(arrivals=arrivals, seconds=count * gap_us / 1e6)


def test_every_request_gets_its_own_outcome_in_order() -> None:
    workload = make_workload({"m": 400.0}, seconds=0.5, seed=1, frames=FRAMES)
    outcomes = send(right, workload)
    assert [(o.due_us, o.frame) for o in outcomes] == [(a.due_us, a.frame) for a in workload.arrivals]
    assert {o.fate for o in outcomes} == {Fate.ANSWERED}
    assert all(o.matched and o.abs_error == 0.0 for o in outcomes)
    assert all(o.due_us <= o.sent_us <= o.ended_us for o in outcomes)


def test_it_is_open_loop_slow_answers_hold_nothing_back() -> None:
    all_here = threading.Barrier(20)

    def slow(
        request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        all_here.wait(timeout=50)
        return right(request, context)

    outcomes = send(slow, every(20, gap_us=5_000))
    assert {o.fate for o in outcomes} == {Fate.ANSWERED}, "all were sent while the first still waited"
    assert all(o.ended_us >= outcomes[-1].sent_us for o in outcomes)
    assert not outcomes[0].is_good(slo_us=90_000), "it is late from when it was due on"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda request: response(request, ANSWERS[(frame_of(request) + 1) % FRAMES]), 1.0),
        (lambda request: response(request, ANSWERS[frame_of(request)] + 2e-4), 2e-4),
        (lambda request: response(request, ANSWERS[frame_of(request)], request_id="other"), 0.0),
        (lambda request: response(request, np.full(2, np.nan)), np.inf),
        (lambda request: response(request, np.zeros(0)), np.inf),
        (lambda request: service_pb2.ModelInferResponse(id=request.id), np.inf),
    ],
    ids=["another frame's", "not exact", "another request's", "not a number", "empty", "no tensor"],
)
def test_a_wrong_answer_is_a_mismatch(
    wrong: Callable[[service_pb2.ModelInferRequest], service_pb2.ModelInferResponse], error: float
) -> None:
    outcomes = send(lambda request, _: wrong(request), every(3, gap_us=1_000))
    assert [(o.fate, o.matched) for o in outcomes] == [(Fate.ANSWERED, False)] * 3
    assert min(o.abs_error for o in outcomes) >= error * 0.99
    assert not any(o.is_good(slo_us=10**9) for o in outcomes)


def test_without_a_reference_any_answer_to_its_own_request_will_do() -> None:
    outcomes = send(lambda request, _: response(request, np.zeros(2)), every(3, gap_us=1_000), references={})
    assert [(o.matched, o.compared) for o in outcomes] == [(True, False)] * 3
    assert score(outcomes, SLO_US, seconds=1.0).compared == 0
    mixed_up = send(
        lambda request, _: response(request, np.zeros(2), "other"), every(3, gap_us=1_000), references={}
    )
    assert not any(o.matched for o in mixed_up)
    assert score(send(right, every(3, gap_us=1_000)), SLO_US, seconds=1.0).compared == 3


def test_drops_failures_and_silence_are_told_apart() -> None:
    def by_model(
        request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        if request.model_name == "full":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the deadline cannot be met, reason=overload")
        if request.model_name == "broken":
            context.abort(grpc.StatusCode.UNAVAILABLE, "Stub process is not healthy")
        while request.model_name == "silent" and context.is_active():
            time.sleep(0.01)
        return right(request, context)

    names = ("m", "full", "broken", "silent")
    inputs = [tensor_request(INPUT, np.zeros(2, dtype=np.float32))]
    workload = RequestTrace(tuple(Arrival(due_us=0, model=name, frame=0) for name in names), seconds=0.1)
    # Only the silent model's time is short: however slow the host is, the others answer within theirs.
    options = LoadOptions(dict.fromkeys(names, 60_000_000) | {"silent": 100_000}, grace_s=0.2)
    with serving(by_model) as address:
        target = SystemUnderTest(
            {name: [WayIn(address, name)] for name in names}, dict.fromkeys(names, inputs)
        )
        outcomes = send_load(target, workload, REFERENCES, options)
    assert {outcome.model: outcome.fate for outcome in outcomes} == {
        "m": Fate.ANSWERED,
        "full": Fate.DROPPED,
        "broken": Fate.FAILED,
        "silent": Fate.UNANSWERED,
    }
    assert outcomes[1].reason == "overload"


def test_ways_in_are_taken_in_turn() -> None:
    inputs = [tensor_request(INPUT, np.zeros(2, dtype=np.float32))]
    target = SystemUnderTest({"m": [WayIn("a:1", "m.w0"), WayIn("b:1", "m.w1")]}, {"m": inputs})
    sent = [target.next_request("m", 0, str(index)) for index in range(3)]
    assert [(address, request.model_name) for address, request in sent] == [
        ("a:1", "m.w0"),
        ("b:1", "m.w1"),
        ("a:1", "m.w0"),
    ]
    assert target.addresses == ("a:1", "b:1")


def test_the_client_is_not_the_bottleneck() -> None:
    """Far above the demo's rate, and its one thread that sends could send more."""
    workload = make_workload({"m": 500.0}, seconds=1.0, seed=2, frames=FRAMES)
    began_s = time.thread_time()
    outcomes = send(right, workload)
    assert time.thread_time() - began_s < workload.seconds
    assert {o.fate for o in outcomes} == {Fate.ANSWERED}
