"""The hop of a frame to another entry: a call of that entry's public model, as any client makes it, with the
signed mark (wire.forwarded).

Rules
- Calls wait on no thread of ours: gRPC's own threads bring the answers.
- Every frame that is sent ends once: in `served`, in `refused` (the other entry's own answer, which its
  caller gets), or in `unreachable`, where the other entry has said nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from planner.manifest import ModelEntry, ServerAddress
from planner.profile import TensorSpec
from python_backend.dispatcher.frame import ErrorCode, Frame
from python_backend.wire import forwarded, kserve
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.keys import Keys
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameKind
from python_backend.wire.transport import CHANNEL_OPTIONS, Outputs

REASON: Final = "reason="
"""In the text of every frame that a dispatcher of ours did not serve."""
_GRACE_S: Final = 0.05
"""Beyond its deadline: an answer that is late is an answer."""

Served = Callable[[Frame, Outputs], None]
Refused = Callable[[Frame, ErrorCode, str], None]
Unreachable = Callable[[Frame, str, str], None]
"""The frame, the entry, and what became of the call."""


class Onward:
    """From entry `me` to `entries`, with frames of one model. Thread-safe."""

    def __init__(
        self,
        deployment: str,
        entry: ModelEntry,
        me: str,
        entries: Sequence[ServerAddress],
        keys: Keys,
        served: Served,
        refused: Refused,
        unreachable: Unreachable,
    ) -> None:
        self._deployment = deployment
        self._entry = entry
        self._me = me
        self._keys = keys
        self._served = served
        self._refused = refused
        self._unreachable = unreachable
        self._others = sum(spec.bytes_per_frame for spec in entry.other_inputs)
        self._head = functools.lru_cache(maxsize=256)(kserve.request_head)
        self._channels = {
            other.name: grpc.insecure_channel(other.grpc_address, options=CHANNEL_OPTIONS)
            for other in entries
        }
        self._calls: dict[str, Any] = {
            name: channel.unary_unary(kserve.INFER_METHOD) for name, channel in self._channels.items()
        }

    def send(self, frame: Frame, to: str, left_us: int) -> None:
        """Have entry `to` serve a frame; left_us: until its answer has to leave there."""
        mark = Forwarded(
            self._deployment,
            self._entry.model,
            self._me,
            to,
            left_us,
            frame.priority,
            frame.stream,
            frame.place,
        )
        specs, tensors = self._tensors(frame)
        parameter = kserve.text_parameter(forwarded.PARAMETER, forwarded.encode(mark, self._keys))
        request = kserve.request_bytes(self._head(self._entry.dispatcher, specs, 1), parameter, tensors)
        try:
            call = self._calls[to].future(request, timeout=max(0, left_us) / 1e6 + _GRACE_S)
        except ValueError as error:  # closed
            self._unreachable(frame, to, str(error))
            return
        call.add_done_callback(functools.partial(self._ended, frame, to))

    def close(self) -> None:
        """Give up connections; calls under way end in `unreachable`."""
        for channel in self._channels.values():
            channel.close()

    def _tensors(self, frame: Frame) -> tuple[tuple[TensorSpec, ...], list[list[Buffer]]]:
        """The frame as its client sent it."""
        entry, data, info = self._entry, frame.data, frame.info
        rest = _cut(data[len(data) - self._others :], entry.other_inputs)
        own = data[: len(data) - self._others]
        if entry.prepare is None:
            return entry.network_inputs, _cut(data, entry.network_inputs)
        if info is None or info.kind is FrameKind.TENSOR:
            return (entry.input, *entry.other_inputs), [[own], *rest]
        spec = entry.prepare.frame
        if info.kind is FrameKind.ENCODED:
            element: list[Buffer] = [len(own).to_bytes(4, "little"), own]
            return (TensorSpec(spec.name, spec.dtype, (1,)), *entry.other_inputs), [element, *rest]
        pixels = TensorSpec(spec.name, spec.dtype, (info.height, info.width, 3))
        return (pixels, *entry.other_inputs), [[own], *rest]

    def _ended(self, frame: Frame, to: str, call: Any) -> None:
        try:
            answer = kserve.response_outputs(call.result())
        except grpc.RpcError as error:
            self._take_error(frame, to, error.code(), error.details() or "")
        except grpc.FutureCancelledError:
            self._unreachable(frame, to, "the call was given up")
        except kserve.WireError as error:
            self._refused(frame, ErrorCode.INTERNAL, f"entry {to}: {error}")
        else:
            self._served(frame, answer)

    def _take_error(self, frame: Frame, to: str, code: grpc.StatusCode, details: str) -> None:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            # Of a mark it refused: its keys or its deployment are others.
            if forwarded.PARAMETER in details:
                self._unreachable(frame, to, details)
            else:
                self._refused(frame, ErrorCode.INVALID, details)
        elif REASON in details:
            self._refused(frame, ErrorCode.UNAVAILABLE, details)
        else:  # its process may be ending, whatever the code says
            self._unreachable(frame, to, f"{code.name}: {details[:200]}")


def _cut(data: memoryview, specs: Sequence[TensorSpec]) -> list[list[Buffer]]:
    """The tensors of one frame, which lie one after the other."""
    pieces: list[list[Buffer]] = []
    start = 0
    for spec in specs:
        end = start + spec.bytes_per_frame
        pieces.append([data[start:end]])
        start = end
    return pieces
