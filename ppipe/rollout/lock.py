"""One rollout at a time: a lock file beside what is rolled out.

The kernel holds the lock for the process that has the file open, so one that was killed holds nothing.
What is in the file says who has it, for the message to the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

LOCK_NAME = "rollout.lock"
OPERATE_LOCK = "operate.lock"
"""Of the loop, for as long as it runs; each of its rollouts takes the other one too."""


class RolloutBusy(Exception):
    """Another rollout is under way; the message says whose."""


@contextlib.contextmanager
def rollout_lock(folder: Path, what: str, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold the lock of `folder`; `what`: that is done with it. Raises RolloutBusy at once if another has
    it.
    """
    path = folder / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "somebody"
            raise RolloutBusy(f"{path}: {holder}; only one may act on a fleet at a time") from None
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{what}, process {os.getpid()}, since {since}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
