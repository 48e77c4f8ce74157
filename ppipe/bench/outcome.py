"""What became of each request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

import grpc
from tritonclient.grpc import service_pb2

from ensembles.cascade_answer import MISSING, PARTIAL


class Fate(Enum):
    """How a request ended."""

    ANSWERED = "answered"
    PARTIAL = "partial"
    """Answered by a cascade, with something missing."""
    DROPPED = "dropped"
    """Declined by the scheduler, with a reason."""
    SUPERSEDED = "superseded"
    """Declined because a newer frame of its stream had come."""
    FAILED = "failed"
    """Any other error."""
    UNANSWERED = "unanswered"
    """Nothing until well after its deadline."""


@dataclass(frozen=True, slots=True)
class FrameResult:
    """One request. Times are microseconds from the start of the run; `ended_us` is of the answer or the
    error.

    abs_error: largest difference to the reference output; matched: within tolerance of its own frame's
    reference; compared: whether there was one.
    """

    model: str
    frame: int
    due_us: int
    sent_us: int
    ended_us: int
    fate: Fate
    reason: str = ""
    abs_error: float = 0.0
    matched: bool = True
    compared: bool = True
    stream: str = ""
    place: int = -1

    @property
    def latency_us(self) -> int:
        """From when it was due, not from when it was sent: a client that lags must not flatter the server."""
        return self.ended_us - self.due_us

    def is_good(self, slo_us: int) -> bool:
        """Answered, right, and in time."""
        return self.fate is Fate.ANSWERED and self.matched and self.latency_us <= slo_us


def is_partial(response: service_pb2.ModelInferResponse) -> bool:
    """Whether this is a cascade's answer that lacks something."""
    return any(_raw(response, PARTIAL, "BOOL"))


def why_partial(response: service_pb2.ModelInferResponse) -> str:
    """What a partial answer says first of what is missing: a scheduler's reason, or the line as it is."""
    raw = _raw(response, MISSING, "BYTES")
    first = raw[4 : 4 + int.from_bytes(raw[:4], "little")].decode(errors="replace")
    reason = re.search(r"reason=(\w+)", first)
    return reason[1] if reason else first


def _raw(response: service_pb2.ModelInferResponse, name: str, datatype: str) -> bytes:
    """Of an output; nothing where there is none of this name and type."""
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        if tensor.name == name and tensor.datatype == datatype:
            return bytes(raw)
    return b""


def fate_of(error: grpc.RpcError) -> tuple[Fate, str]:
    """The fate that a failed call means, and its reason."""
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Fate.UNANSWERED, "no answer"
    reason = re.search(r"reason=(\w+)", details)
    if code == grpc.StatusCode.UNAVAILABLE and reason:
        return Fate.SUPERSEDED if reason[1] == "superseded" else Fate.DROPPED, reason[1]
    if code == grpc.StatusCode.UNAVAILABLE and "timeout expired" in details.lower():
        return Fate.DROPPED, "queue_timeout"  # Triton's own queue policy, in the comparison without PPipe
    return Fate.FAILED, f"{code.name}: {details}"[:200]
