"""Places are never shared, come back when their reader has read, and nothing is left in /dev/shm."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.profile import TensorSpec
from python_backend.wire.clock import now_us
from python_backend.wire.shm.arena import QUARANTINE_US, Arena, Span, padded_size, share_of
from python_backend.wire.shm.file import (
    PREFIX_VARIABLE,
    SHM,
    ArenaError,
    Share,
    SharedFile,
    require_room,
)
from python_backend.wire.shm.reader import CannotRead, SharedReader
from python_backend.wire.shm.space import ALIGNMENT
from python_backend.wire.ticket_codec import SharedFrames

SPECS = (TensorSpec("a", "FP32", (2,)), TensorSpec("b", "UINT8", (3,)), TensorSpec("c", "INT64", (1,)))


def make(name: str, batch_bytes: int, batches: int) -> Arena:
    share = share_of(0, [batch_bytes], batches)
    return Arena(SharedFile(name, share.end, share), share)


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = make("test", batch_bytes=10_000, batches=3)
    yield arena
    arena.close()
    assert not (SHM / arena.file.name).exists()


@pytest.fixture
def reader() -> Iterator[SharedReader]:
    reader = SharedReader()
    yield reader
    reader.close()


def frames_in(arena: Arena, place: Span) -> SharedFrames:
    return SharedFrames(arena.file.name, arena.file.inode, place.offset, place.generation)


def test_a_reader_sees_what_was_written_in_pieces(arena: Arena, reader: SharedReader) -> None:
    tensors: list[np.ndarray[Any, Any]] = [
        np.arange(4, dtype=np.float32),
        np.arange(6, dtype=np.uint8),
        np.array([7, 8], np.int64),
    ]
    for _ in range(2):
        place = arena.take(padded_size([tensor.nbytes for tensor in tensors]))
        assert place is not None
        arena.write(place, [[tensor.tobytes()[:3], tensor.tobytes()[3:]] for tensor in tensors])
        views = reader.arrays(frames_in(arena, place), SPECS, batch=2)
        assert [view.shape for view in views] == [(2, 2), (2, 3), (2, 1)]
        assert all(view.flags.aligned for view in views)
        assert [view.ravel().tolist() for view in views] == [tensor.tolist() for tensor in tensors]
    assert (SHM / arena.file.name).stat().st_mode & 0o777 == 0o600


def test_a_reader_that_comes_too_late_sees_it(arena: Arena, reader: SharedReader) -> None:
    first = arena.take(10)
    assert first is not None
    arena.write(first, [[bytes(10)]])
    frames = frames_in(arena, first)
    assert not reader.is_there(frames), "not mapped yet"
    reader.arrays(frames, SPECS[:1], batch=1)
    assert reader.is_there(frames)
    arena.give_back(first)
    again = arena.take(10)
    assert again is not None
    assert again.offset == first.offset
    arena.write(again, [[bytes(10)]])
    assert not reader.is_there(frames)
    assert reader.is_there(frames_in(arena, again))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../etc/passwd"}, "no name of a file"),
        ({"name": "ppipe_nobody_made_this"}, "No such file"),
        ({"inode": 1}, "another file has taken its name"),
        ({"offset": 1 << 40}, "no bytes"),
        ({"offset": -64}, "no bytes"),
        ({"offset": 1}, "no bytes"),
    ],
)
def test_a_reader_refuses_what_is_not_there(
    arena: Arena, reader: SharedReader, change: dict[str, object], message: str
) -> None:
    place = arena.take(10)
    assert place is not None
    plain = {"name": arena.file.name, "inode": arena.file.inode, "offset": 0, "generation": 1}
    with pytest.raises(CannotRead, match=message):
        reader.arrays(SharedFrames(**(plain | change)), SPECS[:1], batch=1)  # type: ignore[arg-type]


def test_a_new_file_of_the_same_name_is_mapped_anew(reader: SharedReader) -> None:
    for number in (3, 4):
        arena = make("restarted", batch_bytes=100, batches=1)
        place = arena.take(100)
        assert place is not None
        arena.write(place, [[bytes([number]) * 8]])
        (view,) = reader.arrays(frames_in(arena, place), SPECS[:1], batch=1)
        assert set(view.view(np.uint8).ravel().tolist()) == {number}
        arena.close()
    assert len(reader._files) == 1, "the mapping of the first file is forgotten"


def test_senders_of_one_server_share_its_file(monkeypatch: pytest.MonkeyPatch, reader: SharedReader) -> None:
    monkeypatch.setenv(PREFIX_VARIABLE, "ppipe_test_server_0_")
    first, second = share_of(0, [100], 1), share_of(8_192, [5_000], 2)
    arenas = [Arena(SharedFile("hops", 40_960, share), share) for share in (first, second)]
    assert arenas[0].file.inode == arenas[1].file.inode
    for number, arena in enumerate(arenas):
        place = arena.take(72)
        assert place is not None
        arena.write(place, [[bytes([number]) * 8]])
        (view,) = reader.arrays(frames_in(arena, place), SPECS[:1], batch=1)
        assert set(view.view(np.uint8).ravel().tolist()) == {number}
    with pytest.raises(ArenaError, match="another process writes in bytes 8192 to"):
        SharedFile("hops", 40_960, second, patience_s=0.1)
    arenas[0].close()
    assert (SHM / arenas[1].file.name).exists(), "the other still uses it"
    arenas[1].close()
    assert not (SHM / arenas[1].file.name).exists()


def test_a_file_larger_than_there_is_room_for_is_not_made() -> None:
    with pytest.raises(ArenaError, match="MiB are needed"):
        SharedFile("huge", 1 << 60, Share(offset=0, size=4096))
    assert not list(SHM.glob(f"ppipe_{os.getpid()}_huge*"))


def test_room_runs_out_and_comes_back_with_a_new_generation(arena: Arena) -> None:
    size = padded_size([10_000])
    places = [arena.take(size) for _ in range(4)]
    assert places[3] is None
    assert arena.take(40_000) is None
    first = places[0]
    assert first is not None
    arena.give_back(first)
    again = arena.take(1)
    assert again is not None
    assert again.offset == first.offset
    assert again.generation > max(place.generation for place in places if place is not None)


def test_a_place_whose_reader_timed_out_waits_for_a_sign_of_it(arena: Arena) -> None:
    before_us, whole = now_us(), arena.free
    third = whole // 3 // ALIGNMENT * ALIGNMENT
    places = [arena.take(third) for _ in range(3)]
    for place in places:
        assert place is not None
        arena.quarantine(place, "a" if place is places[0] else "b")
    arena.answered("a", before_us)
    assert arena.take(third) is None, "that answer was to a request from before"
    time.sleep(0.001)
    arena.answered("a", now_us())
    assert arena.take(third) is not None
    assert arena.take(third) is None
    arena.dead("b")
    assert (arena.quarantined, arena.free) == (0, whole - third)


def test_a_place_whose_reader_gives_no_sign_is_free_in_the_end(arena: Arena) -> None:
    place = arena.take(1)
    assert place is not None
    arena.quarantine(place, "a")
    arena.end_old_quarantines(now_us() + QUARANTINE_US - 1_000_000)
    assert arena.quarantined == ALIGNMENT
    arena.end_old_quarantines(now_us() + QUARANTINE_US + 1)
    assert (arena.quarantined, arena.taken) == (0, 0)


def test_too_little_room_says_how_much_is_missing() -> None:
    with pytest.raises(ArenaError, match=r"MiB left and \d+ MiB are needed"):
        require_room(1 << 60)


_STEPS = st.tuples(st.sampled_from(["take", "give", "late", "answer", "dead"]), st.integers(0, 3_000))


@settings(max_examples=50)
@given(st.lists(_STEPS))
def test_no_byte_is_ever_taken_twice(steps: list[tuple[str, int]]) -> None:
    arena = make("property", batch_bytes=1_000, batches=4)
    whole, held = arena.free, list[Span]()
    try:
        for step, number in steps:
            if step == "take":
                place = arena.take(number)
                if place is not None:
                    assert all(
                        place.offset + place.size <= other.offset or other.offset + other.size <= place.offset
                        for other in held
                    )
                    held.append(place)
            elif held and step == "give":
                arena.give_back(held.pop(number % len(held)))
            elif held and step == "late":
                arena.quarantine(held.pop(number % len(held)), f"reader{number % 2}")
            elif step == "answer":
                arena.answered(f"reader{number % 2}", now_us() + 1)
            elif step == "dead":
                arena.dead(f"reader{number % 2}")
            assert sum(place.size for place in held) + arena.free + arena.quarantined == whole
            assert arena.taken == sum(place.size for place in held)
        for place in held:
            arena.give_back(place)
        arena.end_old_quarantines(now_us() + QUARANTINE_US + 1)
        assert arena.take(whole) is not None, "what is free is in one piece again"
    finally:
        arena.close()
