"""Leases in a file of one host: the default, for which nothing has to be installed.

Rules
- The file is read and replaced under a lock of the kernel, which ends with the process that has it.
- Nobody waits long for that lock: a process that is stopped while it has it makes the store unreachable, and
  then nobody adopts.
- A process holds a lock on a file of its own as long as it lives. Leases of one that has ended are given up
  by whoever looks next: they need not run out.
- Folder and files are their user's alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
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
        # Texts: paths of pathlib cost more than what is done with them, many times a second.
        self._folder = os.fspath(folder)
        self._path = os.path.join(self._folder, "leases.json")
        self._lock_path = os.path.join(self._folder, "leases.lock")
        self._lock_s = lock_s
        self._read_before: dict[str, tuple[str, Lease]] = {}
        """By name, its text and what that says: most records are as they were."""
        self._alive: dict[str, int] = {}
        """Descriptors of the files that are locked for our runs."""

    def look(self, prefix: str) -> Mapping[str, Lease]:
        """See LeaseStore."""
        with self._locked(fcntl.LOCK_SH):
            found = self._read()
        leases = {name: self._said(name, text) for name, text in found.items() if name.startswith(prefix)}
        over = {run for run in {lease.run for lease in leases.values()} if run and not self._lives(run)}
        return self._given_up(leases, over) if over else leases

    def swap(self, swap: Swap) -> bool:
        """See LeaseStore."""
        return self.swap_all([swap])[0]

    def swap_all(self, swaps: Sequence[Swap]) -> list[bool]:
        """See LeaseStore. The file is replaced once."""
        for swap in swaps:
            self._live(swap.new.run)
        with self._locked(fcntl.LOCK_EX):
            found = self._read()
            made = [_swapped(found, swap) for swap in swaps]
            if any(made):
                self._write(found)
        return made

    def close(self) -> None:
        """See LeaseStore."""
        for run, descriptor in self._alive.items():
            with contextlib.suppress(OSError):
                os.unlink(self._of_run(run))
            os.close(descriptor)
        self._alive.clear()

    def _said(self, name: str, text: str) -> Lease:
        """The lease that a text is. Raises StoreUnreachable."""
        before = self._read_before.get(name)
        if before is not None and before[0] == text:
            return before[1]
        lease = from_text(name, text)
        self._read_before[name] = (text, lease)
        return lease

    def _of_run(self, run: str) -> str:
        return os.path.join(self._folder, f"{run}.alive")

    def _live(self, run: str) -> None:
        """Show that a run of ours lives, for as long as this process does."""
        if not run or run in self._alive:
            return
        try:
            descriptor = os.open(self._of_run(run), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnreachable(f"{self._of_run(run)}: {error.strerror}") from error
        try:
            # Shared: what tells of life is that nobody else can have it alone, but for a moment's look.
            self._lock(descriptor, fcntl.LOCK_SH)
        except StoreUnreachable:
            os.close(descriptor)
            raise
        self._alive[run] = descriptor

    def _lives(self, run: str) -> bool:
        """Whether a run's process is there. One whose file cannot be looked at is: its leases can run out."""
        if run in self._alive:
            return True
        try:
            descriptor = os.open(self._of_run(run), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _given_up(self, leases: Mapping[str, Lease], runs: Collection[str]) -> Mapping[str, Lease]:
        """The same leases where those of these runs are nobody's."""
        with self._locked(fcntl.LOCK_EX):
            found = self._read()
            for name, lease in leases.items():
                if lease.run in runs and found.get(name) == to_text(lease):
                    found[name] = to_text(lease.given_up())
            self._write(found)
        for run in runs:
            with contextlib.suppress(OSError):
                os.unlink(self._of_run(run))
        return {name: from_text(name, found[name]) for name in leases if name in found}

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
            except OSError as error:  # a file system without locks, or none left
                raise StoreUnreachable(f"{self._lock_path}: {error.strerror}") from error

    def _read(self) -> dict[str, str]:
        try:
            with open(self._path, "rb", buffering=0) as file:
                found = json.loads(file.read())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreUnreachable(f"{self._path}: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
            raise StoreUnreachable(f"{self._path}: expected an object of texts by name")
        return found

    def _write(self, leases: Mapping[str, str]) -> None:
        """In one step: who is killed in the middle leaves the old file."""
        new = f"{self._path}.new"
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(leases).encode())
            os.replace(new, self._path)
        except OSError as error:
            raise StoreUnreachable(f"{self._path}: {error.strerror}") from error


def _swapped(found: dict[str, str], swap: Swap) -> bool:
    """Whether it was made in what the file has."""
    seen = None if swap.seen is None else to_text(swap.seen)
    if found.get(swap.new.name) != seen:
        return False
    found[swap.new.name] = to_text(swap.new)
    return True
