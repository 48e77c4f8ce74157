"""`ppipe generate --check`: is the repository on disk what the plan gives? Compares, and writes nothing.

Programs are not exported again. One counts as right when its file has the hash in the listing that came with
it. Where programs are kept elsewhere than the texts (they are large for git) their files are left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from model_repo_generator.export import planned_programs
from model_repo_generator.generate import placed, render_once
from model_repo_generator.share import is_shared
from model_repo_generator.writing.bundle import BUNDLE
from model_repo_generator.writing.write import (
    LISTING,
    Listing,
    WriteFault,
    WrittenFile,
    edited_paths,
    foreign_paths,
    read_listing,
)
from planner import serial
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from planner.profile import Profile

MAX_DIFF_LINES = 60
"""Of one file; a wholly different repository should still be readable."""


class DifferenceKind(Enum):
    """How a file on disk differs from what the plan gives."""

    MISSING = "missing"
    UNEXPECTED = "unexpected"
    CHANGED = "changed"


@dataclass(frozen=True)
class Difference:
    """One file. `diff`: unified, '-' is the disk and '+' the plan; empty where it is no text."""

    path: str
    kind: DifferenceKind
    diff: str = ""


def check(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    out_dir: Path,
    *,
    epoch: int | None = None,
    base: Path = Path(),
    programs: bool = True,
) -> tuple[Difference, ...]:
    """Every difference, by path; none: nothing to regenerate. `epoch` None: that of the manifest on disk.

    Without `programs` their files may be absent. Raises what generate raises for a bad plan, and WriteFault
    for a folder without a readable listing.
    """
    if not out_dir.is_dir():
        raise WriteFault(f"{out_dir}: no such folder; generate the repository first")
    listing = read_listing(out_dir) or Listing(files={})
    disk = _manifest_of(out_dir)
    plan = placed(plan, deployment, profile)
    needed = [path for each in planned_programs(deployment, profile, plan) for path in each.paths]
    rendered = render_once(
        deployment,
        profile,
        plan,
        epoch=(disk.epoch if disk else 1) if epoch is None else epoch,
        base=base,
        program_hashes={path: listing.files[path].sha256 for path in needed if path in listing.files},
        self_contained=(out_dir / BUNDLE).is_dir(),
        one_folder=disk is not None and is_shared(disk),
    )
    differences = [
        *compare_texts(rendered.files, out_dir),
        *(_compare_programs(needed, listing, out_dir) if programs else ()),
        *_extra_files({*rendered.files, *needed}, out_dir, listing.files),
    ]
    return tuple(sorted(differences, key=lambda each: each.path))


def compare_texts(wanted: Mapping[str, str], out_dir: Path) -> Iterator[Difference]:
    """Differences of rendered texts from the files under `out_dir`."""
    for path, text in wanted.items():
        found = _read(out_dir / path)
        if found is None:
            yield Difference(path=path, kind=DifferenceKind.MISSING)
        elif found != text:
            yield Difference(path=path, kind=DifferenceKind.CHANGED, diff=_unified(path, found, text))


def format_differences(differences: Iterable[Difference]) -> str:
    """Readable text: the diffs, then one line per file."""
    differences = tuple(differences)
    diffs = [each.diff for each in differences if each.diff]
    lines = [f"{each.kind.value:>10}  {each.path}" for each in differences]
    return "\n".join(
        [
            *diffs,
            *lines,
            *([f"{len(lines)} file{'s' * (len(lines) > 1)} differing from the plan"] if lines else []),
        ]
    )


def _compare_programs(programs: Iterable[str], listing: Listing, out_dir: Path) -> Iterator[Difference]:
    known = {path: listing.files[path] for path in programs if path in listing.files}
    edited = set(edited_paths(out_dir, known))
    for path in programs:
        if path not in known or not (out_dir / path).is_file():
            yield Difference(path=path, kind=DifferenceKind.MISSING)
        elif path in edited:
            yield Difference(path=path, kind=DifferenceKind.CHANGED)


def _extra_files(wanted: set[str], out_dir: Path, listed: Mapping[str, WrittenFile]) -> Iterator[Difference]:
    for path in sorted(set(listed) - wanted):
        if (out_dir / path).exists():
            yield Difference(path=path, kind=DifferenceKind.UNEXPECTED)
    for path in foreign_paths(out_dir, listed):
        if path not in wanted:
            yield Difference(path=path, kind=DifferenceKind.UNEXPECTED)
    if not (out_dir / LISTING).exists():
        yield Difference(path=LISTING, kind=DifferenceKind.MISSING)


def _manifest_of(out_dir: Path) -> DeploymentManifest | None:
    try:
        return serial.load(DeploymentManifest, out_dir / MANIFEST_NAME)
    except (OSError, ValueError):
        return None  # shows as a difference of the manifest itself


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return None


def _unified(path: str, found: str, wanted: str) -> str:
    lines = list(
        difflib.unified_diff(
            found.splitlines(), wanted.splitlines(), f"disk/{path}", f"plan/{path}", n=2, lineterm=""
        )
    )
    if len(lines) > MAX_DIFF_LINES:
        lines = [*lines[:MAX_DIFF_LINES], f"... and {len(lines) - MAX_DIFF_LINES} more lines"]
    return "\n".join(lines)
