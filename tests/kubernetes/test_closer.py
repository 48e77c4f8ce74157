"""closer.py: shared memory keeps to its owner, as soon as it is made."""

import os
import subprocess
import sys
import time
from pathlib import Path

from model_repo_generator.kubernetes.container import closer

OTHERS = 0o077


def shut(path: Path) -> bool:
    """Once nobody else may read it; False after a minute."""
    end_s = time.monotonic() + 60
    while path.stat().st_mode & OTHERS:
        if time.monotonic() > end_s:
            return False
        time.sleep(0.002)
    return True


def test_files_of_the_prefix_are_closed_those_before_and_those_after_it_starts() -> None:
    prefix = f"ppipe-closer-{os.getpid()}_"
    own, before, after = (closer.SHM / f"{prefix}{name}" for name in ("own", "before", "after"))
    other = closer.SHM / f"other-{prefix}"
    try:
        for path in (before, other):
            path.touch()
            path.chmod(0o644)
        with subprocess.Popen([sys.executable, "-I", "-S", closer.__file__, prefix]) as process:
            try:
                assert shut(before)
                own.touch()
                own.chmod(0o600)
                after.touch()
                after.chmod(0o644)  # as Triton does
                assert shut(after)
                assert other.stat().st_mode & OTHERS, "it is somebody else's business"
            finally:
                process.kill()
    finally:
        for path in (own, before, after, other):
            path.unlink(missing_ok=True)
