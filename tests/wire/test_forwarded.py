"""What goes with a frame that is passed on: only another entry can say it, and to whom it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from python_backend.wire.forwarded import Forwarded, decode, encode
from python_backend.wire.signing.keys import Keys, TicketError
from tests.wire.test_ticket_codec import keys_of

MARK = Forwarded("d", "m", "entry-0", "entry-1", 41_000, 3, "camera 7", 12, "192.0.2.7")
STAMPLESS = (
    '{"v":1,"deployment":"d","model":"m","from":"entry-0","to":"entry-1","left_us":1,"priority":0,"stream":"",'
    '"place":-1,"stamp":["run",1]}'
)


def test_a_mark_arrives_as_sent(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "the key of this deployment")
    assert decode(encode(MARK, keys), keys, "d", "m", "entry-1") == MARK


def test_a_mark_of_an_earlier_release_names_no_caller(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "the key of this deployment")
    body = STAMPLESS.replace('["run",1]', '["run",1,2]')
    text = f'{body[:-1]},"mac":"{keys.mac(body)}"}}'
    assert decode(text, keys, "d", "m", "entry-1").caller == ""


@pytest.mark.parametrize(
    ("addressee", "fault"),
    [
        (("other", "m", "entry-1"), "deployment is 'd'; this is 'other'"),
        (("d", "other", "entry-1"), "model is 'm'; this is 'other'"),
        (("d", "m", "entry-0"), "to is 'entry-1'; this is 'entry-0'"),
    ],
)
def test_a_mark_is_for_whom_it_names(addressee: tuple[str, str, str], fault: str) -> None:
    with pytest.raises(TicketError, match=fault):
        decode(encode(MARK, Keys.none()), Keys.none(), *addressee)


def test_nobody_else_can_say_it(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "the key of this deployment")
    genuine = encode(MARK, keys)
    for text in (
        "",
        "{}",
        '{"v":1,"mac":""}',
        encode(MARK, Keys.none()),
        genuine.replace("41000", "91000"),
        genuine.replace("192.0.2.7", "known/me"),
        "x" * 5_000,
    ):
        with pytest.raises(TicketError, match="ppipe_forwarded"):
            decode(text, keys, "d", "m", "entry-1")


@pytest.mark.parametrize(
    "body", ["[]", '{"v":2}', '{"v":1}', '{"v":1,"deployment":7}', "[" * 2_000, STAMPLESS]
)
def test_what_was_signed_and_is_no_mark_is_refused(tmp_path: Path, body: str) -> None:
    keys = keys_of(tmp_path, "the key of this deployment")
    text = f'{body[:-1]},"mac":"{keys.mac(body)}"}}' if body.endswith("}") else body
    with pytest.raises(TicketError, match="ppipe_forwarded"):
        decode(text, keys, "d", "m", "entry-1")
