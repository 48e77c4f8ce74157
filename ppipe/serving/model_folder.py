"""The folder that one server polls: what is in it is what the server loads.

Rules
- Whoever can write in the folder decides what the server runs, and nobody else: Triton in poll mode refuses
  every load and unload through its API, so there is no secret that could be read, sent or guessed.
- The folder is its owner's alone. Folders of models and of their versions are made here, all that is in them
  are links into the repository, which many servers share.
- A model whose version folder is newer than before is loaded anew, with a new Python process, within POLL_S.
- A model without a folder in the repository is refused here: of a link to nothing, a server of 2.51 ends.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

POLL_S = 1


class NoSuchModel(Exception):
    """A model that is not in the repository."""


class ModelFolder:
    """See the module. Used by one thread at a time."""

    def __init__(self, path: Path, repository: Path) -> None:
        self.path = path.resolve()
        self._repository = repository.resolve()
        self._away = self.path.with_name(f"{self.path.name}.away")

    def make(self, models: Sequence[str]) -> None:
        """Have these models in it and no others. Raises NoSuchModel, OSError."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(mode=0o700, parents=True)
        for model in models:
            self.add(model)

    def add(self, model: str) -> None:
        """Have the server load a model as it is in the repository now. Raises NoSuchModel, OSError."""
        source = self._repository / model
        if not source.is_dir():
            raise NoSuchModel(f"{self._repository} has no model {model!r}: generate the repository again")
        shutil.rmtree(self._away, ignore_errors=True)
        self._away.mkdir(mode=0o700)
        for path in source.iterdir():
            _mirror(path, self._away / "new" / path.name)
        if (self.path / model).exists():
            os.rename(self.path / model, self._away / "old")
        os.rename(self._away / "new", self.path / model)
        shutil.rmtree(self._away)

    def load_again(self, model: str) -> None:
        """Have the server load a model anew."""
        for version in (self.path / model).iterdir():
            if version.is_dir() and not version.is_symlink():
                os.utime(version)

    def remove(self, model: str) -> None:
        """Have the server unload a model."""
        shutil.rmtree(self.path / model, ignore_errors=True)

    def models(self) -> set[str]:
        """That the server is to have."""
        return {path.name for path in self.path.iterdir()}


def _mirror(source: Path, made: Path) -> None:
    """A link; of a version's folder, a folder of links, whose time of change is our own."""
    made.parent.mkdir(mode=0o700, exist_ok=True)
    if not (source.is_dir() and source.name.isdigit()):
        made.symlink_to(source)
        return
    made.mkdir(mode=0o700)
    for path in source.iterdir():
        (made / path.name).symlink_to(path)
