"""A new revision of a plan beside the one that is served, in one repository, for a roll-out without a gap.

Rules
- Workers are named after their places, so only those are added that differ. The older revision keeps its own,
  and its manifest (deployment.<epoch>.json).
- A running dispatcher is handed the new table in place (planner.revision). Its own files must not differ.
- generate.generate of the new revision alone, into the same folder, ends the older one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from model_repo_generator import naming
from model_repo_generator.bundle import BUNDLE
from model_repo_generator.export import Exporter
from model_repo_generator.generate import export_and_write, placed, render_once
from model_repo_generator.render import Rendered
from model_repo_generator.share import is_shared
from model_repo_generator.write import Content, FileCopy, Listing, WriteFault, read_listing
from planner import serial
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ModelEntry
from planner.places import ADDRESSES_NAME, PLACE_NAME, StagePlace
from planner.plan import Plan
from planner.profile import Profile


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
    exporter: Exporter | None = None,
) -> DeploymentManifest:
    """Write `plan` as the next revision beside the one in `out_dir`. Raises BesideFault and as generate."""
    listing = read_listing(out_dir)
    if listing is None or MANIFEST_NAME not in listing.files:
        raise WriteFault(f"{out_dir}: no generated repository to put a revision beside")
    for epoch in older_epochs(listing):
        raise BesideFault(f"{out_dir}: revision {epoch} is still there; end it before a third one comes")
    older = serial.load(DeploymentManifest, out_dir / MANIFEST_NAME)
    if deployment.cascades or older.cascades:
        raise BesideFault("cascades: a revision of theirs cannot be put beside another yet; generate it anew")
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
            one_folder=is_shared(older),
        )

    def keep(new: Rendered, program_hashes: Mapping[str, str]) -> Mapping[str, Content]:
        return dict(_kept(out_dir, listing, older, new, program_hashes))

    return export_and_write(
        deployment, profile, plan, out_dir, renderer, force=force, export=export, keep=keep, exporter=exporter
    )


def older_epochs(listing: Listing) -> tuple[int, ...]:
    """Revisions that a repository holds besides the newest."""
    found = (naming.older_manifest_epoch(path) for path in listing.files)
    return tuple(sorted(epoch for epoch in found if epoch is not None))


def older_paths(out_dir: Path, listing: Listing) -> Iterator[str]:
    """Listed files that belong to older revisions; some may be the newest one's too."""
    for epoch in older_epochs(listing):
        name = naming.older_manifest(epoch)
        yield name
        older = serial.load(DeploymentManifest, out_dir / name)
        programs = {program.program for entry in older.models for row in entry.programs for program in row}
        folders = tuple(
            f"{server.repository}/{model}/"
            for server in (older.entry, *older.servers)
            for model in server.models
        )
        yield from (
            path
            for path in listing.files
            if path.startswith(folders) or any(naming.is_program_of(path, each) for each in programs)
        )


def _kept(
    out_dir: Path,
    listing: Listing,
    older: DeploymentManifest,
    new: Rendered,
    program_hashes: Mapping[str, str],
) -> Iterator[tuple[str, Content]]:
    for entry in older.models:
        _require_same_ends(entry, new.manifest, older.epoch)
    doors = tuple(f"{older.entry.repository}/{entry.body_ensemble}/" for entry in older.models)
    for path, written in listing.files.items():
        if path == MANIFEST_NAME:
            yield naming.older_manifest(older.epoch), FileCopy(out_dir / path)
        elif path in program_hashes and program_hashes[path] != written.sha256:
            raise BesideFault(
                f"{path}: the model's weights or blocks changed since revision {older.epoch}; generate into "
                "another folder, or end that revision first"
            )
        elif path in new.files and path != ADDRESSES_NAME and not path.startswith(doors):
            if not _is_same(path, new.files[path], (out_dir / path).read_text(encoding="utf-8")):
                raise BesideFault(
                    f"{path}: revision {older.epoch} needs it otherwise than revision {new.manifest.epoch}, "
                    "and there can be only one; generate into another folder, or end that revision first"
                )
        elif path not in program_hashes and not path.startswith(doors):
            yield path, FileCopy(out_dir / path)


def _is_same(path: str, text: str, older: str) -> bool:
    """Whether both revisions can have a file so. Of a place, latencies may differ, as in a corrected profile:
    a worker that is kept is not loaded anew for that.
    """
    if text == older or PurePath(path).name != PLACE_NAME:
        return text == older
    place = serial.loads(StagePlace, text, path)
    return place == replace(serial.loads(StagePlace, older, path), latency_us=place.latency_us)


def _require_same_ends(entry: ModelEntry, new: DeploymentManifest, epoch: int) -> None:
    """Clients of both revisions call one Triton model, and a frame that fails may be offered to the other's
    workers. Raises BesideFault.
    """
    now = next((model for model in new.models if model.model == entry.model), None)
    for name, older, newer in (
        ()
        if now is None
        else (
            ("preprocess", entry.prepare, now.prepare),
            ("postprocess", entry.finish, now.finish),
        )
    ):
        if older != newer:
            raise BesideFault(
                f"models.{entry.model}.{name} is not what revision {epoch} was made with; generate into "
                "another folder, or end that revision first"
            )
