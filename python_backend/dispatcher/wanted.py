"""What the caller wants of a request, by its parameters: a client, or another entry that passes a frame on.

Each request is asked, and few have any of these parameters: so this is compiled, and JSON is read for those
alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from python_backend.wire import forwarded, ticket_codec
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.parameters.caller import CALLER, caller_of
from python_backend.wire.parameters.priority import PRIORITY, priority_of
from python_backend.wire.parameters.stream_place import NEXT, PLACE, STREAM, stream_place_of

_PARAMETERS = (PRIORITY, STREAM, PLACE, CALLER, ticket_codec.PARAMETER, forwarded.PARAMETER)


class Wanted:
    """time_us: until the answer is wanted. stays: another entry has passed it on."""

    def __init__(
        self, time_us: int, priority: int, stream: str, place: int, stays: bool, caller: str
    ) -> None:
        self.time_us: Final = time_us
        self.priority: Final = priority
        self.stream: Final = stream
        self.place: Final = place
        self.stays: Final = stays
        self.caller: Final = caller


def plain(time_us: int) -> Wanted:
    """What is wanted of a request that says nothing but its time."""
    return Wanted(time_us, 0, "", NEXT, False, "")


def wanted_of(
    parameters: Mapping[str, Any], said: Forwarded | None, time_us: int, frames: int, longest_us: int
) -> Wanted:
    """Of a request of so many frames, which allows so much time. said: by another entry; that gives a frame
    at most longest_us. Raises ValueError.
    """
    if said is not None:
        if frames != 1:
            raise ValueError(
                f"parameter {forwarded.PARAMETER}: a request of {frames} frames; expected one frame"
            )
        left_us = min(said.left_us, longest_us)
        return Wanted(left_us, said.priority, said.stream, said.place, True, said.caller)
    if not parameters:
        return plain(time_us)
    stream, place = stream_place_of(parameters, frames)
    return Wanted(time_us, priority_of(parameters), stream, place, False, caller_of(parameters))


def is_of_servers(text: str) -> bool:
    """Whether servers may have sent a request with these parameters to each other."""
    return ticket_codec.PARAMETER in text or forwarded.PARAMETER in text


def parameters_in(text: str) -> Mapping[str, Any]:
    """Those that matter here. Raises ValueError."""
    if len(text) > len("{}"):
        for name in _PARAMETERS:
            if name in text:
                parameters = json.loads(text)
                return parameters if isinstance(parameters, dict) else {}
    return {}
