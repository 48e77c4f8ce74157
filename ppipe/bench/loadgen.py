"""The open-loop client: sends each frame when it is due, whether or not earlier ones were answered.

Rules
- One thread sends, and does nothing else; answers arrive in gRPC's own threads and are compared there.
- Any number of requests may be in flight. Each has a deadline of its own, well after the frame's, so that
  every request ends; one that gets nothing until then is unanswered.
- Every answer is compared with the reference of its own frame; models without references answer what they
  like, under their request's own id.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ppipe.bench.outcome import Fate, FrameResult, fate_of, is_partial, why_partial
from ppipe.bench.reference import Reference
from ppipe.bench.target import SystemUnderTest
from ppipe.bench.workload import Arrival, RequestTrace
from ppipe.serving.probe import CHANNEL_OPTIONS
from python_backend.wire.parameters.stream_place import PLACE, STREAM

GRACE_S = 3.0
"""How long after its deadline a frame may still be answered, late, before it counts as unanswered."""
_LEAD_S = 0.05
_CONNECT_S = 5.0


class Unreachable(Exception):
    """A server that load is for is not there."""


@dataclass(frozen=True)
class LoadOptions:
    """slo_us per model."""

    slo_us: Mapping[str, int]
    grace_s: float = GRACE_S


def send_load(
    target: SystemUnderTest,
    workload: RequestTrace,
    references: Mapping[str, Reference],
    options: LoadOptions,
    progress: Callable[[int], None] = lambda sent: None,
) -> list[FrameResult]:
    """Send the whole workload and wait for every end. Outcomes are in the workload's order."""
    with contextlib.ExitStack() as stack:
        channels = {address: stack.enter_context(_channel(address)) for address in target.addresses}
        stubs = {
            address: service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for address, channel in channels.items()
        }
        return _Run(target, stubs, references, options).send(workload, progress)


def _channel(address: str) -> grpc.Channel:
    channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    try:
        grpc.channel_ready_future(channel).result(timeout=_CONNECT_S)
    except grpc.FutureTimeoutError:
        channel.close()
        raise Unreachable(f"no server answers at {address}; start the deployment with ppipe serve") from None
    return channel


class _Run:
    """One pass over a workload. `_ended` counts down; the sender waits for it at the end."""

    def __init__(
        self,
        target: SystemUnderTest,
        stubs: Mapping[str, service_pb2_grpc.GRPCInferenceServiceStub],
        references: Mapping[str, Reference],
        options: LoadOptions,
    ) -> None:
        self._target = target
        self._stubs = stubs
        self._references = references
        self._options = options
        self._outcomes: list[FrameResult | None] = []
        self._left = 0
        self._all_ended = threading.Condition()

    def send(self, workload: RequestTrace, progress: Callable[[int], None]) -> list[FrameResult]:
        self._outcomes = [None] * len(workload.arrivals)
        self._left = len(workload.arrivals)
        self._start_s = time.monotonic() + _LEAD_S
        for index, arrival in enumerate(workload.arrivals):
            wait_s = self._start_s + arrival.due_us / 1e6 - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            self._send_one(index, arrival)
            progress(index + 1)
        with self._all_ended:
            self._all_ended.wait_for(lambda: self._left == 0)
        return [outcome for outcome in self._outcomes if outcome is not None]

    def _send_one(self, index: int, arrival: Arrival) -> None:
        address, request = self._target.next_request(arrival.model, arrival.frame, str(index))
        if arrival.stream:
            request.parameters[STREAM].string_param = arrival.stream
            request.parameters[PLACE].int64_param = arrival.place
        timeout_s = self._options.slo_us[arrival.model] / 1e6 + self._options.grace_s
        sent_us = self._now_us()
        call = self._stubs[address].ModelInfer.future(request, timeout=timeout_s)
        call.add_done_callback(functools.partial(self._ended, index, arrival, sent_us))

    def _ended(
        self,
        index: int,
        arrival: Arrival,
        sent_us: int,
        call: grpc.Future[service_pb2.ModelInferResponse],
    ) -> None:
        ended_us = self._now_us()
        fate, reason, error, matched = Fate.FAILED, "the client could not read the answer", 0.0, False
        try:
            fate, reason, error, matched = self._judge(index, arrival, call)
        finally:
            self._outcomes[index] = FrameResult(
                model=arrival.model,
                frame=arrival.frame,
                due_us=arrival.due_us,
                sent_us=sent_us,
                ended_us=ended_us,
                fate=fate,
                reason=reason,
                abs_error=error,
                matched=matched,
                compared=arrival.model in self._references,
                stream=arrival.stream,
                place=arrival.place,
            )
            with self._all_ended:
                self._left -= 1
                self._all_ended.notify_all()

    def _judge(
        self, index: int, arrival: Arrival, call: grpc.Future[service_pb2.ModelInferResponse]
    ) -> tuple[Fate, str, float, bool]:
        error = call.exception()
        if isinstance(error, grpc.RpcError):
            return *fate_of(error), 0.0, True
        response = call.result()
        reference = self._references.get(arrival.model)
        if is_partial(response):
            return Fate.PARTIAL, why_partial(response), 0.0, True
        abs_error, matched = reference.compare(arrival.frame, response) if reference else (0.0, True)
        if response.id != str(index):
            return Fate.ANSWERED, f"answer {response.id!r} to request {index}", abs_error, False
        return Fate.ANSWERED, "", abs_error, matched

    def _now_us(self) -> int:
        return round((time.monotonic() - self._start_s) * 1e6)
