"""Looking for tables in a folder that is not always as it should be."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from planner.private_folder import PrivateFolder
from planner.revision import TABLE_NAME, HandOver
from python_backend.wire import handed_over
from python_backend.wire.handed_over import HandedOver
from tests.dispatcher.test_driver import manifest


def hand_over(number: int) -> HandOver:
    return HandOver(number, manifest())


@pytest.fixture
def looked(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    (tmp_path / TABLE_NAME).write_text("{}")
    return tmp_path


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_table_that_cannot_be_read_for_a_while_is_taken_when_it_can(
    looked: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fails, said, taken = [True], list[str](), list[int]()

    def read(folder: Path) -> HandOver:
        if fails[0]:
            raise OSError(code, "not now")
        return hand_over(3)

    monkeypatch.setattr(handed_over, "read_hand_over", read)
    tables = HandedOver(PrivateFolder(looked), 0, lambda: None, said.append)
    for _ in range(5):
        tables.take_new(lambda table: taken.append(table.number))
    assert (taken, len(said)) == ([], 1), "said once, however often it is tried"
    fails[0] = False
    for _ in range(3):
        tables.take_new(lambda table: taken.append(table.number))
    assert (taken, tables.refused) == ([3], (0, ""))
    tables.close()


def test_a_table_that_says_what_cannot_be_served_is_not_looked_at_again(
    looked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = list[int]()

    def read(folder: Path) -> HandOver:
        reads.append(1)
        raise ValueError("number is 'x'; expected an integer")

    monkeypatch.setattr(handed_over, "read_hand_over", read)
    tables = HandedOver(PrivateFolder(looked), 0, lambda: None, lambda text: None)
    for _ in range(5):
        tables.take_new(lambda table: None)
    assert (len(reads), tables.refused[1]) == (1, "number is 'x'; expected an integer")
    tables.close()
