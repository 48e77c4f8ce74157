"""No door is open: the short form of benchmarks/doors.py, against real servers and a real nginx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.doors import try_all
from benchmarks.helpers.door_floods import bear, callers, memory_bytes, most_bytes, replays
from benchmarks.helpers.door_stand import Stand, find_nginx, stand

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with stand(tmp_path_factory.mktemp("doors")) as made:
        yield made


def test_every_door_holds(tried: Stand) -> None:
    figures = try_all(tried)
    assert figures["open"] == []
    assert figures["ended_by_tries"] == []
    assert figures["tries"] > (50 if find_nginx() else 40)


def test_a_good_client_is_served_while_a_ticket_is_replayed(tried: Stand) -> None:
    borne = bear(tried, replays, 1.0)
    assert borne.ended == ()
    assert borne.answered == borne.sent
    assert borne.attainment >= 0.7


def test_callers_without_end_end_nothing_and_take_no_more_memory_than_is_said(tried: Stand) -> None:
    most = most_bytes(tried, memory_bytes(tried), 1_500)
    borne = bear(tried, lambda stand, stop: callers(stand, stop, 1_500), 1.0)
    assert borne.ended == ()
    assert borne.answered == borne.sent
    assert max(borne.peak_bytes) <= most
