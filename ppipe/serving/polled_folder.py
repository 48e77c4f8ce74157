"""The folder that one server polls: what is in it is what the server loads.

Rules
- Whoever can write in the folder decides what the server runs, and nobody else: Triton in poll mode refuses
  every load and unload through its API, so there is no secret that could be read, sent or guessed.
- It is its owner's alone, and a copy: a repository that is generated anew under running servers changes
  nothing for them until `add` takes a model over. Only what is large is linked, or lies at the repository's
  root (programs, labels, the run time), which is linked as it is.
- Another process may hold a PolledFolder of the same path, as a rollout does; one at a time changes it.
- A model whose version folder is newer than before is loaded anew, with a new Python process, within POLL_S.
  So nothing else may write there: a file stands where Python would keep bytecode (stubs of 2.51 do not heed
  PYTHONDONTWRITEBYTECODE, and every model would be loaded twice).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

POLL_S = 1
BYTECODE = "__pycache__"
_COPIED_BYTES = 1 << 20


class NoSuchModel(Exception):
    """A model that is not in the repository."""


class PolledFolder:
    """See the module. Thread-safe. `path`: is made; `root`: of the generated repository;
    `repository`: of the server's models in it.
    """

    def __init__(self, path: Path, root: Path, repository: str) -> None:
        self._copy = path.resolve()
        self._root = root.resolve()
        self._repository = repository
        self._lock = threading.Lock()
        self.path = self._copy / repository
        """What the server is to poll."""

    def make(self, models: Sequence[str]) -> None:
        """Have these models in it and no others. Raises NoSuchModel, OSError."""
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir(mode=0o700, parents=True)
        self.path.mkdir(parents=True, exist_ok=True)
        for model in models:
            self.add(model)

    def add(self, model: str) -> None:
        """Have the server load a model as it is in the repository now. Raises NoSuchModel, OSError."""
        source = self._root / self._repository / model
        if not source.is_dir():
            raise NoSuchModel(f"{source.parent} has no model {model!r}: generate the repository again")
        with self._lock:
            self._put(source, model)

    def _put(self, source: Path, model: str) -> None:
        self._take_root()
        away = self._away()
        ours = shutil.ignore_patterns(BYTECODE)
        shutil.copytree(source, away / "new", copy_function=_take, ignore=ours)
        newest_ns = _newest_ns(self.path / model)
        for version in filter(Path.is_dir, (away / "new").iterdir()):
            (version / BYTECODE).touch()
            _make_newer(version, newest_ns)
        if (self.path / model).exists():
            os.rename(self.path / model, away / "old")
        os.rename(away / "new", self.path / model)
        shutil.rmtree(away)

    def renew(self) -> None:
        """Have models find manifests and addresses as they are in the repository now. Raises OSError."""
        with self._lock:
            self._take_root()

    def load_again(self, model: str) -> None:
        """Have the server load a model anew, if it is still to have it."""
        with contextlib.suppress(FileNotFoundError):
            for version in (self.path / model).iterdir():
                if version.is_dir():
                    _make_newer(version, _newest_ns(version))

    def remove(self, model: str) -> None:
        """Have the server unload a model. In one step: a server that looks now sees all of it or nothing."""
        with self._lock:
            away = self._away()
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path / model, away / "old")
            shutil.rmtree(away)

    def models(self) -> set[str]:
        """That the server is to have; none where nothing was made yet."""
        with contextlib.suppress(FileNotFoundError):
            return {path.name for path in self.path.iterdir()}
        return set()

    def _away(self) -> Path:
        """An empty folder of this process, on the same file system and out of the server's sight."""
        away = self._copy / f".away.{os.getpid()}"
        shutil.rmtree(away, ignore_errors=True)
        away.mkdir(parents=True)
        return away

    def _take_root(self) -> None:
        """What models find beside their repository: manifests as they are now, links to all else."""
        own = Path(self._repository).parts[0]
        for path in self._root.iterdir():
            made = self._copy / path.name
            if path.is_file():
                _take(path, made)
            elif path.name != own and not made.is_symlink():
                made.symlink_to(path)


def _newest_ns(folder: Path) -> int:
    """When the newest of what is in it was changed; 0 where it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return max(path.stat().st_mtime_ns for path in (folder, *folder.rglob("*")))
    return 0


def _make_newer(folder: Path, than_ns: int) -> None:
    """A clock that was put back makes nothing new by itself."""
    at_ns = max(time.time_ns(), than_ns + 1)
    os.utime(folder, ns=(at_ns, at_ns))


def _take(source: str | Path, made: str | Path) -> None:
    if os.stat(source).st_size <= _COPIED_BYTES:
        beside = f"{made}.{os.getpid()}"  # whoever reads the copy meanwhile sees the old one or the new one
        shutil.copyfile(source, beside)
        os.replace(beside, made)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(made)
    try:
        os.link(source, made)
    except OSError:  # another file system
        os.symlink(os.path.realpath(source), made)
