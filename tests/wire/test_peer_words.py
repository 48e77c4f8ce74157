"""What entries tell each other: genuine words alone, each once, none of a run that is over."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from python_backend.wire.peer_words import Heard, Word, decode, encode, is_fresh, is_word
from python_backend.wire.signing.keys import Keys
from python_backend.wire.signing.replays import LIFETIME_US
from tests.wire.test_ticket_codec import keys_of

NOW_US = 1_800_000_000_000_000
WORD = Word("d", "m", "entry-0", 3, "run-a", 7, NOW_US, NOW_US, 1_000, 900, 50, 20_000, 512.5, {"0": 4})


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
    later = replace(WORD, run="run-b", number=0, began_us=NOW_US + 1)
    assert heard.is_new(WORD, NOW_US)
    assert not heard.is_new(WORD, NOW_US)
    assert not heard.is_new(replace(WORD, number=6), NOW_US)
    assert heard.is_new(replace(WORD, number=8), NOW_US)
    assert heard.is_new(later, NOW_US)
    assert not heard.is_new(replace(WORD, number=9), NOW_US)
    assert heard.is_new(replace(later, number=1), NOW_US)


def test_an_old_runs_word_that_is_sent_again_cuts_nobody_off() -> None:
    heard = Heard()
    assert heard.is_new(WORD, NOW_US)
    assert not heard.is_new(replace(WORD, run="run-0", began_us=NOW_US - 1), NOW_US)
    assert heard.is_new(replace(WORD, number=8), NOW_US)


def test_who_starts_anew_with_his_clock_set_back_is_heard_once_the_last_run_is_silent() -> None:
    heard = Heard()
    assert heard.is_new(WORD, NOW_US)
    back = replace(WORD, run="run-b", began_us=NOW_US - 5)
    assert not heard.is_new(back, NOW_US + LIFETIME_US)
    assert heard.is_new(back, NOW_US + LIFETIME_US + 1)
    assert heard.is_new(replace(back, number=8), NOW_US + LIFETIME_US + 1)


def test_a_word_is_good_for_a_moment() -> None:
    for age_us, fresh in (
        (0, True),
        (LIFETIME_US, True),
        (LIFETIME_US + 1, False),
        (-LIFETIME_US - 1, False),
    ):
        assert is_fresh(WORD, NOW_US + age_us) is fresh
