"""What a step of the user's gave becomes a request, or the refusal of that one frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from python_backend.cascade.asking import Asker, Refusal, request_of
from tests.cascade.test_parent import ENTRIES, MANIFEST

KINDS = ENTRIES["kinds"]


def objects(*elements: Any) -> np.ndarray:
    found = np.empty((1, len(elements)), np.object_)
    for place, element in enumerate(elements):
        found[0, place] = element
    return found


@pytest.mark.parametrize(
    "array",
    [objects("ab", "\u00e4"), objects(b"ab", "\u00e4".encode()), np.array([["ab", "\u00e4"]])],
    ids=["text", "bytes", "numpy text"],
)
def test_text_is_sent_as_utf_8(array: np.ndarray) -> None:
    request = pb.ModelInferRequest.FromString(request_of("net", {"text": array}, {"timeout": 5}))
    assert request.inputs[0].datatype == "BYTES"
    assert request.raw_input_contents[0] == b"\2\0\0\0ab" + b"\2\0\0\0" + "\u00e4".encode()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"text": objects(7)}, "TypeError: input text: an element of type int; expected bytes or text"),
        ({"text": objects(None)}, "TypeError: input text: an element of type NoneType"),
        ({"text": objects("\ud800")}, "UnicodeEncodeError: "),
        ({"when": np.zeros((1, 1), "M8[s]")}, "TypeError: input when: an array of datetime64[s]"),
        ({7: np.zeros((1, 1), np.float32)}, "TypeError: "),
    ],
    ids=["number", "none", "surrogate", "times", "name"],
)
def test_what_no_request_can_carry_is_refused_and_nothing_is_raised(given: Any, text: str) -> None:
    asker, ended = Asker(MANIFEST.entry), list[Any]()
    asker.ask(KINDS, given, {}, 1_000_000, ended.append)()
    asker.close()
    (refusal,) = ended
    assert isinstance(refusal, Refusal)
    assert refusal.code == "INVALID_ARGUMENT"
    assert refusal.text.startswith(text)


def test_a_connection_that_is_closed_refuses() -> None:
    asker, ended = Asker(MANIFEST.entry), list[Any]()
    asker.close()
    asker.ask(KINDS, {"frame": np.zeros((1, 4), np.float32)}, {}, 1_000_000, ended.append)
    assert [each.code for each in ended] == ["INVALID_ARGUMENT"]
