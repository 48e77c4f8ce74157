"""The processes of a search end with it: after Ctrl-C without a word, and after a `kill -9` too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_for

PROGRAM = """
import os, time
from ppipe.signals import end_on_signals
from ppipe.simulation.children import search_pool

def main():
    end_on_signals()
    with search_pool(2) as pool:
        # Both are there, since neither can end its job before the other has begun one.
        jobs = [pool.submit(time.sleep, 1000)]
        while len(pool._processes) < 2:
            time.sleep(0.01)
        pool.submit(os.getpid).result()
        print(*pool._processes, flush=True)
        jobs[0].result()

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that searches, with one process busy for long and one idle."""
    file = tmp_path / "searching.py"
    file.write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    program = subprocess.Popen(
        [sys.executable, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": root, "PATH": ""},
        start_new_session=True,
    )
    with program:
        yield program
        program.kill()


def children_of(program: subprocess.Popen[str]) -> list[int]:
    assert program.stdout is not None
    return [int(pid) for pid in program.stdout.readline().split()]


def runs(pid: int, session: int) -> bool:
    """Whether this process of the program's session is there, and no zombie."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX" and int(rest[2]) == session


def test_after_kill_9_no_process_stays(searching: subprocess.Popen[str]) -> None:
    children = children_of(searching)
    assert len(children) == 2
    assert all(runs(pid, searching.pid) for pid in children)
    searching.kill()
    wait_for(lambda: not any(runs(pid, searching.pid) for pid in children))


def test_ctrl_c_ends_running_jobs_and_prints_nothing(searching: subprocess.Popen[str]) -> None:
    children = children_of(searching)
    assert len(children) == 2
    # As a terminal does: to all of them.
    for pid in (*children, searching.pid):
        os.kill(pid, signal.SIGINT)
    _, said = searching.communicate(timeout=120)
    assert said == ""
    assert searching.returncode == 128 + signal.SIGINT
    assert not any(runs(pid, searching.pid) for pid in children)
