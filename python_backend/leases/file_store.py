"""Leases in a file of one host: the default, for which nothing has to be installed.

Rules
- The file is read and replaced under a lock of the kernel, which ends with the process that has it.
- Nobody waits long for that lock: a process that is stopped while it has it makes the store unreachable, and
  then nobody adopts.
- Folder and files are their user's alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from python_backend.leases.lease import Lease, StoreUnreachable, Swap
from python_backend.leases.record_text import from_text, to_text

LOCK_S = 0.4
"""How long the lock is waited for."""
_PAUSE_S = 0.005


class FileStore:
    """In `folder`, which is made where it is not there."""

    def __init__(self, folder: Path, lock_s: float = LOCK_S) -> None:
        """Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / "leases.json"
        self._lock_path = folder / "leases.lock"
        self._lock_s = lock_s

    def look(self, prefix: str) -> Mapping[str, Lease]:
        """See LeaseStore."""
        with self._locked(fcntl.LOCK_SH):
            found = self._read()
        return {name: from_text(name, text) for name, text in found.items() if name.startswith(prefix)}

    def swap(self, swap: Swap) -> bool:
        """See LeaseStore."""
        with self._locked(fcntl.LOCK_EX):
            found = self._read()
            seen = None if swap.seen is None else to_text(swap.seen)
            if found.get(swap.new.name) != seen:
                return False
            self._write(found | {swap.new.name: to_text(swap.new)})
            return True

    def close(self) -> None:
        """See LeaseStore."""

    @contextlib.contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnreachable(f"{self._lock_path}: {error.strerror}") from error
        try:
            self._lock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int, kind: int) -> None:
        end_s = time.monotonic() + self._lock_s
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end_s:
                    raise StoreUnreachable(f"{self._lock_path}: locked for {self._lock_s} s") from None
                time.sleep(_PAUSE_S)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreUnreachable(f"{self._path}: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
            raise StoreUnreachable(f"{self._path}: expected an object of texts by name")
        return found

    def _write(self, leases: Mapping[str, str]) -> None:
        """In one step: who is killed in the middle leaves the old file."""
        new = self._path.with_suffix(".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(leases, file)
            os.replace(new, self._path)
        except OSError as error:
            raise StoreUnreachable(f"{self._path}: {error.strerror}") from error
