"""The hop of a frame to another entry: a call of that entry's public model, as any client makes it, with the
signed mark (wire.forwarded).

Rules
- Calls wait on no thread of ours: gRPC's own threads bring the answers.
- Every frame that is sent, and not given up, ends once: in `served`, in `refused` (the other entry's own
  answer, which its caller gets), in `missed` (this frame alone was not taken, or not answered in time), or
  in `unreachable`, where nobody serves there or nothing is owned any more.
- An answer is waited for as long as a hop's: the other entry may tell late of a hop that failed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from planner.manifest import ModelEntry, ServerAddress
from planner.profile import TensorSpec
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.scheduler.actions import DropReason
from python_backend.wire import forwarded, graces, kserve
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.grpc.channels import CHANNEL_OPTIONS
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameKind, body_of
from python_backend.wire.refusals import REASON, reason_in
from python_backend.wire.signing.keys import Keys
from python_backend.wire.transport import Outputs

_PASSES: Final = ("Exceeds maximum queue size", "Request timeout expired")
"""In the text of Triton's own refusals of one request, whose model goes on serving."""

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
        missed: Unreachable,
        unreachable: Unreachable,
    ) -> None:
        self._deployment = deployment
        self._entry = entry
        self._me = me
        self._keys = keys
        self._served = served
        self._refused = refused
        self._missed = missed
        self._unreachable = unreachable
        self._grace_us = graces.entry_us(entry.serves_late)
        self._outputs = [spec.name for spec in entry.outputs]
        self._others = sum(spec.bytes_per_frame for spec in entry.other_inputs)
        self._head = functools.lru_cache(maxsize=256)(kserve.request_head)
        self._under_way: dict[int, Any] = {}
        """Calls by the frame's request id."""
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
            frame.caller,
        )
        specs, tensors = self._tensors(frame)
        parameter = kserve.text_parameter(forwarded.PARAMETER, forwarded.encode(mark, self._keys))
        request = kserve.request_bytes(self._head(self._entry.dispatcher, specs, 1), parameter, tensors)
        try:
            call = self._calls[to].future(request, timeout=(max(0, left_us) + self._grace_us) / 1e6)
        except ValueError as error:  # closed
            self._unreachable(frame, to, str(error))
            return
        self._under_way[frame.request_id] = call
        call.add_done_callback(functools.partial(self._ended, frame, to))

    def give_up(self, frame: Frame) -> None:
        """It was answered here: have the other entry know, and end it in nothing."""
        call = self._under_way.pop(frame.request_id, None)
        if call is not None:
            call.cancel()

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
            element = TensorSpec(spec.name, spec.dtype, (1,))
            return (element, *entry.other_inputs), [*body_of([[own]]), *rest]
        pixels = TensorSpec(spec.name, spec.dtype, (info.height, info.width, 3))
        return (pixels, *entry.other_inputs), [[own], *rest]

    def _ended(self, frame: Frame, to: str, call: Any) -> None:
        if self._under_way.pop(frame.request_id, None) is None:
            return  # given up
        try:
            answer = self._checked(kserve.response_outputs(call.result()))
            self._served(frame, answer)
        except grpc.RpcError as error:
            self._take_error(frame, to, error.code(), error.details() or "")
        except grpc.FutureCancelledError:
            self._unreachable(frame, to, "the call was given up")
        except kserve.WireError as error:
            self._refused(frame, ErrorCode.INTERNAL, f"entry {to}: {error}")
        except Exception as error:
            # gRPC would write it to its log, and the frame's caller would wait for ever.
            self._refused(frame, ErrorCode.INTERNAL, f"entry {to}: {error!r}")

    def _checked(self, answer: Outputs) -> Outputs:
        """Raises WireError unless it is of one frame, with all outputs."""
        for name in self._outputs:
            if name not in answer or answer[name].shape[:1] != (1,):
                found = ", ".join(f"{each} {list(array.shape)}" for each, array in answer.items())
                raise kserve.WireError(
                    f"output {name}: not one frame of it in the answer, which has {found or 'nothing'}"
                )
        return answer

    def _take_error(self, frame: Frame, to: str, code: grpc.StatusCode, details: str) -> None:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            # Of a mark it refused: its keys or its deployment are others.
            if forwarded.PARAMETER in details:
                self._unreachable(frame, to, details)
            else:
                self._refused(frame, ErrorCode.INVALID, details)
        elif REASON in details and reason_in(details) is DropReason.NO_OWNER:
            self._unreachable(frame, to, details)
        elif REASON in details:
            self._refused(frame, ErrorCode.UNAVAILABLE, details)
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED or any(text in details for text in _PASSES):
            self._missed(frame, to, f"{code.name}: {details[:200]}")
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
