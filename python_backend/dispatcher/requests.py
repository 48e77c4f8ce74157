"""Reads what Triton hands a dispatcher: which requests there is room for, and the frames of each.

Rules
- A request that finds no room is refused before anything of it is unpacked, and its answer is returned with
  the others of its list instead of sent: a flood then costs a fraction of the time.
- There is always room for what servers send each other.
- What cannot be read is answered here. Requests are Triton's, and what is done with them is given: Triton's
  own module is known to python_backend.triton alone.
- Each line here is run for every frame, so this is compiled, and requests of one frame take a short way.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from planner.manifest import ModelEntry
from python_backend.dispatcher.frames.frame import ErrorCode, Frame, SendOutputs
from python_backend.dispatcher.frames.room import Room
from python_backend.dispatcher.frames.together import Together
from python_backend.dispatcher.intake import Intake, Taken
from python_backend.dispatcher.wanted import Wanted, is_of_servers, parameters_in, plain, wanted_of
from python_backend.wire import forwarded, ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.kserve import Array
from python_backend.wire.parameters.caller import caller_of

_NOTHING: Taken = (memoryview(b""), None)


class Triton(NamedTuple):
    """What is done with Triton's objects. refusal: an answer that is an error, to be returned."""

    send_outputs: Callable[[Any, Mapping[str, Array]], None]
    send_error: Callable[[Any, ErrorCode, str], None]
    refusal: Callable[[ErrorCode, str], Any]


class TakesFrames(Protocol):
    """What frames are given to (dispatcher.driver)."""

    room: Room

    @property
    def slo_us(self) -> int:
        """Of the table that is served."""

    def arrive(self, frames: Sequence[Frame]) -> None:
        """Take frames; each will be answered."""

    def refused(self, frames: int) -> None:
        """Count frames that found no room."""

    def probe(self, frame: Frame) -> None:
        """Answer with zeros."""


class Requests:
    """Of one model. See the module."""

    def __init__(
        self, entry: ModelEntry, driver: TakesFrames, passed_on: Callable[[str], Forwarded], triton: Triton
    ) -> None:
        """passed_on: reads what another entry says of a frame; raises TicketError."""
        self._intake = Intake(entry)
        self._model = entry.model
        self._longest_us = entry.longest_us
        self._driver = driver
        self._passed_on = passed_on
        self._send_outputs, self._send_error, self._refusal = triton
        self._ids = itertools.count()

    def take(self, requests: Sequence[Any]) -> list[Any] | None:
        """Have the frames of these served. Returns the answers to requests that find no room, with None in
        place of all others, which the dispatcher's threads answer later; None where all found room.
        """
        arrived_us, slo_us, room = now_us(), self._driver.slo_us, self._driver.room
        frames: list[Frame] = []
        answers: list[Any] = []
        refused = 0
        for request in requests:
            text = request.parameters() or ""
            time_us = min(request.timeout() or slo_us, self._longest_us)
            full = room.is_full(time_us, len(frames), arrived_us)
            if not full and room.is_full_behind:
                full = room.crowds_out(_caller_in(text), arrived_us)
            if not full or is_of_servers(text):
                self._read(request, text, arrived_us, time_us, frames)
                answers.append(None)
            else:
                refused += _rows(request)
                answers.append(self._refusal(ErrorCode.UNAVAILABLE, room.text(self._model)))
        if frames:
            self._driver.arrive(frames)
        if not refused:
            return None
        self._driver.refused(refused)
        return answers

    def _read(self, request: Any, text: str, arrived_us: int, time_us: int, frames: list[Frame]) -> None:
        """Add the frames of a request that allows so much time; none where it was wrong, or a probe, and was
        taken care of.
        """
        sender = request.get_response_sender()
        try:
            parameters = parameters_in(text)
            if ticket_codec.is_anonymous_probe(parameters.get(ticket_codec.PARAMETER)):
                self._driver.probe(self._frame(request, sender, _NOTHING, arrived_us, plain(time_us)))
                return
            mark = parameters.get(forwarded.PARAMETER)
            said = None if mark is None else self._passed_on(str(mark))
            taken = self._intake.take(_given(request))
            wanted = wanted_of(parameters, said, time_us, len(taken), self._longest_us)
        except (ValueError, TypeError) as error:
            self._send_error(sender, ErrorCode.INVALID, str(error))
            return
        except Exception as error:
            self._send_error(sender, ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
            return
        if len(taken) == 1:
            frames.append(self._frame(request, sender, taken[0], arrived_us, wanted))
        else:
            frames += self._frames_together(request, sender, taken, arrived_us, wanted)

    def _frame(self, request: Any, sender: Any, taken: Taken, arrived_us: int, wanted: Wanted) -> Frame:
        """The one frame of a request."""
        return self._made(
            taken,
            arrived_us,
            wanted,
            functools.partial(self._send_outputs, sender),
            # Holding the request keeps the view of its tensor valid as long as the frame lives.
            functools.partial(_send_error_holding, request, self._send_error, sender),
            request.is_cancelled,
        )

    def _frames_together(
        self, request: Any, sender: Any, taken: list[Taken], arrived_us: int, wanted: Wanted
    ) -> list[Frame]:
        """The frames of a request of several, which are answered together."""
        together = Together(
            len(taken),
            functools.partial(self._send_outputs, sender),
            functools.partial(_send_error_holding, request, self._send_error, sender),
            request.is_cancelled,
        )
        return [
            self._made(
                one,
                arrived_us,
                wanted,
                together.outputs_of(row),
                together.error_of(row),
                together.is_cancelled,
            )
            for row, one in enumerate(taken)
        ]

    def _made(
        self,
        taken: Taken,
        arrived_us: int,
        wanted: Wanted,
        send_outputs: SendOutputs,
        send_error: Callable[[ErrorCode, str], None],
        is_cancelled: Callable[[], bool],
    ) -> Frame:
        data, info = taken
        return Frame(
            next(self._ids),
            data,
            arrived_us,
            arrived_us + wanted.time_us,
            send_outputs,
            send_error,
            wanted.priority,
            is_cancelled,
            info,
            wanted.stream,
            wanted.place,
            wanted.stays,
            wanted.caller,
        )


def _given(request: Any) -> dict[str, Array]:
    """The inputs that a request has."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _rows(request: Any) -> int:
    """Frames of a request, by the first input that it has: Triton has made arrays of all of them."""
    for tensor in request.inputs():
        shape = tensor.as_numpy().shape
        return max(1, shape[0]) if shape else 1
    return 1


def _caller_in(text: str) -> str:
    """'' where nobody says, or nobody can read it."""
    try:
        return caller_of(parameters_in(text))
    except ValueError:
        return ""


def _send_error_holding(
    _request: Any, send_error: Callable[[Any, ErrorCode, str], None], sender: Any, code: ErrorCode, text: str
) -> None:
    send_error(sender, code, text)
