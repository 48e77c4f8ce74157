"""Log files of served processes: readable by their owner alone, and bounded.

Rules
- The processes write to the file that they were given, so it is never renamed under them: what is in it is
  copied to FILE.1, an older FILE.1 to FILE.2, and it is cut to nothing. They append, so they go on at its
  start. Lines written between the copy and the cut are lost; that is a few microseconds' worth.
- One server's logs take at most three times MOST_BYTES, and what it writes in a second.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 32 << 20
_KEPT = 2


def open_log(path: Path) -> BinaryIO:
    """The file to append to, readable by us alone. Raises OSError, for a link too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, "ab")
    except BaseException:
        os.close(descriptor)
        raise


def rotate_if_large(path: Path, most_bytes: int = MOST_BYTES) -> bool:
    """Begin the file anew where it has grown past `most_bytes`; whether that was done."""
    with contextlib.suppress(OSError):
        if path.stat().st_size <= most_bytes:
            return False
        for number in range(_KEPT, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(_older(path, number - 1), _older(path, number))
        with open_log(_older(path, 1)) as copy, path.open("rb") as log:
            shutil.copyfileobj(log, copy, 1 << 20)
        os.truncate(path, 0)
        return True
    return False


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
