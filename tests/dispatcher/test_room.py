"""How many frames may be open at once, and what that rests on."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.frames.room import (
    SMALLEST_FRAMES,
    Bounds,
    Room,
    bounds_of,
    frames_per_us,
    memory_free,
)
from tests.dispatcher.test_driver import manifest


def frame(size: int, time_us: int = 0, caller: str = "") -> Frame:
    data = memoryview(bytes(size))
    return Frame(0, data, 0, time_us, lambda outputs: None, lambda code, text: None, caller=caller)


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
        assert room.is_full(time_us, 0) == (not least or sum(inside.values()) == 10)
        admitted, _ = room.admit([frame(1, time_us)])
        assert len(admitted) == int(least and sum(inside.values()) < 10)
        inside[time_us] += len(admitted)
        waiting += admitted if waits else []
    assert room.is_full(150, coming) == (sum(inside.values()) + coming >= 10)
    if sum(inside.values()) + coming < 10:
        assert room.is_full(151, coming) == (inside[151] == 4), "those that come may be others"
    room.leave(waiting)
    assert room.is_full(151, 0) == (inside[150] == 10), "what is answered leaves its room"


def test_who_has_more_open_than_others_comes_after_them_while_too_many_are() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=6))
    admitted = {caller: room.admit([frame(1, 0, caller) for _ in range(4)])[0] for caller in "ab"}
    assert [each.crowds for each in admitted["a"]] == [False] * 4
    assert [each.crowds for each in admitted["b"]] == [False] * 4, "as many as the other has are not too many"
    loud, quiet = room.admit([frame(1, 0, "a"), frame(1, 0, "c")])[0]
    assert (loud.crowds, quiet.crowds) == (True, False)
    room.leave([*admitted["b"], loud, quiet])
    assert not room.admit([frame(1, 0, "a")])[0][0].crowds, "alone it crowds nobody out"


def test_strangers_come_after_known_callers_while_too_many_frames_are_open() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=6))
    known, _ = room.admit([frame(1, 0, "known/a") for _ in range(8)])
    assert not any(each.crowds for each in known), "known callers crowd nobody out"
    assert room.admit([frame(1, 0, "b")])[0][0].crowds
    room.leave(known[:5])
    assert not room.admit([frame(1, 0, "b")])[0][0].crowds, "there is room for all"
    room.admit([frame(1, 0, "b") for _ in range(4)])
    room.leave(known[5:])
    assert not room.admit([frame(1, 0, "c")])[0][0].crowds, "no known caller waits"


def test_callers_without_a_name_crowd_nobody_out() -> None:
    room = Room(Bounds(frames=100, bytes=100, crowd_frames=2))
    room.admit([frame(1, 0, "a")])
    assert not any(each.crowds for each in room.admit([frame(1) for _ in range(9)])[0])


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
    assert not room.is_full(1, 0)
    room.admit([frame(5)])
    assert room.is_full(1, 0)


def test_frames_beyond_what_can_be_served_in_the_longest_time_find_no_room() -> None:
    served = manifest().models[0].served
    by_stage = [
        len(stage.workers) * max((size + 1) / us for size, us in enumerate(stage.latency_us))
        for stage in served.pipelines[0].stages
    ]
    assert frames_per_us(served) == min(by_stage)
    assert bounds_of(served, 1_000_000_000, 1).frames == round(4 * min(by_stage) * 1_000_000_000)
    assert bounds_of(served, 1_000_000_000, 1).patient_frames == round(min(by_stage) * 1_000_000_000)
    least = bounds_of(served, 1, 1)
    assert (least.frames, least.patient_frames) == (SMALLEST_FRAMES, SMALLEST_FRAMES // 2)
    assert least.crowd_frames == round(min(by_stage) * served.slo_us)


def test_dispatchers_of_one_host_share_its_memory() -> None:
    served = manifest().models[0].served
    assert abs(bounds_of(served, 1, 4).bytes / bounds_of(served, 1, 1).bytes - 0.25) < 0.05


def test_memory_is_the_containers_where_that_is_less(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:     1000 kB\n")
    assert memory_free(meminfo, tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("7\n")
    assert memory_free(meminfo, tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("4096\n")
    assert memory_free(meminfo, tmp_path) == 4_089
