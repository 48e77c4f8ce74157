"""Hosts whose clocks differ: what is told of a batch's times is set right by what was asked of the clocks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import serial
from planner.manifest import ServerAddress
from planner.places import EntryPorts, ServerTable
from python_backend.wire import clocks
from python_backend.wire.clock import now_us
from python_backend.wire.clocks import LONGEST_FLIGHT_US, ONE_CLOCK, AskedClocks, Estimate, Offset
from python_backend.wire.feedback import Notice, NoticeReceiver, NoticeSender
from python_backend.wire.servers import Servers
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import Way, decode, encode
from tests.waiting import wait_for
from tests.wire.test_ticket_codec import keys_of, wire

AHEAD_US = 3_600_000_000
FLIGHTS = st.integers(0, 300_000)


def behind_us() -> int:
    """The clock of a host that an hour less has passed for."""
    return now_us() - AHEAD_US


@given(
    ahead_us=st.integers(-(1 << 45), 1 << 45),
    trips=st.lists(st.tuples(FLIGHTS, FLIGHTS), min_size=1, max_size=40),
    sent_us=st.integers(0, 1 << 40),
    flight_us=FLIGHTS,
)
def test_an_offset_is_as_wrong_as_it_says_and_gives_no_time_away(
    ahead_us: int, trips: list[tuple[int, int]], sent_us: int, flight_us: int
) -> None:
    estimate, at_us = Estimate(), 0
    for there_us, back_us in trips:
        estimate.heard(at_us, at_us + there_us + ahead_us, at_us + there_us + back_us)
        at_us += 1_000_000
    offset = estimate.best
    assert offset is not None
    assert abs(offset.ahead_us - ahead_us) <= offset.error_us + 1
    assert offset.error_us <= min((there + back + 1) // 2 for there, back in trips[-16:])
    received_us = sent_us + flight_us
    origin_us = clocks.origin_us(offset, sent_us + ahead_us, received_us)
    assert sent_us - 1 <= origin_us <= received_us, "later than it was sent, or counted from receipt"
    assert origin_us <= sent_us + 2 * offset.error_us + 1


def test_a_clock_that_was_set_anew_is_noticed() -> None:
    estimate = Estimate()
    for at_us in range(0, 16_000_000, 1_000_000):
        estimate.heard(at_us, at_us + AHEAD_US + 50, at_us + 100)
    estimate.heard(20_000_000, 500_000, 20_900_000)
    assert estimate.best is not None
    assert estimate.best.ahead_us < 0
    assert clocks.origin_us(Offset(AHEAD_US, 50), 7, 1_000) == 1_000, "sent in the future"
    late_us = LONGEST_FLIGHT_US + 1_000
    assert clocks.origin_us(ONE_CLOCK, 7, late_us) == late_us


def test_only_a_genuine_answer_to_the_question_is_believed(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "k" * 32)
    asked = clocks.question(7, 1_000, keys)
    answer = clocks.answer_to(asked, keys, lambda: 5_000)
    assert answer is not None
    assert clocks.time_in(answer, 7, keys) == (1_000, 5_000)
    assert clocks.time_in(answer, 8, keys) is None
    assert clocks.time_in(asked, 7, keys) is None, "sent back to who asked"
    for position in range(len(answer)):
        changed = answer[:position] + bytes([answer[position] ^ 1]) + answer[position + 1 :]
        assert clocks.time_in(changed, 7, keys) is None
    assert clocks.answer_to(clocks.question(7, 1_000, Keys.none()), keys) is None


@contextmanager
def listening(keys: Keys) -> Iterator[tuple[NoticeReceiver, list[Notice]]]:
    receiver = NoticeReceiver(("127.0.0.1", 0), keys)
    got: list[Notice] = []
    thread = threading.Thread(target=receiver.run, args=(got.append,))
    thread.start()
    yield receiver, got
    receiver.close()
    thread.join(timeout=30)
    assert not thread.is_alive()


@contextmanager
def asked(folder: Path, port: int, keys: Keys, own_host: str) -> Iterator[AskedClocks]:
    entry = ServerAddress("entry", "entry", "127.0.0.1", 1, 2, 3, "groups/entry")
    serial.save(ServerTable("d", (EntryPorts(entry, {"m": port}),), ()), folder / "addresses.json")
    made = AskedClocks(Servers(folder / "addresses.json"), "m", own_host, keys, clock=behind_us)
    yield made
    made.close()


def test_a_host_an_hour_behind_takes_tickets_and_gives_notices_as_if_it_had_the_entrys_clock(
    tmp_path: Path,
) -> None:
    keys = keys_of(tmp_path, "k" * 32)
    with listening(keys) as (receiver, got), asked(tmp_path, receiver.port, keys, "elsewhere") as known:
        wait_for(lambda: known.offset("entry"))
        offset = known.offset("entry")
        assert offset is not None
        assert abs(offset.ahead_us - AHEAD_US) <= offset.error_us + 1
        sent_us = now_us() - 2_000_000
        way = Way(("s0", "s1"), "entry", 0)
        ticket = wire(way=way)
        text = encode(ticket, keys, 0, sent_on_entry=sent_us)
        arrived = decode(text, keys, behind_us(), known).ticket
        assert arrived is not None
        assert ticket.ticket is not None
        true_us = ticket.ticket.deadline_us + sent_us - AHEAD_US
        assert true_us - 1 <= arrived.deadline_us <= true_us + 2 * offset.error_us + 1, (
            "two seconds of flight are not time gained"
        )
        received_us = behind_us()
        for unknown in (
            encode(ticket, keys, 0),
            encode(wire(way=Way((), "other", 0)), keys, 0, None, sent_us),
        ):
            counted = decode(unknown, keys, received_us, known).ticket
            assert counted is not None
            assert counted.deadline_us == ticket.ticket.deadline_us + received_us
        sender = NoticeSender(("127.0.0.1", receiver.port), keys, lambda: known.offset("entry"))
        ended_us = now_us()
        sender.send(Notice(1, 7, 0, 1, True, ended_us - AHEAD_US, 5_000))
        wait_for(lambda: got)
        sender.close()
        latest = known.offset("entry")
        assert latest is not None
    (notice,) = got
    assert notice.ended_us is not None
    assert abs(notice.ended_us - ended_us) <= max(offset.error_us, latest.error_us) + 1_000


def test_on_the_entrys_host_nobody_asks(tmp_path: Path) -> None:
    before = threading.active_count()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with asked(tmp_path, silent.getsockname()[1], Keys.none(), "127.0.0.1") as known:
            assert known.offset("entry") == ONE_CLOCK
            assert known.offset("other") is None
            assert threading.active_count() == before


def test_who_does_not_answer_leaves_the_clock_unknown(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with asked(tmp_path, silent.getsockname()[1], Keys.none(), "elsewhere") as known:
            silent.settimeout(30)
            assert silent.recv(512).startswith(clocks.QUESTION)
            assert known.offset("entry") is None


@pytest.mark.parametrize("offset", [None, Offset(5, 1)])
def test_a_time_is_told_where_the_clock_is_known(offset: Offset | None) -> None:
    class Known:
        def offset(self, entry: str) -> Offset | None:
            return offset

    assert clocks.sent_on_entry_us(Known(), "entry", 100) == (None if offset is None else 106)
