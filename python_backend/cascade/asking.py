"""Asks the public models of the entry server, over gRPC on loopback.

Why not BLS: a BLS call cannot be cancelled, so frames whose caller has gone, or whose time is over, would be
served all the same, and it waits without a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from planner.manifest import ModelEntry, ServerAddress
from python_backend.cascade.frames import Given
from python_backend.wire import kserve
from python_backend.wire.grpc.channels import CHANNEL_OPTIONS, open_channel
from python_backend.wire.kserve import Array, Buffer, WireError
from python_backend.wire.ragged import body_of

_GRACE_S = 0.05
"""By so much a dispatcher may be late with saying that a frame was not served."""
_DATATYPE_OF = {dtype: name for name, dtype in kserve.NUMPY_OF.items()}


@dataclass(frozen=True)
class Refusal:
    """A model's error, or that it cannot be reached. code: gRPC's name of it."""

    code: str
    text: str


Done = Callable[[Mapping[str, Array] | Refusal], None]
Cancel = Callable[[], Any]


class Asker:
    """A connection to the entry server. Thread-safe."""

    def __init__(self, entry: ServerAddress) -> None:
        self._channel = open_channel(entry.grpc_address, None, CHANNEL_OPTIONS)
        # Without serialisers, bytes go and come as they are on the wire.
        self._call: Any = self._channel.unary_unary(kserve.INFER_METHOD)

    def close(self) -> None:
        """End all calls; each is refused."""
        self._channel.close()

    def ask(
        self, entry: ModelEntry, given: Given, parameters: Mapping[str, Any], timeout_us: int, done: Done
    ) -> Cancel:
        """Send one frame. `done` is called once, in a thread of gRPC's or in this one; what is given back
        cancels the call.
        """
        try:
            request = request_of(entry.dispatcher, given, {**parameters, "timeout": timeout_us})
            call = self._call.future(request, timeout=timeout_us / 1e6 + _GRACE_S)
        except Exception as error:  # closed, or what no request can carry: a step of the user's gave it
            done(Refusal("INVALID_ARGUMENT", f"{type(error).__name__}: {error}"))
            return lambda: None
        call.add_done_callback(lambda ended: done(_outcome(ended)))
        return lambda: call.cancel()


def request_of(model: str, given: Given, parameters: Mapping[str, Any]) -> bytes:
    """A ModelInferRequest. Raises TypeError for arrays that no tensor can be."""
    inputs: list[tuple[str, str, Sequence[int]]] = []
    raw: list[list[Buffer]] = []
    for name, array in given.items():
        if not isinstance(name, str):
            raise TypeError(f"input {name!r}: expected text as its name")
        datatype = "BYTES" if array.dtype.kind in "OSU" else _DATATYPE_OF.get(array.dtype.type)
        if datatype is None:
            raise TypeError(f"input {name}: an array of {array.dtype}, which no tensor can be")
        inputs.append((name, datatype, array.shape))
        raw += body_of(_text_elements(name, array)) if datatype == "BYTES" else [[kserve.piece(array)]]
    said = [
        kserve.text_parameter(name, value)
        if isinstance(value, str)
        else kserve.int_parameter(name, int(value))
        for name, value in parameters.items()
    ]
    return kserve.request_bytes(kserve.head_of(model, inputs), b"".join(said), raw)


def _text_elements(name: str, array: Array) -> list[list[Buffer]]:
    return [[_text_element(name, each)] for each in array.reshape(-1).tolist()]


def _text_element(name: str, element: Any) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes | bytearray | memoryview):
        return bytes(element)
    raise TypeError(f"input {name}: an element of type {type(element).__name__}; expected bytes or text")


def _outcome(call: Any) -> Mapping[str, Array] | Refusal:
    try:
        return kserve.response_outputs(call.result())
    except grpc.FutureCancelledError:
        return Refusal("CANCELLED", "given up")
    except grpc.RpcError as error:
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Refusal(code.name, "no answer by its deadline")
        return Refusal(code.name, error.details() or code.name)
    except WireError as error:
        return Refusal("INTERNAL", str(error))
