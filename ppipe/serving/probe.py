"""Asks a Triton model one real question, because a ready model need not be a working one.

A server whose Python stub is dead still calls the model ready. So inputs are made from the model's own
metadata: a tiny JPEG for a text tensor, zeros for the rest. A probe of a stage carries a probe ticket, which
holds no worker.
"""

from __future__ import annotations

import io
import math
import threading
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any

import grpc
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from planner.manifest import TlsFiles
from planner.profile import DTYPE_BYTES
from python_backend.wire import forwarded, ticket_codec
from python_backend.wire.grpc.channels import open_channel
from python_backend.wire.hop_failure import FailureKind, from_wire
from python_backend.wire.signing.keys import Keys

PROBE_SLO_US = 60_000_000
"""Deadline that a probe asks for, so that a dispatcher does not drop it while everything is still cold."""
_CANCEL_CHECK_S = 0.1
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that was restarted is found again at once, not after seconds of back-off.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class ProbeVerdict(Enum):
    """What a probe says of a model."""

    ANSWERS = "answers"
    NOT_YET = "not yet"
    """The server or the model is not there (yet), or the model declined this once."""
    STUB_DEAD = "stub dead"
    """The model's Python process is gone; only a reload or a restart helps."""
    SILENT = "silent"
    """No answer within the time given."""
    FAILS = "fails"
    """The stage's program fails on every batch: waiting does not help."""
    REFUSED = "refused"
    """The server says that the question itself is wrong: waiting does not help."""


@dataclass(frozen=True)
class Probe:
    """A verdict and the server's own words."""

    verdict: ProbeVerdict
    detail: str = ""


class ModelProber:
    """Asks the models of one server; setting `cancelled` ends a question that is under way.

    A context manager: it holds a connection.
    """

    def __init__(
        self, address: str, cancelled: threading.Event | None = None, tls: TlsFiles | None = None
    ) -> None:
        self._cancelled = cancelled
        self._channel = open_channel(address, tls, CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._requests: dict[str, service_pb2.ModelInferRequest] = {}
        self._left_out: dict[str, slice] = {}

    def __enter__(self) -> ModelProber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._channel.close()

    def ask(self, model: str, timeout_s: float, through: bool = False) -> Probe:
        """Have `model` compute one frame. through: by the stages behind it too, as any client's frame."""
        return self._infer(model, PROBE_SLO_US, timeout_s, ticket=not through)

    def ask_hopeless(self, model: str, timeout_s: float) -> Probe:
        """Ask a dispatcher, or what leads to one, for a sign of life: by way of its queue it answers zeros,
        or declines. No worker's time is spent.
        """
        probe = self._infer(model, 1, timeout_s)
        declined = probe.verdict is ProbeVerdict.NOT_YET and "deadline" in probe.detail
        return Probe(ProbeVerdict.ANSWERS, probe.detail) if declined else probe

    def ask_live(self, timeout_s: float) -> Probe:
        """Ask the server, no model, whether it lives."""
        try:
            live = self._call(self._stub.ServerLive, service_pb2.ServerLiveRequest(), timeout_s).live
        except grpc.RpcError as error:
            return judge(error)
        return Probe(ProbeVerdict.ANSWERS if live else ProbeVerdict.NOT_YET)

    def refuses_keys(self, stage: str, keys: Keys, timeout_s: float) -> bool:
        """Whether a stage takes no tickets signed with these keys. False where it says nothing."""
        try:
            request = service_pb2.ModelInferRequest()
            request.CopyFrom(self._request(stage, timeout_s))
            request.parameters[ticket_codec.PARAMETER].string_param = ticket_codec.stray_text(keys)
            self._call(self._stub.ModelInfer, request, timeout_s)
        except grpc.RpcError as error:
            return ticket_codec.FOREIGN_KEY in (error.details() or "")
        return False

    def refuses_marks(self, dispatcher: str, keys: Keys, timeout_s: float) -> bool:
        """Whether an entry's dispatcher takes no frames that were passed on with these keys. False where it
        says nothing.
        """
        try:
            request = service_pb2.ModelInferRequest()
            request.CopyFrom(self._request(dispatcher, timeout_s))
            request.parameters[forwarded.PARAMETER].string_param = forwarded.stray_text(keys)
            self._call(self._stub.ModelInfer, request, timeout_s)
        except grpc.RpcError as error:
            return forwarded.FOREIGN_KEY in (error.details() or "")
        return False

    def is_server_ready(self, timeout_s: float) -> bool:
        """Whether the server says that all its models are loaded."""
        try:
            return bool(self._call(self._stub.ServerReady, service_pb2.ServerReadyRequest(), timeout_s).ready)
        except grpc.RpcError:
            return False

    def _infer(self, model: str, slo_us: int, timeout_s: float, ticket: bool = True) -> Probe:
        try:
            request = self._request(model, timeout_s)
            if ticket:
                request.parameters[ticket_codec.PARAMETER].string_param = ticket_codec.ANONYMOUS_PROBE_TEXT
            else:
                request = _as_a_client(request, self._left_out[model])
            request.parameters["timeout"].int64_param = slo_us
            self._call(self._stub.ModelInfer, request, timeout_s)
        except grpc.RpcError as error:
            return judge(error)
        return Probe(ProbeVerdict.ANSWERS)

    def _request(self, model: str, timeout_s: float) -> service_pb2.ModelInferRequest:
        if model not in self._requests:
            asked = service_pb2.ModelMetadataRequest(name=model)
            metadata = self._call(self._stub.ModelMetadata, asked, timeout_s)
            self._requests[model] = probe_request(metadata)
            self._left_out[model] = not_from_a_client(metadata)
        return self._requests[model]

    def _call(self, method: Any, request: Any, timeout_s: float) -> Any:
        """The answer, or an RpcError; CANCELLED soon after `cancelled` is set. Where nobody can set it, the
        caller's thread waits itself: gRPC starts a thread for every call that is to be waited for elsewhere.
        """
        if self._cancelled is None:
            return method(request, timeout=timeout_s)
        call = method.future(request, timeout=timeout_s)
        ended = threading.Event()
        call.add_done_callback(lambda _: ended.set())
        while not ended.wait(_CANCEL_CHECK_S):
            if self._cancelled.is_set():
                call.cancel()
        try:
            return call.result()
        except grpc.FutureCancelledError:
            raise call from None


def judge(error: grpc.RpcError) -> Probe:
    """What a failed call says of the model."""
    code, detail = error.code(), error.details() or ""
    if "Stub process" in detail and "not healthy" in detail:
        return Probe(ProbeVerdict.STUB_DEAD, detail)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Probe(ProbeVerdict.SILENT, detail)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return Probe(ProbeVerdict.REFUSED, detail)
    failure = from_wire(detail)
    if failure is not None and failure.kind is FailureKind.COMPUTE:
        return Probe(ProbeVerdict.FAILS, f"its program fails on every batch: {failure.text}")
    return Probe(ProbeVerdict.NOT_YET, f"{code.name}: {detail}")


def probe_request(metadata: service_pb2.ModelMetadataResponse) -> service_pb2.ModelInferRequest:
    """One frame of zeros, or of a tiny JPEG, for a model with this metadata."""
    request = service_pb2.ModelInferRequest(model_name=metadata.name, id="ppipe-probe")
    request.parameters[ticket_codec.PARAMETER].string_param = ticket_codec.ANONYMOUS_PROBE_TEXT
    for tensor in metadata.inputs:
        # -1 is the batch dimension, or one of free size.
        shape = [max(1, size) for size in tensor.shape]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        if tensor.datatype == "BYTES":
            request.raw_input_contents.append(text_element(_tiny_jpeg()) * math.prod(shape))
        else:
            request.raw_input_contents.append(bytes(math.prod(shape) * DTYPE_BYTES[tensor.datatype]))
    return request


def not_from_a_client(metadata: service_pb2.ModelMetadataResponse) -> slice:
    """The inputs that a client leaves out: of a model that prepares frames, which come as texts or in any
    size, the second, which is the first prepared.
    """
    first = metadata.inputs[0]
    prepares = first.datatype == "BYTES" or -1 in list(first.shape)[1:]
    return slice(1, 2) if prepares else slice(0, 0)


def _as_a_client(probe: service_pb2.ModelInferRequest, left_out: slice) -> service_pb2.ModelInferRequest:
    """The same without the ticket, in one of the ways in."""
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(probe)
    request.parameters.pop(ticket_codec.PARAMETER, None)
    del request.inputs[left_out], request.raw_input_contents[left_out]
    return request


def text_element(data: bytes) -> bytes:
    """One element of a BYTES tensor as it travels: its length in four bytes, little-endian, then itself."""
    return len(data).to_bytes(4, "little") + data


def _tiny_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 150)).save(buffer, format="JPEG")
    return buffer.getvalue()
