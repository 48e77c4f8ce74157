"""The pool of processes that prepares frames: real processes, with decoders that really die."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planner.profile import TensorSpec
from python_backend.stage.pool.connecting import NoPool, connect
from python_backend.stage.pool_preparer import PoolPreparer
from python_backend.stage.preparing import Prepared, Preparer
from python_backend.stage.threads_preparer import ThreadsPreparer
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameInfo, FrameKind
from python_backend.wire.shm.file import PREFIX_VARIABLE, SHM
from tests.ensembles.recipes import recipe
from tests.waiting import wait_for

RECIPE = recipe((3, 6, 10))
TARGET = TensorSpec("image", "FP32", (3, 6, 10))
DEADLY = "tests.stage.deadly:pixels_of"
PREFIX = f"ppipe_test_pool_{os.getpid()}_"
Made = Callable[..., PoolPreparer]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Preparers with a pool of this test's own."""
    monkeypatch.setenv(PREFIX_VARIABLE, f"{PREFIX}{time.monotonic_ns()}_")
    made: list[PoolPreparer] = []

    def preparer(work: str = DEADLY, cores: int = 1) -> PoolPreparer:
        made.append(PoolPreparer(RECIPE, TARGET, cores, print, work))
        return made[-1]

    yield preparer
    for each in made:
        each.close()
    for path in SHM.glob(f"{PREFIX}*"):
        path.unlink(missing_ok=True)


def prepared(preparer: Preparer, *frames: Buffer, until_us: int | None = None) -> Prepared:
    infos = [FrameInfo(FrameKind.ENCODED, len(frame), 4, 4) for frame in frames]
    return begun(preparer, infos, frames, until_us)()


def begun(
    preparer: Preparer, infos: Sequence[FrameInfo], frames: Sequence[Buffer], until_us: int | None = None
) -> Callable[[], Prepared]:
    found: list[Prepared] = []
    ended = threading.Event()

    def done(prepared: Prepared) -> None:
        found.append(prepared)
        ended.set()

    preparer.begin(infos, frames, done, until_us)

    def wait() -> Prepared:
        assert ended.wait(20)
        assert len(found) == 1
        return found[0]

    return wait


def numbers(prepared: Prepared) -> list[int]:
    assert prepared.failed is None
    (pixels,) = prepared.inputs
    assert (pixels.shape[1:], pixels.dtype) == ((6, 10, 3), np.uint8)
    assert all(np.all(frame == frame[0, 0, 0]) for frame in pixels)
    return [int(frame[0, 0, 0]) for frame in pixels]


def pool_processes() -> list[int]:
    """Those of this test's pool, its parent first."""
    name = os.environ[PREFIX_VARIABLE].encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"stage.pool.server" in command and name in command:
            found.append(int(folder.name))
    return sorted(found)


def picture(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def test_processes_and_threads_make_the_same_of_every_kind_of_frame(make: Made) -> None:
    raw = np.random.default_rng(1).integers(0, 256, (8, 9, 3), dtype=np.uint8).tobytes()
    own = np.random.default_rng(2).standard_normal((3, 6, 10), dtype=np.float32).tobytes()
    frames = [picture(40, 30), b"no image", raw, picture(64, 64), own]
    kinds = [FrameKind.ENCODED, FrameKind.ENCODED, FrameKind.PIXELS, FrameKind.ENCODED, FrameKind.TENSOR]
    infos = [FrameInfo(kind, len(data), 9, 8) for kind, data in zip(kinds, frames, strict=True)]
    threads = ThreadsPreparer(RECIPE, TARGET, print)
    processes = make("python_backend.stage.pixels:pixels_of", cores=2)
    for count in (5, 4, 2):
        one = begun(processes, infos[:count], frames[:count])()
        other = begun(threads, infos[:count], frames[:count])()
        assert one.faults == other.faults == {1: "8 bytes that are no complete JPEG or PNG image"}
        np.testing.assert_array_equal(one.inputs[0], other.inputs[0])
        assert not one.inputs[0][1].any(), "a frame that cannot be used is zeros"
    threads.close()


def test_a_frame_that_kills_twice_is_at_fault_and_nobody_else(make: Made) -> None:
    preparer = make()
    found = prepared(preparer, b"1", b"die", b"3", b"bad", b"5", b"6", b"7", b"8")
    assert numbers(found) == [1, 0, 3, 0, 5, 6, 7, 8]
    assert found.faults == {1: "an image that ended its decoder twice", 3: "a bad word"}
    assert numbers(prepared(preparer, b"9")) == [9], "another process has taken its place"


def test_a_frame_that_kills_once_is_prepared_again(make: Made, tmp_path: Path) -> None:
    found = prepared(make(), b"1", f"once {tmp_path / 'file'}".encode(), b"2")
    assert (numbers(found), found.faults) == ([1, 7, 2], {})


def test_workers_of_a_server_share_one_pool_which_ends_after_them(make: Made) -> None:
    first, second = make(cores=2), make(cores=2)
    assert numbers(prepared(first, b"1")) == [1]
    assert numbers(prepared(second, b"2")) == [2]
    assert len(pool_processes()) == 3, "a parent and two processes"
    first.close()
    assert numbers(prepared(second, b"3")) == [3]
    second.close()
    wait_for(lambda: not pool_processes(), found=pool_processes)
    assert not list(SHM.glob(f"{os.environ[PREFIX_VARIABLE]}*"))


def test_a_pool_that_is_killed_is_started_again_and_no_frame_is_lost(make: Made) -> None:
    preparer = make()
    assert numbers(prepared(preparer, b"1")) == [1]
    waits = [begun(preparer, [FrameInfo(FrameKind.ENCODED, 1, 4, 4)] * 9, [b"5"] * 9) for _ in range(20)]
    os.kill(pool_processes()[0], signal.SIGKILL)
    for wait in waits:
        assert numbers(wait()) == [5] * 9
    assert numbers(prepared(preparer, b"2")) == [2]


def test_what_nobody_waits_for_any_more_is_not_prepared(make: Made) -> None:
    for preparer in (make(), ThreadsPreparer(RECIPE, TARGET, print)):
        found = prepared(preparer, b"die", until_us=now_us() - 1)
        assert found.failed is not None
        assert found.failed[0] is FailureKind.EXPIRED
        preparer.close()


def test_a_frame_that_hangs_its_decoder_is_ended(make: Made) -> None:
    path = SHM / f"{os.environ[PREFIX_VARIABLE]}prepare"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen()
        code = "from python_backend.stage.pool import server; server.FRAME_S = 0.2; server.main()"
        command = [sys.executable, "-c", code, "--cores", "1", "--work", DEADLY, "--name", str(path)]
        pool = subprocess.Popen(command, stdin=listening.fileno())
    preparer = make()
    found = prepared(preparer, b"hang", b"4")
    assert numbers(found) == [0, 4]
    assert found.faults == {0: "an image that ended its decoder twice"}
    preparer.close()
    assert pool.wait(10) == 0


def test_a_socket_of_somebody_elses_making_is_refused(make: Made) -> None:
    path = SHM / f"{os.environ[PREFIX_VARIABLE]}prepare"
    path.write_text("a file")
    with pytest.raises(NoPool, match="not a socket of this user"):
        connect(1, DEADLY)


def test_a_pool_that_cannot_start_says_so(make: Made) -> None:
    with pytest.raises(NoPool, match="the pool ended while it started; its output says why"):
        make("tests.stage.deadly:nothing")
