"""ppipe.serving.guard with ordinary commands in place of servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppipe.serving.guard import SHM, children_of, has_room, sweep
from ppipe.serving.processes import GuardedProcess, stubs_of
from tests.waiting import wait_for

# A child in a session of its own, as stubs may be, and a mark in shared memory.
FAMILY = "setsid sleep 600 & touch {mark}; wait"
STUBBORN = "trap '' TERM; touch {mark}; while true; do sleep 0.05; done"


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def prefix() -> str:
    return f"ppipe_test_{os.getpid()}_{os.urandom(4).hex()}_"


def start(script: str, prefix: str, folder: Path, grace_s: float = 5.0) -> tuple[GuardedProcess, Path]:
    mark = SHM / f"{prefix}mark"
    process = GuardedProcess.start(
        ["sh", "-c", script.format(mark=mark)], log=folder / "log", shm_prefixes=[prefix], grace_s=grace_s
    )
    wait_for(mark.exists)
    return process, mark


def test_stop_ends_the_command_and_all_below_it(prefix: str, tmp_path: Path) -> None:
    process, mark = start(FAMILY, prefix, tmp_path)
    child = process.pid
    assert child is not None
    (grandchild,) = children_of(child)
    assert process.stop() == 128 + signal.SIGTERM
    assert not alive(child)
    assert not alive(grandchild)
    assert not mark.exists()


def test_a_command_that_does_not_heed_is_killed_after_the_grace(prefix: str, tmp_path: Path) -> None:
    process, mark = start(STUBBORN, prefix, tmp_path, grace_s=0.3)
    assert process.stop() == 128 + signal.SIGKILL
    assert not mark.exists()


def test_the_exit_status_is_the_command_s(prefix: str, tmp_path: Path) -> None:
    process, mark = start("touch {mark}; sleep 0.2; echo said; exit 7", prefix, tmp_path)
    assert process.wait(10) == 7
    assert (tmp_path / "log").read_text() == "said\n"
    assert not mark.exists()


def test_a_killed_guard_takes_the_command_along(prefix: str, tmp_path: Path) -> None:
    process, mark = start("touch {mark}; exec sleep 600", prefix, tmp_path)
    child = process.pid
    assert child is not None
    os.kill(process.guard_pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    wait_for(lambda: not alive(child))
    assert sweep(prefix) == [mark.name]


def test_a_killed_owner_takes_everything_along(prefix: str, tmp_path: Path) -> None:
    owner = (
        "import sys, time; from pathlib import Path; from ppipe.serving.processes import GuardedProcess\n"
        "GuardedProcess.start(['sh', '-c', sys.argv[1]], log=Path(sys.argv[2]), shm_prefixes=[sys.argv[3]])\n"
        "time.sleep(600)"
    )
    mark = SHM / f"{prefix}mark"
    arguments = [FAMILY.format(mark=mark), str(tmp_path / "log"), prefix]
    with subprocess.Popen([sys.executable, "-c", owner, *arguments]) as process:
        wait_for(mark.exists)
        (guard,) = children_of(process.pid)
        (child,) = children_of(guard)
        grandchildren = children_of(child)
        process.kill()
    wait_for(lambda: not any(alive(pid) for pid in (guard, child, *grandchildren)))
    assert not mark.exists()


def test_sweep_takes_its_own_files_alone(prefix: str) -> None:
    mine, other = SHM / f"{prefix}a", SHM / f"x{prefix}a"
    mine.touch()
    other.touch()
    try:
        assert sweep(prefix) == [mine.name]
        assert other.exists()
    finally:
        other.unlink()


@pytest.mark.parametrize("prefix", ["", "ppipe_", "../../../tmp/ppipe"])
def test_sweep_refuses_a_prefix_that_may_be_someone_else_s(prefix: str) -> None:
    with pytest.raises(ValueError, match="shared-memory prefix"):
        sweep(prefix)


def test_only_stubs_are_stubs() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        assert other.pid in children_of(os.getpid())
        assert stubs_of(os.getpid()) == {}
        other.kill()


def test_room_is_for_one_more_of_the_largest_and_something_left(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    free_bytes = free.f_bavail * free.f_frsize
    for name, size in (("mine_a", 1_000), ("mine_b", free_bytes // 3), ("other", free_bytes)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # takes no room
    assert has_room("mine_", tmp_path)
    assert has_room("nobody_", tmp_path)
    os.truncate(tmp_path / "mine_b", 2 * free_bytes // 3)
    assert not has_room("mine_", tmp_path)
    assert not has_room("other", tmp_path)
