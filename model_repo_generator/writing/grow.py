"""Adds to a repository that is served the models of another plan; nothing that is there changes.

A worker's files are named after its place and say nothing of a plan, so those that both plans have are the
same. What a server has loaded is a copy of its own (ppipe.serving.polled_folder), and models that nobody
loads are harmless, so files are put in place one by one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from model_repo_generator.writing.write import (
    LISTING,
    Content,
    FileCopy,
    Listing,
    WriteFault,
    WrittenFile,
    hash_file,
    locked,
    read_listing,
)
from planner import serial


def grow(
    out_dir: Path, files: Mapping[str, Content], replaced: Mapping[str, Content] | None = None
) -> tuple[str, ...]:
    """Put those files into the repository that it lacks, and list them all; the paths of those put. replaced:
    files that are written in any case. Raises WriteFault, before anything is written, where one is there and
    says something else.
    """
    with locked(out_dir):
        return _grow(out_dir, files, replaced or {})


def _grow(out_dir: Path, files: Mapping[str, Content], replaced: Mapping[str, Content]) -> tuple[str, ...]:
    listing = read_listing(out_dir)
    known = {} if listing is None else dict(listing.files)
    for path, content in files.items():
        if (out_dir / path).exists() and not _is(out_dir / path, content):
            raise WriteFault(
                f"{out_dir / path}: is there and differs from what this plan needs; generate anew"
            )
    missing = tuple(path for path in sorted(files) if not (out_dir / path).exists())
    try:
        for path in files.keys() - known.keys() - set(missing):  # of one that was killed
            known[path] = _written(out_dir / path)
        for path, content in ({path: files[path] for path in missing} | dict(replaced)).items():
            known[path] = _put(out_dir / path, content)
        if listing is not None:
            serial.save(Listing(known), out_dir / LISTING)
    except OSError as error:
        raise WriteFault(f"{error.filename}: not written: {error.strerror}") from error
    return missing


def _is(path: Path, content: Content) -> bool:
    if isinstance(content, FileCopy):
        return hash_file(path) == hash_file(content.source)
    data = content.encode() if isinstance(content, str) else content
    return path.read_bytes() == data


def _put(path: Path, content: Content) -> WrittenFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    if isinstance(content, FileCopy):
        shutil.copyfile(content.source, beside)
    else:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(beside, path)
    return _written(path)


def _written(path: Path) -> WrittenFile:
    return WrittenFile(sha256=hash_file(path), bytes=path.stat().st_size)
