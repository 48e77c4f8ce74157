"""Logs of served processes stay bounded and private while their processes go on writing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppipe.serving.logs import open_log, rotate_if_large
from ppipe.serving.processes import GuardedProcess


def test_a_log_is_cut_while_its_process_writes_on(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    script = "import sys\nfor line in sys.stdin: print(line * 100, flush=True)"
    with open_log(path) as log:
        writer = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=log, text=True
        )
    assert writer.stdin is not None
    for letter in "abcd":
        before = path.stat().st_size
        writer.stdin.write(letter * 100 + "\n")
        writer.stdin.flush()
        while path.stat().st_size < before + 10_000:
            pass
        assert rotate_if_large(path, 5_000)
        assert not rotate_if_large(path, 5_000)
    writer.stdin.close()
    assert writer.wait() == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["server.log", "server.log.1", "server.log.2"]
    assert (tmp_path / "server.log.1").read_text().startswith("d")
    assert (tmp_path / "server.log.2").read_text().startswith("c")
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}


def test_a_log_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(tmp_path / "link")
    assert not rotate_if_large(tmp_path / "none")


def test_what_a_guarded_process_makes_is_its_users_alone(tmp_path: Path) -> None:
    made = tmp_path / "made"
    GuardedProcess.start(["touch", str(made)], log=tmp_path / "log").wait(20)
    assert made.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_rights_that_a_process_gives_on_its_shared_memory_are_taken_back(tmp_path: Path) -> None:
    """As Triton does it, with fchmod, whatever the umask is."""
    prefix = f"ppipe_test_{os.getpid()}_"
    names = [f"{prefix}region", f"other_{prefix}region"]
    make = "import os, sys, time\nfor name in sys.argv[1:]:\n"
    make += " fd = os.open('/dev/shm/' + name, os.O_CREAT | os.O_RDWR, 0o644)\n os.fchmod(fd, 0o644)\n"
    command = [sys.executable, "-c", f"{make}time.sleep(30)", *names]
    paths = [Path("/dev/shm") / name for name in names]
    process = GuardedProcess.start(command, log=tmp_path / "log", shm_prefixes=[prefix])
    try:
        end_s = time.monotonic() + 60
        while not (paths[1].exists() and paths[0].stat().st_mode & 0o777 == 0o600):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        time.sleep(0.05)
        assert paths[1].stat().st_mode & 0o777 == 0o644, "of no prefix of ours"
    finally:
        process.kill()
        process.wait(10)
        paths[1].unlink(missing_ok=True)
    assert not paths[0].exists()
