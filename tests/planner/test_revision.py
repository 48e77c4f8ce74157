"""Tables are handed over whole, by files that nobody else can read or write."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from planner import serial
from planner.revision import Ack, HandOver, hand_over, read_acks, read_hand_over, write_ack
from planner.watched import Watched
from tests.dispatcher.test_driver import manifest

ACK = Ack(dispatcher="net", run="r", number=3, revision=2, plan_hash="h")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_hand_over(tmp_path) is None
    table = HandOver(number=3, manifest=manifest())
    hand_over(tmp_path, table)
    assert read_hand_over(tmp_path) == table
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"], "nothing is left beside it"
    assert stat.S_IMODE((tmp_path / "table.json").stat().st_mode) == 0o600


def test_acks_are_read_by_dispatcher(tmp_path: Path) -> None:
    write_ack(tmp_path, ACK)
    write_ack(tmp_path, replace(ACK, number=4, older_batches=2, older_workers=("w",)))
    found = read_acks(tmp_path, ["net", "other"])
    assert list(found) == ["net"]
    assert found["net"].older_workers == ("w",)


@pytest.mark.parametrize(
    ("changes", "over"),
    [({}, True), ({"number": 2}, False), ({"older_batches": 1}, False), ({"refused": 4}, True)],
)
def test_a_hand_over_is_over_when_nothing_older_is_under_way(changes: dict[str, int], over: bool) -> None:
    assert replace(ACK, **changes).is_over(3) is over  # type: ignore[arg-type]


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    serial.save(ACK, tmp_path / "table.json")
    with pytest.raises(TypeError):
        serial.save({"no": object()}, tmp_path / "table.json")
    assert serial.load(Ack, tmp_path / "table.json") == ACK
    assert len(list(tmp_path.iterdir())) == 1


def test_a_replaced_file_is_noticed_once(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "table.json")
    assert not watched.changed()
    serial.save(ACK, watched.path)
    assert [watched.changed(), watched.changed()] == [True, False]
    serial.save(ACK, watched.path)
    assert watched.changed(), "another file, though it says the same"
