"""A model repository as it lies on disk, read once. All file access of the rules goes through here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CONFIG = "config.pbtxt"
CONFIGS = "configs"
"""Folder of the configs that --model-config-name picks from: configs/<name>.pbtxt."""
_VERSION = re.compile(r"\s*[+-]?[0-9]+")
_LARGEST_VERSION = 2**63 - 1


class NotReadable(Exception):
    """A folder or file that is not there or cannot be read. `why`: what the system says."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.why = why


@dataclass(frozen=True)
class VersionFolders:
    """The folders of a model as the server sorts them: it converts a name's leading digits to a number."""

    numbers: Mapping[int, str] = field(default_factory=dict)
    """Version -> folder. A folder that is not called as its number ('1 ', '1a', '-1') is here too."""
    padded: tuple[str, ...] = ()
    """Leading zeros: passed over, with a warning in the log."""
    huge: tuple[str, ...] = ()
    """Beyond 64 bits: the server ends."""
    others: tuple[str, ...] = ()

    def misread(self) -> dict[int, str]:
        """Versions whose folder has another name than the unsigned number that the server looks for."""
        return {number: name for number, name in self.numbers.items() if number < 0 or name != str(number)}


@dataclass(frozen=True)
class LintedFolder:
    """One model's folder. `files`: sizes in bytes by path relative to it; `folders`: all folders likewise."""

    name: str
    path: Path
    shown: str
    """Relative to the linted folder, for messages."""
    files: Mapping[str, int]
    folders: frozenset[str]
    versions: VersionFolders
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """What cannot be read here, relative to it ('' is itself), and why."""
    dangling: tuple[str, ...] = ()
    """Links directly in it that lead nowhere."""

    def read(self, relative: str) -> bytes:
        """A file's content. Raises NotReadable."""
        try:
            return (self.path / relative).read_bytes()
        except OSError as error:
            raise NotReadable(self.path / relative, error.strerror or str(error)) from error

    def has(self, relative: str) -> bool:
        """Whether a file or folder is there."""
        return relative in self.files or relative in self.folders

    def is_folder(self, relative: str) -> bool:
        """Whether a path, which may lead out of this folder, is a folder."""
        return os.path.isdir(os.path.join(self.path, relative))

    def size(self, relative: str) -> int | None:
        """Bytes of the file at a path, which may lead out of this folder; None where there is none."""
        path = os.path.join(self.path, relative)
        return os.path.getsize(path) if os.path.isfile(path) else None

    def there(self, path: str) -> bool:
        """Whether a path, absolute or relative to this folder, leads to something."""
        return os.path.exists(os.path.join(self.path, path))


@dataclass(frozen=True)
class Repository:
    """What a server finds in the root of a repository: it takes every folder for a model.

    `shown`: the repository, for messages. `hidden`: folders such as .git that do not look like a model;
    `dangling`: links that lead nowhere.
    """

    shown: str
    models: tuple[LintedFolder, ...]
    hidden: tuple[str, ...] = ()
    dangling: tuple[str, ...] = ()


def is_repository(folder: Path) -> bool:
    """Whether a folder of it looks like a model. Raises NotReadable."""
    return any(_looks_like_model(child) for child in _children(folder))


def read_repository(folder: Path, shown: str) -> Repository:
    """Everything in `folder`, by name. Raises NotReadable if it cannot be read itself."""
    models, hidden, dangling = [], [], []
    for child in _children(folder):
        if _leads_nowhere(child):
            dangling.append(child.name)
        elif _is_folder(child):
            if child.name.startswith(".") and not _looks_like_model(child):
                hidden.append(child.name)
            else:
                models.append(_model_folder(child, child.name if shown == "." else f"{shown}/{child.name}"))
    return Repository(shown, tuple(models), tuple(hidden), tuple(dangling))


def sort_versions(names: list[str]) -> VersionFolders:
    """What the server makes of the folders' names."""
    numbers: dict[int, str] = {}
    padded, huge, others = [], [], []
    for name in sorted(names):
        match = _VERSION.match(name)
        if name.startswith("0") and len(name) > 1:
            padded.append(name)
        elif match is None:
            others.append(name)
        elif abs(int(match.group())) > _LARGEST_VERSION:
            huge.append(name)
        else:
            numbers.setdefault(int(match.group()), name)
    return VersionFolders(numbers=numbers, padded=tuple(padded), huge=tuple(huge), others=tuple(others))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise NotReadable(folder, error.strerror or str(error)) from error


def _is_folder(path: Path) -> bool:
    """False too where that cannot be told."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _leads_nowhere(path: Path | os.DirEntry[str]) -> bool:
    """A link whose target is not there, or cannot be looked at, which is the same to a server."""
    try:
        if not path.is_symlink():
            return False
        os.stat(path)
    except OSError:
        return True
    return False


def _looks_like_model(folder: Path) -> bool:
    try:
        if not folder.is_dir():
            return False
        return (folder / CONFIG).exists() or any(
            child.is_dir() and _VERSION.match(child.name) for child in folder.iterdir()
        )
    except OSError:
        return False


def _model_folder(folder: Path, shown: str) -> LintedFolder:
    found = _Found(str(folder))
    found.walk("")
    return LintedFolder(
        name=folder.name,
        path=folder,
        shown=shown,
        files=found.files,
        folders=frozenset(found.folders),
        versions=sort_versions([name for name in found.folders if "/" not in name]),
        unreadable=found.unreadable,
        dangling=tuple(sorted(found.dangling)),
    )


class _Found:
    """What lies below a folder. Links are followed, as the server follows them."""

    def __init__(self, top: str) -> None:
        self._top = top
        self.files: dict[str, int] = {}
        self.folders: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self.dangling: list[str] = []

    def walk(self, inside: str, depth: int = 0) -> None:
        """Look into a folder and those in it; `depth` ends a circle of links."""
        try:
            entries = list(os.scandir(os.path.join(self._top, inside)))
        except OSError as error:
            self.unreadable[inside] = error.strerror or str(error)
            return
        for entry in entries:
            relative = f"{inside}/{entry.name}" if inside else entry.name
            try:
                self._look(entry, relative, depth)
            except OSError as error:  # a folder that may be listed and not entered
                self.unreadable[relative] = error.strerror or str(error)

    def _look(self, entry: os.DirEntry[str], relative: str, depth: int) -> None:
        if _leads_nowhere(entry):
            if "/" not in relative:
                self.dangling.append(relative)
        elif entry.is_dir():
            self.folders.add(relative)
            if depth < 3:
                self.walk(relative, depth + 1)
        elif entry.is_file():
            self.files[relative] = entry.stat().st_size
