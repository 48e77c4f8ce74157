"""Which stream a frame is of and where in it, as its client says."""

from __future__ import annotations

from typing import Any

import pytest

from python_backend.wire.parameters.stream_place import (
    LAST_PLACE,
    LONGEST_NAME,
    PLACE,
    STREAM,
    StreamPlace,
    stream_place_of,
)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, StreamPlace("", -1)),
        ({STREAM: "gate"}, StreamPlace("gate", -1)),
        ({STREAM: "gate", PLACE: 0}, StreamPlace("gate", 0)),
        ({STREAM: "gate", PLACE: "17"}, StreamPlace("gate", 17)),
        ({STREAM: "x" * LONGEST_NAME, PLACE: LAST_PLACE}, StreamPlace("x" * LONGEST_NAME, LAST_PLACE)),
    ],
)
def test_what_a_client_says(parameters: dict[str, Any], expected: StreamPlace) -> None:
    assert stream_place_of(parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "frames", "said"),
    [
        ({STREAM: "x" * 65_536}, 1, "ppipe_stream: a name of 65536 bytes; at most 256 are taken"),
        ({STREAM: "ü" * 200}, 1, "a name of 400 bytes; at most 256"),
        ({STREAM: ""}, 1, "'' is not a name; expected text of 1 to 256 bytes"),
        ({STREAM: 7}, 1, "'7' is not a name"),
        ({STREAM: "a", PLACE: -1}, 1, "ppipe_place: '-1' is not a whole number from 0"),
        ({STREAM: "a", PLACE: True}, 1, "ppipe_place: 'True' is not a whole number"),
        ({STREAM: "a", PLACE: 2**63}, 1, "is not a whole number from 0 to 9223372036854775807"),
        ({STREAM: "a", PLACE: "x" * 70_000}, 1, "is not a whole number"),
        ({PLACE: 3}, 1, "ppipe_place: a place in no stream; expected ppipe_stream beside it"),
        ({STREAM: "a"}, 4, "a request of a stream has one frame, not 4"),
    ],
)
def test_what_is_refused(parameters: dict[str, Any], frames: int, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        stream_place_of(parameters, frames)
    assert len(str(refused.value)) < 200
