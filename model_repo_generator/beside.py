"""A new revision of a plan beside the one that is served, in one repository, for a roll-out without a gap.

Rules
- The older revision keeps its workers, its version folders and its manifest (deployment.<epoch>.json).
- Models of the entry group have a version folder per revision and load both. There is one config.pbtxt for
  both, so what it declares must be the same.
- Ensembles call the newest dispatcher: new requests go to the new revision, the older one finishes its own.
- generate.generate of the new revision alone, into the same folder, ends the older one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator import naming
from model_repo_generator.bundle import BUNDLE
from model_repo_generator.generate import export_and_write, placed, render_once
from model_repo_generator.render import Rendered
from model_repo_generator.share import is_shared
from model_repo_generator.write import Content, FileCopy, Listing, WriteFault, read_listing
from planner import serial
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from planner.profile import Profile

_OLDER = re.compile(r"deployment\.(\d+)\.json")


class BesideFault(ValueError):
    """Two revisions that one repository cannot hold; nothing was written."""


def generate_beside(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    out_dir: Path,
    *,
    force: bool = False,
    export: bool = True,
    base: Path = Path(),
) -> DeploymentManifest:
    """Write `plan` as the next revision beside the one in `out_dir`. Raises BesideFault and as generate."""
    listing = read_listing(out_dir)
    if listing is None or MANIFEST_NAME not in listing.files:
        raise WriteFault(f"{out_dir}: no generated repository to put a revision beside")
    for epoch in older_epochs(listing):
        raise BesideFault(f"{out_dir}: revision {epoch} is still there; end it before a third one comes")
    older = serial.load(DeploymentManifest, out_dir / MANIFEST_NAME)
    plan = placed(plan, deployment, profile)

    def renderer(program_hashes: Mapping[str, str]) -> Rendered:
        return render_once(
            deployment,
            profile,
            plan,
            epoch=older.epoch + 1,
            base=base,
            program_hashes=program_hashes,
            self_contained=any(path.startswith(f"{BUNDLE}/") for path in listing.files),
            beside=(older.epoch,),
            one_folder=is_shared(older),
        )

    def keep(new: Rendered, program_hashes: Mapping[str, str]) -> Mapping[str, Content]:
        return dict(_kept(out_dir, listing, older, new, program_hashes))

    return export_and_write(
        deployment, profile, plan, out_dir, renderer, force=force, export=export, keep=keep
    )


def older_epochs(listing: Listing) -> tuple[int, ...]:
    """Revisions that a repository holds besides the newest."""
    found = (_OLDER.fullmatch(path) for path in listing.files)
    return tuple(sorted(int(match[1]) for match in found if match))


def older_paths(out_dir: Path, listing: Listing) -> Iterator[str]:
    """Listed files that belong to older revisions; some may be the newest one's too."""
    for epoch in older_epochs(listing):
        name = naming.older_manifest(epoch)
        yield name
        older = serial.load(DeploymentManifest, out_dir / name)
        programs = {program.program for entry in older.models for row in entry.programs for program in row}
        folders = tuple(
            f"{server.repository}/{model}/" for server in older.servers for model in server.models
        )
        version = re.compile(re.escape(older.entry.repository) + rf"/[^/]+/{epoch}/.*")
        for path in listing.files:
            if path in programs or path.startswith(folders) or version.fullmatch(path):
                yield path


def _kept(
    out_dir: Path,
    listing: Listing,
    older: DeploymentManifest,
    new: Rendered,
    program_hashes: Mapping[str, str],
) -> Iterator[tuple[str, Content]]:
    for path, written in listing.files.items():
        if path == MANIFEST_NAME:
            yield naming.older_manifest(older.epoch), FileCopy(out_dir / path)
        elif path in program_hashes:
            if program_hashes[path] != written.sha256:
                raise BesideFault(
                    f"{path}: the model's weights or blocks changed since revision {older.epoch}; generate "
                    "into another folder, or end that revision first"
                )
        elif path not in new.files:
            yield path, FileCopy(out_dir / path)
        elif not _same_interface(path, (out_dir / path).read_text(encoding="utf-8"), new.files[path]):
            raise BesideFault(
                f"{path}: revision {older.epoch} needs it otherwise than revision {new.manifest.epoch}, and "
                "there can be only one; generate into another folder, or end that revision first"
            )


def _same_interface(path: str, old: str, new: str) -> bool:
    """Whether both revisions can use the new text: a config's parameters are the newest revision's alone."""
    if old == new or not path.endswith(".pbtxt"):
        return old == new
    configs = [text_format.Parse(text, triton.ModelConfig()) for text in (old, new)]
    for config in configs:
        for name in ("manifest", "plan_hash"):
            config.parameters.pop(name, None)
        config.ClearField("version_policy")
    return bool(configs[0] == configs[1])
