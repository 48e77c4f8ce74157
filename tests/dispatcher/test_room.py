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


def frame(size: int) -> Frame:
    return Frame(0, memoryview(bytes(size)), 0, 0, lambda outputs: None, lambda code, text: None)


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


def test_frames_beyond_what_can_be_served_in_the_longest_time_find_no_room() -> None:
    served = manifest().models[0].served
    by_stage = [
        len(stage.workers) * max((size + 1) / us for size, us in enumerate(stage.latency_us))
        for stage in served.pipelines[0].stages
    ]
    assert frames_per_us(served) == min(by_stage)
    assert bounds_of(served, 1_000_000_000, 1).frames == round(4 * min(by_stage) * 1_000_000_000)
    assert bounds_of(served, 1, 1).frames == SMALLEST_FRAMES


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
