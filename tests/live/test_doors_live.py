"""No door is open: the short form of benchmarks/doors.py, against real servers and a real nginx."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks.doors import try_all
from benchmarks.helpers.doors.floods import (
    Attack,
    bear,
    callers,
    callers_through_front,
    memory_bytes,
    most_bytes,
    replays,
)
from benchmarks.helpers.doors.stand import CAPACITY_RPS, Stand, Way, find_nginx, stand
from benchmarks.helpers.loads.tagged import TaggedLoad
from model_repo_generator.front import front_limits
from python_backend.triton.pretouch import BODIES, BODY_BYTES, most_resident_bytes
from python_backend.triton.time_slices import SLICE_NS, slice_ns
from tests.waiting import wait_for

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with stand(tmp_path_factory.mktemp("doors")) as made:
        yield made


def test_an_entry_has_the_memory_of_floods_from_its_start(tried: Stand) -> None:
    entry, stage = (tried.pid(server.name) for server in (tried.manifest.entry, tried.manifest.servers[0]))
    wait_for(lambda: most_resident_bytes(entry) > BODIES * BODY_BYTES)
    assert most_resident_bytes(stage) < BODIES * BODY_BYTES, "callers do not reach it"


def test_every_door_holds(tried: Stand) -> None:
    figures = try_all(tried)
    assert figures["open"] == []
    assert figures["ended_by_tries"] == []
    page = figures["a foreign page at the entry itself"]
    assert (page["infer"], page["allowed"]) == (200, []), "docs/security.md says what Triton does with it"
    assert page["asked"] >= 400
    assert figures["tries"] > (50 if find_nginx() else 40)


def test_a_good_client_is_served_while_a_ticket_is_replayed(tried: Stand) -> None:
    borne = bear(tried, Attack(replays), 1.0)
    assert borne.ended == ()
    assert borne.answered == borne.sent


def test_callers_without_end_end_nothing_and_take_no_more_memory_than_is_said(tried: Stand) -> None:
    most = most_bytes(tried, memory_bytes(tried), 1_500)
    borne = bear(tried, Attack(partial(callers, count=1_500)), 1.0)
    assert borne.ended == ()
    assert borne.answered == borne.sent
    assert max(borne.peak_bytes) <= most
    entry, stage = (tried.pid(server.name) for server in (tried.manifest.entry, tried.manifest.servers[0]))
    if slice_ns(stage):  # Linux 6.12 or later
        assert slice_ns(stage) > SLICE_NS, "nobody flooded it"
        for process in (entry, tried.processes()[tried.entry.dispatcher]):
            threads = [int(task.name) for task in Path(f"/proc/{process}/task").iterdir()]
            assert {slice_ns(thread) for thread in threads} == {SLICE_NS}


def test_a_good_client_is_answered_while_thousands_call_the_front_from_one_address(tried: Stand) -> None:
    if not tried.front_http:
        pytest.skip("no nginx here")
    patient = partial(callers_through_front, sources=1, timeout_us=3_600_000_000)
    borne = bear(tried, Attack(patient, Way.FRONT), 1.0)
    assert borne.ended == ()
    assert borne.answered == borne.sent, "in time or not: benchmarks/doors.py has a bar for that"


def test_who_was_served_before_goes_first_while_one_address_sends_all_that_it_may(tried: Stand) -> None:
    if not tried.front_http:
        pytest.skip("no nginx here")

    def crowded() -> bool:
        before = tried.metric("crowding_frames_total")
        borne = bear(tried, Attack(partial(callers_through_front, sources=1), Way.FRONT), 2.0)
        assert borne.answered == borne.sent
        refused = borne.lost.get("reason=overload", 0)
        assert refused <= 0.05 * borne.sent, "those of strangers are; late ones depend on this machine"
        return tried.metric("crowding_frames_total") > before

    wait_for(crowded, 60.0)


def test_planned_load_through_one_address_is_not_refused_by_the_front(tried: Stand) -> None:
    if not tried.front_http:
        pytest.skip("no nginx here")
    limit = front_limits(tried.manifest.models).connections
    steady = [round(1e6 * number / CAPACITY_RPS) for number in range(int(2 * CAPACITY_RPS))]
    for arrivals_us in (steady, [0] * 2 * limit):
        load = TaggedLoad(
            [(tried.address(Way.FRONT), tried.entry.dispatcher)],
            tried.entry.input,
            tried.entry.outputs[0].name,
            tried.entry.longest_us,
        )
        frames = load.run(arrivals_us)
        load.close()
        assert [frame.error for frame in frames if "503" in frame.error] == []


def test_the_dispatcher_knows_callers_of_the_front_apart(tried: Stand) -> None:
    if not tried.front_http:
        pytest.skip("no nginx here")

    def crowded() -> bool:
        # Four frames in a request: so those that two addresses may have under way are many more than are
        # served in an SLO, also where requests are slow to come.
        over = threading.Event()
        threading.Timer(2.0, over.set).start()
        callers_through_front(tried, over, sources=2, count=400, rows=4)
        return tried.metric("crowding_frames_total") > 0

    wait_for(crowded)
