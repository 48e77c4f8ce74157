"""What dispatchers of one entry tell each other of its uplink."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from python_backend.wire.shm.file import PREFIX_VARIABLE, SHM, ArenaError
from python_backend.wire.shm.link_ledger import SLOTS, LinkLedger

NAMES = ("a_dispatch", "b_dispatch", "c_dispatch")


@pytest.fixture
def ledgers(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LinkLedger]]:
    monkeypatch.setenv(PREFIX_VARIABLE, f"ppipe_test_{id(tmp_path):x}_")
    made = [LinkLedger(NAMES, name) for name in NAMES]
    yield made
    for ledger in made:
        ledger.close()
    assert not list(SHM.glob(f"ppipe_test_{id(tmp_path):x}_*"))


def test_each_hears_what_the_others_told_once_and_in_order(ledgers: list[LinkLedger]) -> None:
    a, b, c = ledgers
    a.tell(10, 20)
    a.tell(20, 35)
    c.tell(5, 7)
    assert list(b.news()) == [(10, 20), (20, 35), (5, 7)]
    assert list(b.news()) == []
    assert list(a.news()) == [(5, 7)]
    b.tell(1, 2)
    assert list(a.news()) == [(1, 2)]


def test_who_falls_behind_loses_what_is_oldest(ledgers: list[LinkLedger]) -> None:
    a, b, _ = ledgers
    for number in range(SLOTS + 10):
        a.tell(number, number + 1)
    assert list(b.news()) == [(number, number + 1) for number in range(10, SLOTS + 10)]


def test_one_decides_at_a_time_and_nobody_waits_for_long(ledgers: list[LinkLedger]) -> None:
    a, b, _ = ledgers
    assert a.take_turn()
    assert not b.take_turn(), "whoever has it may be stopped"
    a.give_turn()
    assert b.take_turn()
    b.give_turn()


def test_a_page_has_one_writer(ledgers: list[LinkLedger]) -> None:
    del ledgers
    with pytest.raises(ArenaError, match="another process writes"):
        LinkLedger(NAMES, NAMES[0], patience_s=0.0)
