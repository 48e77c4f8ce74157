"""Preparing that is only waited for: on cores that all workers of a server share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from planner.frames import FrameCost
from python_backend.stage.emulated_preparer import EmulatedPreparer, SharedCores
from python_backend.wire.clock import now_us
from python_backend.wire.ragged import FrameInfo, FrameKind
from python_backend.wire.shm.file import PREFIX_VARIABLE, SHM

COST = FrameCost(fixed_us=5_000, us_per_pixel=1.0, us_per_byte=10.0)


@pytest.fixture(autouse=True)
def own_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(PREFIX_VARIABLE, "ppipe_test_cores_")
    yield
    (SHM / "ppipe_test_cores_cores").unlink(missing_ok=True)


def test_frames_go_to_the_core_that_is_free_first() -> None:
    cores = SharedCores(2)
    assert cores.take(1_000, [300, 200, 400]) == 1_600, "the third after the second"
    assert cores.take(1_000, [100]) == 1_400, "after the first"
    assert cores.take(9_000, [50]) == 9_050
    cores.close()


def test_workers_of_a_server_share_its_cores() -> None:
    first, second = SharedCores(1), SharedCores(1)
    assert first.take(1_000, [500]) == 1_500
    assert second.take(1_000, [500]) == 2_000
    first.close()
    assert (SHM / "ppipe_test_cores_cores").exists(), "the other is still here"
    second.close()
    assert not (SHM / "ppipe_test_cores_cores").exists()


def test_what_a_killed_process_left_is_removed_and_what_is_held_is_not() -> None:
    code = (
        "import os, signal; from python_backend.stage.emulated_preparer import SharedCores\n"
        "cores = SharedCores(2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    left = {**os.environ, PREFIX_VARIABLE: "ppipe_test_cores_killed_"}
    assert subprocess.run([sys.executable, "-c", code], env=left, check=False).returncode == -9
    path = SHM / "ppipe_test_cores_killed_cores"
    assert path.exists()
    first = SharedCores(1)
    assert not path.exists()
    first.take(1_000, [500])
    second = SharedCores(1)
    assert second.take(1_000, [500]) == 2_000, "that of the first is held"
    first.close()
    second.close()


def test_a_batch_is_ready_when_its_cores_have_done_it() -> None:
    preparer = EmulatedPreparer(COST, cores=2)
    infos = [FrameInfo(FrameKind.ENCODED, size=500, width=100, height=100)] * 3
    ready_us: list[int] = []
    ready = threading.Event()
    began_us = now_us()
    preparer.begin(infos, [b""] * 3, lambda prepared: (ready_us.append(now_us()), ready.set())[1])
    assert ready.wait(5)
    assert 40_000 <= ready_us[0] - began_us < 60_000, "twice 5 + 10 + 5 ms: three frames on two cores"
    preparer.close()


def test_what_is_under_way_at_the_end_is_left() -> None:
    preparer = EmulatedPreparer(FrameCost(fixed_us=10_000_000), cores=1)
    preparer.begin([FrameInfo(FrameKind.ENCODED, 1, 1, 1)], [b"x"], lambda prepared: pytest.fail("too early"))
    preparer.close()
