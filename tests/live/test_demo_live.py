"""`ppipe demo` as a user runs it: from start to end, and killed half way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ppipe.serving.guard import SHM, children_of
from ppipe.serving.ports import free_base
from tests.live.tiny_net import write_tiny

pytestmark = [pytest.mark.live, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def demo(*arguments: str, cwd: Path) -> list[str]:
    return [sys.executable, "-m", "ppipe", "demo", "--work", str(cwd / "work"), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.timeout(420)
def test_the_demo_measures_three_systems_and_every_answer_is_right(tmp_path: Path) -> None:
    command = demo("--json", "--seconds", "4", "--base-port", str(free_base(24_000, 30)), cwd=tmp_path)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert list(summary) == [
        *("requests", "unanswered", "mismatched", "max_abs_error", "attainment", "goodput_rps"),
        *("planned_rps", "np_goodput_rps", "plain_triton_goodput_rps", "perf_analyzer_rps"),
    ]
    assert summary["requests"] > 50
    assert (summary["unanswered"], summary["mismatched"]) == (0, 0)
    assert 0 < summary["max_abs_error"] <= 1e-4
    # How fast is for a quiet machine to say; that each system served is not.
    for system in ("goodput_rps", "np_goodput_rps", "plain_triton_goodput_rps", "perf_analyzer_rps"):
        assert summary[system] > 0.2 * summary["planned_rps"], system
    assert (tmp_path / "work" / "demo.png").stat().st_size > 10_000
    workload = (tmp_path / "work" / "workload.csv").read_text().splitlines()
    assert len(workload) == summary["requests"] + 1


@pytest.mark.unhurried
@pytest.mark.timeout(300)
def test_the_video_demo_reads_the_words_of_its_clip(tmp_path: Path) -> None:
    command = demo("--video", "--json", "--seconds", "1", cwd=tmp_path)
    command += ["--base-port", str(free_base(24_100, 30))]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["frames"] == 5
    assert summary["complete"] >= 1
    assert set(summary["read"]) & {"TRITON", "PIPELINE", "READING"}
    assert summary["read_right"] > 0.5
    assert (tmp_path / "work" / "annotated" / "words.mp4").stat().st_size > 1_000
    assert (tmp_path / "work" / "words.png").stat().st_size > 1_000


@contextmanager
def running_demo(folder: Path, executor: str) -> Iterator[subprocess.Popen[str]]:
    """A demo of the tiny network; ended for certain."""
    deployment = write_tiny(folder, base_port=free_base(26_000, 30), executor=executor)
    command = demo("--deployment", str(deployment), "--seconds", "60", cwd=folder)
    with (
        (folder / "out").open("w") as out,
        subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=out, stderr=out, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def wait_for_line(folder: Path, pattern: str, process: subprocess.Popen[str], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not re.search(pattern, (folder / "out").read_text()):
        assert process.poll() is None, (folder / "out").read_text()[-3000:]
        assert time.monotonic() < deadline, (folder / "out").read_text()[-3000:]
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    below = children_of(pid)
    return below + [pid for child in below for pid in descendants(child)]


@pytest.mark.unhurried
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGINT, "entry: serving"),
        (signal.SIGTERM, "fast-0: loading models"),
        (signal.SIGKILL, "entry: serving"),
    ],
    ids=["SIGINT under load", "SIGTERM while loading", "SIGKILL under load"],
)
def test_a_demo_killed_half_way_leaves_nothing(tmp_path: Path, number: signal.Signals, when: str) -> None:
    with running_demo(tmp_path, executor="emulated") as process:
        wait_for_line(tmp_path, when, process)
        time.sleep(1.0)
        left = descendants(process.pid)
        assert len(left) >= 3, "servers were running"
        assert list(SHM.glob(f"ppipe_{process.pid}_*")) != []
        process.send_signal(number)
        status = process.wait(timeout=150)
    assert status == (-signal.SIGKILL if number is signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 60
    while alive := [pid for pid in left if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)
    assert list(SHM.glob(f"ppipe_{process.pid}_*")) == []
