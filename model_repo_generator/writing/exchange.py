"""Exchange two folders in one step: a reader, or a crash, finds the old one or the new one, never none."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def exchange(one: Path, other: Path) -> None:
    """Each gets the other's name. Raises OSError; then both are as they were."""
    try:
        _exchange_at_once(one, other)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _exchange_by_steps(one, other)


def _exchange_at_once(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _exchange_by_steps(one: Path, other: Path) -> None:
    """For file systems without an exchange (some network ones): three renames, undone on failure."""
    aside = one.with_name(one.name + "-aside")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        with contextlib.suppress(OSError):
            aside.rename(other)
        raise
    aside.rename(one)
