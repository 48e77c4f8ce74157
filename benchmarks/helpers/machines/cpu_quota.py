"""A bound on the processor time of single processes, by the kernel's cgroups: version 2, or 1 where that has
the controller.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

PERIOD_US = 20_000
"""Short, so that who has used up its part waits for milliseconds."""
LEAST_US = 1_000
"""Of a period: the kernel gives nobody less."""
_ROOT = Path("/sys/fs/cgroup")


class NoQuota(RuntimeError):
    """This machine bounds no process; the message says why."""


@contextlib.contextmanager
def quota(pids: Sequence[int], share: float) -> Iterator[None]:
    """Each of these processes has at most `share` of one core for as long as it lasts. Raises NoQuota;
    ValueError for less than the kernel gives.
    """
    if share * PERIOD_US < LEAST_US:
        raise ValueError(f"share {share}: expected {LEAST_US / PERIOD_US} or more")
    with contextlib.ExitStack() as stack:
        for pid in pids:
            stack.enter_context(_bounded(pid, share))
        yield


@contextlib.contextmanager
def _bounded(pid: int, share: float) -> Iterator[None]:
    root, texts = _version(round(share * PERIOD_US))
    home = root / _path_of(pid, "" if root == _ROOT else "cpu").lstrip("/")
    folder = root / f"ppipe-quota-{os.getpid()}-{pid}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoQuota(f"{folder}: {error.strerror}") from error
    try:
        try:
            for name, text in texts:
                (folder / name).write_text(text)
            (folder / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise NoQuota(f"{folder}: {error.strerror}") from error
        yield
    finally:
        with contextlib.suppress(OSError):  # the process may have ended
            (home / "cgroup.procs").write_text(str(pid))
        folder.rmdir()


def _version(quota_us: int) -> tuple[Path, list[tuple[str, str]]]:
    """Where groups are made, and what is written into one."""
    if (_ROOT / "cpu" / "cpu.cfs_quota_us").is_file():
        return _ROOT / "cpu", [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(quota_us))]
    controllers = _ROOT / "cgroup.subtree_control"
    if controllers.is_file() and "cpu" in controllers.read_text().split():
        return _ROOT, [("cpu.max", f"{quota_us} {PERIOD_US}")]
    raise NoQuota(f"{_ROOT}: no cgroups there that bound processor time")


def _path_of(pid: int, controller: str) -> str:
    """The group that a process is in."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path
    return "/"
