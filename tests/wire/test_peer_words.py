"""What entries tell each other: genuine words alone, each once, none of a run that is over."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from python_backend.wire.keys import Keys
from python_backend.wire.peer_words import Heard, Word, decode, encode, is_word
from tests.wire.test_ticket_codec import keys_of

WORD = Word("d", "m", "entry-0", 3, "run-a", 7, 1_000, 900, 50, 20_000, 512.5, {"0": 4})


def test_a_word_arrives_as_said_and_from_its_own_deployment_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    keys = keys_of(tmp_path, "the key of this deployment")
    datagram = encode(WORD, keys)
    assert is_word(datagram)
    assert len(datagram) < 1_400
    assert decode(datagram, keys) == WORD
    assert decode(datagram, keys_of(tmp_path / "other", "the key of another one")) is None
    assert decode(datagram.replace(b"20000", b"20001"), keys) is None
    assert decode(b"PPN1 something else", keys) is None
    for bad in (replace(WORD, revision="3"), replace(WORD, owned=[]), replace(WORD, owned={"0": "4"})):  # type: ignore[arg-type]
        assert decode(encode(bad, keys), keys) is None


@pytest.mark.parametrize(
    "bad", [{"rate_rps": 10**400}, {"rate_rps": math.nan}, {"rate_rps": math.inf}, {"backlog_us": 1 << 63}]
)
def test_numbers_that_nothing_could_be_counted_with_are_no_word(bad: dict[str, Any]) -> None:
    assert decode(encode(replace(WORD, **bad), Keys.none()), Keys.none()) is None
    assert decode(encode(replace(WORD, owned={"0": 10**30}), Keys.none()), Keys.none()) is None


def test_a_word_is_good_once_and_a_run_that_another_followed_is_over() -> None:
    heard = Heard()
    assert heard.is_new(WORD)
    assert not heard.is_new(WORD)
    assert not heard.is_new(replace(WORD, number=6))
    assert heard.is_new(replace(WORD, number=8))
    assert heard.is_new(replace(WORD, run="run-b", number=0))
    assert not heard.is_new(replace(WORD, number=9))
    assert heard.is_new(replace(WORD, run="run-b", number=1))
