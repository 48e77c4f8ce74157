"""The only writer of repositories: a whole new folder beside the old one, then one exchange of the two.

Rules
- Until the exchange nothing of the old repository is touched; a fault before it leaves only the old one.
- A folder that holds anything that we did not write is refused: what is not in its list of files is foreign.
  Python's bytecode of our own model.py is ours too.
- A file that was edited since is refused without `force`.
- The list of files (LISTING) is itself deterministic: paths and SHA-256 hashes, no times.
- One writer per parent folder at a time; the lock is on the folder and leaves no file.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model_repo_generator.writing.exchange import exchange
from planner import serial

LISTING = "generated.json"
_NEW = ".{name}.ppipe-new-"


class WriteFault(Exception):
    """A repository that cannot be written; nothing was changed. The message says why and what to do."""


@dataclass(frozen=True)
class FileCopy:
    """Contents that are already in a file, such as an exported program."""

    source: Path


Content = str | bytes | FileCopy


@dataclass(frozen=True)
class WrittenFile:
    """One file of a repository."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """Every file of a repository but the listing itself, by path."""

    files: Mapping[str, WrittenFile]


def write(files: Mapping[str, Content], out_dir: Path, force: bool = False) -> Listing:
    """Make `out_dir` hold `files` and their listing, no more. Raises WriteFault: `out_dir` is as it was."""
    for path in files:
        _check_path(path)
    out_dir = Path(os.path.realpath(out_dir))
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with locked(out_dir.parent):
            _remove_abandoned(out_dir)
            check_ours(out_dir, force)
            return _replace(files, out_dir)
    except OSError as error:
        raise WriteFault(
            f"{out_dir}: not written, what was there is unchanged: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else "")
        ) from error


def read_listing(out_dir: Path) -> Listing | None:
    """The list of files of a repository, None where there is none. Raises WriteFault for a damaged one."""
    path = out_dir / LISTING
    try:
        return serial.load(Listing, path)
    except FileNotFoundError:
        return None
    except (serial.FormatError, UnicodeDecodeError) as error:
        raise WriteFault(f"{path}: damaged, so what belongs to the repository is unknown: {error}") from error


def check_ours(out_dir: Path, force: bool = False) -> None:
    """Raises WriteFault unless `out_dir` may be replaced: absent, empty, or only unedited files of ours."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise WriteFault(f"{out_dir}: is a file; a repository needs a folder")
    listing = read_listing(out_dir)
    known = {} if listing is None else listing.files
    for found in foreign_paths(out_dir, known):
        raise WriteFault(
            f"{out_dir}: holds {found!r}, which ppipe did not write; move it away or choose another folder"
        )
    if not force:
        for edited in edited_paths(out_dir, known):
            raise WriteFault(
                f"{out_dir}: {edited!r} was edited since it was generated; --force overwrites it"
            )


def foreign_paths(out_dir: Path, known: Mapping[str, WrittenFile]) -> Iterator[str]:
    """Paths under `out_dir` that are not in the listing, folders without a listed file included, in order."""
    folders = {str(parent) for path in known for parent in PurePosixPath(path).parents}
    for path in sorted(out_dir.rglob("*")):
        name = path.relative_to(out_dir).as_posix()
        if path.is_dir() and not path.is_symlink():
            if name not in folders and not _is_bytecode_folder(name, known):
                yield name + "/"
        elif path.is_symlink() or (name != LISTING and name not in known and not _is_bytecode(name, known)):
            yield name


def edited_paths(out_dir: Path, known: Mapping[str, WrittenFile]) -> Iterator[str]:
    """Listed files whose contents are not what was written. A missing file is not an edited one."""
    for name in sorted(known):
        path = out_dir / name
        if path.is_file() and hash_file(path) != known[name].sha256:
            yield name


def hash_file(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _replace(files: Mapping[str, Content], out_dir: Path) -> Listing:
    new = Path(tempfile.mkdtemp(prefix=_NEW.format(name=out_dir.name), dir=out_dir.parent))
    try:
        new.chmod(0o755)
        listing = _fill(new, files)
        if out_dir.exists():
            exchange(new, out_dir)
        else:
            new.rename(out_dir)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _remove_old(new)
    return listing


def _remove_old(old: Path) -> None:
    """Delete an exchanged folder; with what came into it meanwhile it stays, under a name that is seen."""
    if not old.exists():
        return
    known = (read_listing(old) or Listing(files={})).files
    foreign = list(foreign_paths(old, known))
    if not foreign:
        shutil.rmtree(old, ignore_errors=True)
        return
    kept = old.with_name(f"{old.name.removeprefix('.')}-kept")
    old.rename(kept)
    raise WriteFault(f"{kept}: the former repository is kept here: {foreign[0]!r} came into it meanwhile")


def _fill(root: Path, files: Mapping[str, Content]) -> Listing:
    written = {}
    for name in sorted(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        written[name] = _put(path, files[name])
    listing = Listing(files=written)
    (root / LISTING).write_text(serial.dumps(listing), encoding="utf-8")
    return listing


def _put(path: Path, content: Content) -> WrittenFile:
    if isinstance(content, FileCopy):
        _link_or_copy(content.source, path)
        return WrittenFile(sha256=hash_file(path), bytes=path.stat().st_size)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
    return WrittenFile(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def _link_or_copy(source: Path, target: Path) -> None:
    """Programs are large and never changed in place, so a second name will do where there are hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_path(path: str) -> None:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or path in ("", ".", LISTING):
        raise WriteFault(f"{path!r} is not a path inside a repository")


def _is_bytecode(name: str, known: Mapping[str, WrittenFile]) -> bool:
    """What a Python stub leaves beside a model.py that it ran: __pycache__/model.cpython-311.pyc."""
    path = PurePosixPath(name)
    source = path.parent.parent / f"{path.name.split('.')[0]}.py"
    return path.parent.name == "__pycache__" and path.suffix == ".pyc" and str(source) in known


def _is_bytecode_folder(name: str, known: Mapping[str, WrittenFile]) -> bool:
    path = PurePosixPath(name)
    return path.name == "__pycache__" and any(
        PurePosixPath(each).parent == path.parent and each.endswith(".py") for each in known
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time writes in a folder; the lock leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(out_dir: Path) -> None:
    """New folders of writers that were killed: with the lock held, nobody is still filling them."""
    for path in out_dir.parent.glob(glob.escape(_NEW.format(name=out_dir.name)) + "*"):
        shutil.rmtree(path, ignore_errors=True)
