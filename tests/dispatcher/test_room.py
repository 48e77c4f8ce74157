"""How many frames may be open at once, and what that rests on."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from python_backend.dispatcher.frames.frame import LAST_RANK, Frame
from python_backend.dispatcher.frames.given_up import LEAST, SHARE, STRETCH_US, GivenUp
from python_backend.dispatcher.frames.patient import LEAST as LEAST_PATIENT
from python_backend.dispatcher.frames.patient import PatientRoom
from python_backend.dispatcher.frames.room import (
    LEAST_CROWD,
    SMALLEST_FRAMES,
    Bounds,
    Room,
    bounds_of,
    frames_per_us,
    memory_free,
)
from python_backend.dispatcher.frames.usual import HOLD_US, SLICE_US
from tests.dispatcher.test_driver import manifest


def frame(size: int, time_us: int = 0, caller: str = "", at_us: int = 0) -> Frame:
    data = memoryview(bytes(size))
    return Frame(
        0, data, at_us, at_us + time_us, lambda outputs: None, lambda code, text: None, caller=caller
    )


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 50), max_size=8)), max_size=20))
def test_the_bounds_hold_whatever_comes_and_goes(steps: list[tuple[bool, list[int]]]) -> None:
    room, inside = Room(Bounds(frames=10, bytes=100)), []
    for comes, sizes in steps:
        if comes:
            admitted, refused = room.admit([frame(size) for size in sizes])
            assert len(admitted) + len(refused) == len(sizes)
            inside += admitted
            for each in refused:
                assert len(inside) == 10 or len(each.data) + sum(len(one.data) for one in inside) > 100
        else:
            left, inside = inside[: len(sizes)], inside[len(sizes) :]
            room.leave(left)
        assert (room.frames, room.bytes) == (len(inside), sum(len(one.data) for one in inside))
        assert room.frames <= 10
        assert room.bytes <= 100


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 12))
def test_patient_frames_leave_room_for_the_others(patient: list[bool], coming: int) -> None:
    room = Room(Bounds(frames=10, bytes=100, patient_frames=4, patient_us=150))
    inside, waiting = {150: 0, 151: 0}, list[Frame]()
    for waits in patient:
        time_us = 151 if waits else 150
        least = inside[151] < 4 if waits else True
        assert room.is_full(time_us, 0, 0) == (not least or sum(inside.values()) == 10)
        admitted, _ = room.admit([frame(1, time_us)])
        assert len(admitted) == int(least and sum(inside.values()) < 10)
        inside[time_us] += len(admitted)
        waiting += admitted if waits else []
    assert room.is_full(150, coming, 0) == (sum(inside.values()) + coming >= 10)
    if sum(inside.values()) + coming < 10:
        assert room.is_full(151, coming, 0) == (inside[151] == 4), "those that come may be others"
    room.leave(waiting)
    assert room.is_full(151, 0, 0) == (inside[150] == 10), "what is answered leaves its room"


def test_none_comes_in_the_place_of_a_patient_frame_that_is_given_up() -> None:
    """Given up together, as those of a flood are, they would let as many in again, and those are given up."""
    room = Room(Bounds(frames=900, bytes=900, patient_frames=300, patient_us=100, longest_us=500))
    flood = [frame(1, 500) for _ in range(400)]
    open_, refused = room.admit(flood)
    assert (len(open_), len(refused)) == (300, 100)
    for each in open_[:250]:
        room.gave_up(each, 450)
        room.leave([each])
    assert room.is_full(500, 0, 450)
    room.leave(open_[250:260], served=True)
    again = room.admit([frame(1, 500, at_us=460) for _ in range(400)])[0]
    assert len(again) == 20, "the places of 10 that were served, and as many more"
    assert not room.is_full(100, 0, 460), "others have their room"
    assert not room.is_full(500, 0, 950), "none was given up for as long as a frame may wait"
    assert len(room.admit([frame(1, 500, at_us=950) for _ in range(400)])[0]) == 300 - 40 - 20


@given(st.lists(st.tuples(st.sampled_from("sgo"), st.integers(0, 60)), max_size=60), st.integers(1, 60))
def test_as_many_may_be_patient_as_by_plan_less_what_others_need(
    steps: list[tuple[str, int]], planned: int
) -> None:
    room, now_us, given_up_us, fewer, others = PatientRoom(), 1_000, 0, 0, list[int]()
    for what, later_us in steps:
        now_us += later_us
        if now_us - given_up_us >= 100:
            fewer = 0
        if what == "s":
            room.served()
            fewer = max(0, fewer - 1)
        elif what == "g":
            room.gave_up(planned, 100, now_us)
            given_up_us, fewer = now_us, min(fewer + 1, planned)
        else:
            room.other_came(100, now_us)
            others.append(now_us)
        least = min(LEAST_PATIENT, planned)
        most = room.most(planned, 100, now_us)
        within = [sum(now_us - each < span for each in others) for span in (1, 200)]
        assert max(least, planned - fewer - within[1]) <= most <= max(least, planned - fewer - within[0])
    assert room.most(planned, 100, now_us + 200) == planned, "nobody else comes, none was given up"


def test_patient_frames_have_room_for_what_others_leave() -> None:
    """Others come at half of what is planned, evenly: half is left, whenever one looks."""
    room = PatientRoom()
    for now_us in range(0, 10_000, 10):
        room.other_came(1_000, now_us)
        if now_us >= 2_000:
            assert abs(room.most(200, 1_000, now_us) - 100) <= 1


def ranks(room: Room, callers: str, at_us: int = 0) -> list[int]:
    """Of frames of these callers that come together."""
    frames = [frame(1, 0, "known/k" if caller == "K" else caller.strip(), at_us) for caller in callers]
    return [each.rank for each in room.admit(frames)[0]]


def test_who_has_more_open_than_others_comes_after_them_while_too_many_are() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=12))
    assert ranks(room, "aaabbb") == [0] * 6, "half of what makes it crowded"
    assert ranks(room, "aacb") == [2, 2, 1, 2], "as many as callers have on average are not too many"
    alone = Room(Bounds(frames=100, bytes=100, crowd_frames=6))
    assert ranks(alone, 9 * "a") == [0] * 6 + [1] * 3, "alone it has as many as callers have on average"


def test_it_is_crowded_while_more_come_than_are_served_however_few_are_open() -> None:
    room, step_us = Room(Bounds(frames=100, bytes=100, crowd_frames=80)), 10_000
    for number in range(200):
        room.leave(room.admit([frame(1, 0, "good", number * step_us)])[0])
    now_us = 200 * step_us
    kept = room.admit([frame(1, 0, "flood", now_us) for _ in range(20)])[0]
    assert not any(each.rank for each in kept)
    for number in range(LEAST):
        (one,) = room.admit([frame(1, 0, "new", now_us)])[0]
        assert one.rank == 0, number
        room.gave_up(one, now_us)
    came = room.admit([frame(1, 0, caller, now_us) for caller in ("flood", "good", "new")])[0]
    assert [each.rank for each in came] == [LAST_RANK, 0, 1]
    assert ranks(room, "b", now_us + HOLD_US - 1) == [1]
    assert ranks(room, "c", now_us + HOLD_US) == [0]


def test_what_patient_frames_take_is_nobodys_custom() -> None:
    """They take what others leave."""
    room = Room(Bounds(frames=100, bytes=100, patient_us=1_500, crowd_frames=10))
    for number in range(12):
        for caller, time_us in (("patient", 2_000), ("usual", 1_000)) * 20:
            room.leave(room.admit([frame(1, time_us, caller, number * SLICE_US)])[0])
    ranks(room, "abcdefghijk", 12 * SLICE_US)
    assert _ranks_of(room, "usual", 12 * SLICE_US) == [0]
    assert _ranks_of(room, "patient", 12 * SLICE_US) == [1]
    room.admit([frame(1, 2_000, "usual", 12 * SLICE_US)])
    assert _ranks_of(room, "usual", 12 * SLICE_US) == [0], "nor does it use any up"


@given(st.integers(1, 300))
def test_what_is_given_up_of_a_load_that_is_served_crowds_nobody(frames: int) -> None:
    given_up, lost = GivenUp(), int(SHARE * frames)
    for number in range(frames):
        given_up.came(number)
    assert not any(given_up.lost(frames) for _ in range(lost))
    enough = [given_up.lost(frames) for _ in range(LEAST)]
    assert enough == [lost + number + 1 >= LEAST for number in range(LEAST)]


@given(st.integers(1, 9))
def test_what_was_given_up_counts_for_a_stretch(times: int) -> None:
    given_up = GivenUp()
    for time in range(times):
        for _ in range(LEAST - 1):
            given_up.came(time * STRETCH_US)
            assert not given_up.lost(time * STRETCH_US)


def test_who_sends_what_he_did_before_it_was_crowded_goes_first() -> None:
    room, slot_us = Room(Bounds(frames=1_000, bytes=1_000, crowd_frames=6)), 10_000
    for number in range(200):
        served, _ = room.admit([frame(1, 0, "good", number * slot_us)])
        assert served[0].rank == 0
        room.leave(served)
    now_us = 200 * slot_us
    flood = [caller for _ in range(40) for caller in "abcdefgh"]
    assert set(ranks(room, "".join(flood), now_us)[3:]) == {1, 2}
    good = [room.admit([frame(1, 0, "good", now_us + number * slot_us)])[0][0] for number in range(100)]
    assert {each.rank for each in good} == {0}
    assert room.crowding == len(flood) - 3, "the first are half of what makes it crowded"


def test_no_more_go_after_others_than_make_it_crowded() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=4))
    for number in range(6):
        room.leave(room.admit([frame(1, 0, "good", number * SLICE_US // 2)])[0])
    now_us = 3 * SLICE_US
    flood = [room.admit([frame(1, 0, caller, now_us)])[0][0] for caller in "abcdab"]
    assert [each.rank > 0 for each in flood] == [False] * 2 + [True] * 4
    assert room.crowds_out("a", now_us)
    assert room.crowds_out("new", now_us)
    for caller in ("good", "known/k", ""):
        assert not room.crowds_out(caller, now_us), caller
    room.leave(flood[-1:])
    assert not room.crowds_out("a", now_us), "one may again"


def test_who_is_alone_crowds_nobody_out() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=4))
    assert max(ranks(room, 20 * "a")) == 1
    assert not room.crowds_out("a", 0)
    assert room.crowds_out("b", 0)
    ranks(room, "K")
    assert room.crowds_out("a", 0)


def test_what_is_over_for_a_moment_only_is_still_a_crowd() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=6))
    crowd, _ = room.admit([frame(1, 0, "a") for _ in range(8)])
    room.leave(crowd)
    assert ranks(room, "b", HOLD_US - 1) == [1]
    assert ranks(room, "c", HOLD_US) == [0]


def test_strangers_come_after_known_callers_while_it_is_crowded() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=6))
    known, _ = room.admit([frame(1, 0, "known/a") for _ in range(8)])
    assert not any(each.rank for each in known), "known callers crowd nobody out"
    assert ranks(room, "b") == [LAST_RANK]
    room.leave(known)
    assert ranks(room, "c") == [1], "no known caller waits"


def test_a_stranger_who_sends_what_he_did_comes_after_known_callers_and_before_other_strangers() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=2))
    for number in range(3):
        room.leave(room.admit([frame(1, 0, "usual", number * SLICE_US)])[0])
    assert ranks(room, "KKK", 3 * SLICE_US) == [0, 0, 0]
    assert [*ranks(room, "n", 3 * SLICE_US), *_ranks_of(room, "usual", 3 * SLICE_US)] == [LAST_RANK, 1]


def _ranks_of(room: Room, caller: str, at_us: int) -> list[int]:
    return [each.rank for each in room.admit([frame(1, 0, caller, at_us)])[0]]


def test_callers_without_a_name_crowd_nobody_out() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=2))
    assert ranks(room, "a         ") == [0] * 10


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["", "a", "b", "known/c"])), max_size=40))
def test_callers_are_forgotten_with_their_last_frames(steps: list[tuple[bool, str]]) -> None:
    room, inside = Room(Bounds(frames=100, bytes=100, crowd_frames=3)), list[Frame]()
    for comes, caller in steps:
        if comes:
            inside += room.admit([frame(1, 0, caller)])[0]
        elif inside:
            room.leave([inside.pop()])
    room.leave(inside)
    assert (room.frames, room.bytes, room.callers) == (0, 0, 0)


def test_no_frame_finds_room_where_the_bytes_are_taken() -> None:
    room = Room(Bounds(frames=10, bytes=5))
    assert not room.is_full(1, 0, 0)
    room.admit([frame(5)])
    assert room.is_full(1, 0, 0)


def test_frames_beyond_what_can_be_served_in_the_longest_time_find_no_room() -> None:
    served = manifest().models[0].served
    by_stage = [
        len(stage.workers) * max((size + 1) / us for size, us in enumerate(stage.latency_us))
        for stage in served.pipelines[0].stages
    ]
    assert frames_per_us(served) == min(by_stage)
    most = bounds_of(served, 1_000_000_000, served.slo_us, 1)
    assert most.frames == round(4 * min(by_stage) * 1_000_000_000)
    assert most.patient_frames == round(min(by_stage) * 1_000_000_000)
    least = bounds_of(served, 1, served.slo_us, 1)
    assert (least.frames, least.patient_frames) == (SMALLEST_FRAMES, SMALLEST_FRAMES // 2)
    assert least.crowd_frames == max(LEAST_CROWD, round(min(by_stage) * served.slo_us))


def test_dispatchers_of_one_host_share_its_memory() -> None:
    served = manifest().models[0].served
    alone, shared = (bounds_of(served, 1, served.slo_us, dispatchers) for dispatchers in (1, 4))
    assert abs(shared.bytes / alone.bytes - 0.25) < 0.05


def test_memory_is_the_containers_where_that_is_less(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:     1000 kB\n")
    assert memory_free(meminfo, tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("7\n")
    assert memory_free(meminfo, tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("4096\n")
    assert memory_free(meminfo, tmp_path) == 4_089
