"""Which stream a frame is of and where in it, as its client says: the request parameters `ppipe_stream`, a
name, and `ppipe_place`, a number that rises from frame to frame, such as a frame's time.

Not Triton's own sequence_id: that is for models which keep state, and Triton's batchers would act on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

STREAM = "ppipe_stream"
PLACE = "ppipe_place"
LONGEST_NAME = 256
"""Bytes of UTF-8: a stream's name is kept as long as the stream is known."""
LAST_PLACE = 2**63 - 1
NEXT = -1
"""A place after all that came before."""


class StreamPlace(NamedTuple):
    """stream: '' for none; place: NEXT where the client says none."""

    stream: str = ""
    place: int = NEXT


NO_STREAM = StreamPlace()


def stream_place_of(parameters: Mapping[str, Any], frames: int = 1) -> StreamPlace:
    """Of a request of so many frames. Raises ValueError."""
    if STREAM not in parameters:
        if PLACE in parameters:
            raise ValueError(f"parameter {PLACE}: a place in no stream; expected {STREAM} beside it")
        return NO_STREAM
    name = parameters[STREAM]
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"parameter {STREAM}: {str(name)[:40]!r} is not a name; expected text of 1 to "
            f"{LONGEST_NAME} bytes"
        )
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > LONGEST_NAME:
        raise ValueError(f"parameter {STREAM}: a name of {size} bytes; at most {LONGEST_NAME} are taken")
    if frames > 1:
        raise ValueError(
            f"parameter {STREAM}: a request of a stream has one frame, not {frames}; send them one by one"
        )
    return StreamPlace(name, _place(parameters[PLACE]) if PLACE in parameters else NEXT)


def _place(value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= LAST_PLACE:
        raise ValueError(
            f"parameter {PLACE}: {str(value)[:40]!r} is not a whole number from 0 to {LAST_PLACE}"
        )
    return number
