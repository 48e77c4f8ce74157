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
    """A folder that is not there or cannot be read."""


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
class ModelFolder:
    """One model's folder. `files`: sizes in bytes by path relative to it; `folders`: all folders likewise."""

    name: str
    path: Path
    shown: str
    """Relative to the linted folder, for messages."""
    files: Mapping[str, int]
    folders: frozenset[str]
    versions: VersionFolders

    def read(self, relative: str) -> bytes:
        """A file's content. Raises NotReadable."""
        try:
            return (self.path / relative).read_bytes()
        except OSError as error:
            raise NotReadable(f"{self.path / relative}: {error.strerror}") from error

    def has(self, relative: str) -> bool:
        """Whether a file or folder is there."""
        return relative in self.files or relative in self.folders

    def there(self, path: str) -> bool:
        """Whether a path, absolute or relative to this folder, leads to something."""
        return os.path.exists(os.path.join(self.path, path))


def is_repository(folder: Path) -> bool:
    """Whether a folder of it looks like a model."""
    return any(_looks_like_model(child) for child in _children(folder))


def read_repository(folder: Path, root: Path) -> tuple[ModelFolder, ...]:
    """Every folder in `folder`, by name: the server takes each for a model. Raises NotReadable.

    Hidden ones such as .git only where they look like one.
    """
    return tuple(
        _model_folder(child, root)
        for child in _children(folder)
        if child.is_dir() and (not child.name.startswith(".") or _looks_like_model(child))
    )


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
        raise NotReadable(f"{folder}: {error.strerror or error}") from error


def _looks_like_model(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return (folder / CONFIG).exists() or any(
        child.is_dir() and _VERSION.match(child.name) for child in _children(folder)
    )


def _model_folder(folder: Path, root: Path) -> ModelFolder:
    files: dict[str, int] = {}
    folders: set[str] = set()
    _walk(str(folder), "", files, folders)
    return ModelFolder(
        name=folder.name,
        path=folder,
        shown=os.path.relpath(folder, root),
        files=files,
        folders=frozenset(folders),
        versions=sort_versions([name for name in folders if "/" not in name]),
    )


def _walk(top: str, inside: str, files: dict[str, int], folders: set[str], depth: int = 0) -> None:
    """Links are followed, as the server follows them; depth ends a circle of links."""
    try:
        entries = list(os.scandir(os.path.join(top, inside)))
    except OSError as error:
        raise NotReadable(f"{os.path.join(top, inside)}: {error.strerror}") from error
    for entry in entries:
        relative = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_dir():
            folders.add(relative)
            if depth < 3:
                _walk(top, relative, files, folders, depth + 1)
        elif entry.is_file():
            files[relative] = entry.stat().st_size
