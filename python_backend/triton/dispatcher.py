"""The Triton model of a dispatcher: unpacks requests into frames, leaves all else to dispatcher.driver.

A request that finds no room is refused before anything of it is unpacked, and its answer is returned with
the others of its list instead of sent: a flood then costs a fraction of the time.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import triton_python_backend_utils as pb_utils

from python_backend.compiled import code_in_use
from python_backend.dispatcher.entries.this_entry import this_entry
from python_backend.dispatcher.factory import make_dispatcher, show_metrics
from python_backend.dispatcher.frames.frame import ErrorCode, Frame, SendError, SendOutputs
from python_backend.dispatcher.frames.together import Together
from python_backend.dispatcher.intake import Intake, Taken
from python_backend.triton.bytes_elements import use_views
from python_backend.triton.model_folder import open_model_folder
from python_backend.triton.replies import error_response, send_error, send_outputs
from python_backend.wire import forwarded, ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.kserve import Array
from python_backend.wire.parameters.caller import CALLER, caller_of
from python_backend.wire.parameters.priority import PRIORITY, priority_of
from python_backend.wire.parameters.stream_place import PLACE, STREAM, stream_place_of

_PARAMETERS = (PRIORITY, STREAM, PLACE, CALLER, ticket_codec.PARAMETER, forwarded.PARAMETER)
_NOTHING: Taken = (memoryview(b""), None)


class TritonPythonModel:
    """See the module."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once."""
        use_views(pb_utils)
        folder = open_model_folder(args)
        manifest = folder.manifest.seen_from(this_entry(folder.manifest))
        entry = manifest.model(folder.parameter("model"))
        self._dispatcher = make_dispatcher(manifest, entry, folder.parameters, pb_utils.Logger.log_warn)
        pb_utils.Logger.log_info(f"{folder.name}: {code_in_use()}")
        self._metrics = show_metrics(self._dispatcher, manifest, entry, pb_utils.Logger.log_warn)
        self._intake = Intake(entry)
        self._model = entry.model
        self._longest_us = entry.longest_us
        self._ids = itertools.count()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Called by Triton with whatever has come. Returns the answers to requests that find no room, and
        None in place of all others, which the dispatcher's threads answer later.
        """
        arrived_us, room = now_us(), self._dispatcher.driver.room
        frames: list[Frame] = []
        answers: list[Any] = []
        refused = 0
        for request in requests:
            time_us = self._time_us(request)
            if not room.is_full(time_us, len(frames)) or _is_of_servers(request):
                frames += self._frames(request, arrived_us, time_us)
                answers.append(None)
            else:
                refused += self._rows(request)
                answers.append(error_response(ErrorCode.UNAVAILABLE, room.text(self._model)))
        if frames:
            self._dispatcher.driver.arrive(frames)
        if not refused:
            return None
        self._dispatcher.driver.refused(refused)
        return answers

    def finalize(self) -> None:
        """Called by Triton before the end."""
        if self._metrics is not None:
            self._metrics.close()
        self._dispatcher.close()

    def _time_us(self, request: Any) -> int:
        """That a client allows for the answer."""
        slo_us = self._dispatcher.driver.table.entry.served.slo_us
        return min(request.timeout() or slo_us, self._longest_us)

    def _frames(self, request: Any, arrived_us: int, time_us: int) -> list[Frame]:
        """The frames of a request that allows so much time; none where it was wrong, or a probe, and was
        taken care of.
        """
        sender = request.get_response_sender()
        try:
            parameters = _parameters_of(request)
            probes = ticket_codec.is_anonymous_probe(parameters.get(ticket_codec.PARAMETER))
            mark = parameters.get(forwarded.PARAMETER)
            said = None if mark is None else self._dispatcher.forwarded(str(mark))
            taken = [_NOTHING] if probes else self._intake.take(self._given(request))
            wanted = self._wanted(parameters, said, time_us, len(taken))
        except (ValueError, TypeError) as error:
            send_error(sender, ErrorCode.INVALID, str(error))
            return []
        except Exception as error:
            send_error(sender, ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")
            return []
        frames = [
            Frame(
                request_id=next(self._ids),
                data=data,
                arrived_us=arrived_us,
                deadline_us=arrived_us + wanted.time_us,
                send_outputs=answers.outputs,
                send_error=answers.error,
                priority=wanted.priority,
                is_cancelled=answers.is_cancelled,
                info=info,
                stream=wanted.stream,
                place=wanted.place,
                stays=wanted.stays,
                caller=wanted.caller,
            )
            for (data, info), answers in zip(taken, _ways_back(request, sender, len(taken)), strict=True)
        ]
        if probes:
            self._dispatcher.driver.probe(frames[0])
            return []
        return frames

    def _wanted(
        self, parameters: Mapping[str, Any], said: Forwarded | None, time_us: int, frames: int
    ) -> _Wanted:
        """What the caller wants of a request: a client, or another entry that says so. Raises ValueError."""
        if said is not None:
            if frames != 1:
                raise ValueError(
                    f"parameter {forwarded.PARAMETER}: a request of {frames} frames; expected one frame"
                )
            left_us = min(said.left_us, self._longest_us)
            return _Wanted(left_us, said.priority, said.stream, said.place, stays=True, caller=said.caller)
        stream, place = stream_place_of(parameters, frames)
        return _Wanted(
            time_us, priority_of(parameters), stream, place, stays=False, caller=caller_of(parameters)
        )

    def _rows(self, request: Any) -> int:
        """Frames of a request, by the first input that it has: Triton has made arrays of all of them."""
        for name in self._intake.names:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                shape = tensor.as_numpy().shape
                return max(1, shape[0]) if shape else 1
        return 1

    def _given(self, request: Any) -> Mapping[str, Array]:
        """The inputs that a request has."""
        given = {}
        for name in self._intake.names:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                given[name] = tensor.as_numpy()
        return given


class _Wanted(NamedTuple):
    """time_us: until the answer is wanted. stays: another entry has passed it on."""

    time_us: int
    priority: int
    stream: str
    place: int
    stays: bool
    caller: str


class _WayBack(NamedTuple):
    """How one frame is answered."""

    outputs: SendOutputs
    error: SendError
    is_cancelled: Callable[[], bool]


def _is_of_servers(request: Any) -> bool:
    """Whether servers may have sent it to each other: there is room for that whatever clients send."""
    text = request.parameters() or ""
    return ticket_codec.PARAMETER in text or forwarded.PARAMETER in text


def _ways_back(request: Any, sender: Any, frames: int) -> list[_WayBack]:
    """Of each frame of a request."""
    outputs = functools.partial(send_outputs, sender)
    error = functools.partial(_send_error_holding, request, sender)
    if frames == 1:
        return [_WayBack(outputs, error, request.is_cancelled)]
    together = Together(frames, outputs, error, request.is_cancelled)
    return [
        _WayBack(together.outputs_of(row), together.error_of(row), together.is_cancelled)
        for row in range(frames)
    ]


def _send_error_holding(_request: Any, sender: Any, code: ErrorCode, text: str) -> None:
    """As send_error; holding the request keeps the view of its tensor valid as long as the frame lives."""
    send_error(sender, code, text)


def _parameters_of(request: Any) -> Mapping[str, Any]:
    """Those that matter here, which few requests have. Raises ValueError."""
    text = request.parameters()
    if not text or not any(name in text for name in _PARAMETERS):
        return {}
    parameters = json.loads(text)
    return parameters if isinstance(parameters, dict) else {}
