"""Revisions of a deployment: each one's manifest is kept, so that it can be gone back to.

    <work>/revisions/3.json         the manifest of revision 3, as deployment.json would have it
    <work>/revisions/3.plan.json    the plan that it is of

What a revision's workers run and where is said by their own files in the repository (planner.places); what
they need of their GPU's memory follows from the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from planner import serial
from planner.cluster import Cluster
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ModelEntry, StageProgram
from planner.memory import context_bytes, server_bytes, stage_bytes
from planner.places import PLACE_NAME, StagePlace
from planner.plan import BlockRange, Plan
from planner.profile import Profile
from planner.rollout.between import shards_between
from planner.rollout.check import RolloutFault
from planner.rollout.fleet import FleetRevision, Gpu, Loadable, Tables
from planner.serving import ServedModel

FOLDER = "revisions"


class KeptRevisions:
    """The revisions that are kept in the working folder `root`."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    def numbers(self) -> tuple[int, ...]:
        """All that can be gone back to, in order."""
        if not self.folder.is_dir():
            return ()
        names = (path.name.removesuffix(".json") for path in self.folder.glob("*.json"))
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def keep(self, manifest: DeploymentManifest, plan: Plan | None = None) -> None:
        """Keep a revision under its number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        serial.save(manifest, self.folder / f"{manifest.epoch}.json")
        if plan is not None:
            serial.save(plan, self.folder / f"{manifest.epoch}.plan.json")

    def forget(self, number: int) -> None:
        """One that was never served. Raises OSError."""
        for name in (f"{number}.json", f"{number}.plan.json"):
            (self.folder / name).unlink(missing_ok=True)

    def keep_served(self, manifest: DeploymentManifest) -> None:
        """Keep what is served, if it is not. What is kept under its number may be of an earlier repository:
        ppipe generate counts from 1 again.
        """
        path = self.folder / f"{manifest.epoch}.json"
        if not path.is_file() or path.read_text(encoding="utf-8") != serial.dumps(manifest):
            path.with_suffix(".plan.json").unlink(missing_ok=True)
            self.keep(manifest)

    def manifest(self, number: int) -> DeploymentManifest:
        """The manifest of a revision. Raises RolloutFault for one that is not kept."""
        path = self.folder / f"{number}.json"
        if not path.is_file():
            kept = ", ".join(map(str, self.numbers())) or "none"
            raise RolloutFault(f"--to: revision {number} is not kept; those that are: {kept}")
        return serial.load(DeploymentManifest, path)

    def plan(self, number: int) -> Plan | None:
        """The plan of a revision, where it is known."""
        path = self.folder / f"{number}.plan.json"
        return serial.load(Plan, path) if path.is_file() else None

    def next_number(self, served: int) -> int:
        """For a revision that is to come."""
        return max((served, *self.numbers())) + 1


Reader = Callable[[str], str | None]
"""The text of a repository's file by its path there; None where there is none."""


def reader_of(repository: Path) -> Reader:
    """Of a repository on disk."""

    def read(path: str) -> str | None:
        file = repository / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    return read


def fleet_revision(
    manifest: DeploymentManifest, read: Reader, profile: Profile, cluster: Cluster
) -> FleetRevision:
    """The revision as a rollout reckons with it. Raises RolloutFault where the repository lacks a
    worker.
    """
    workers, splits = {}, {}
    for entry in manifest.models:
        for _, served in entry.served.workers():
            place = _place(manifest, read, served.server, served.name)
            workers[served.name] = Loadable(
                name=served.name,
                model=entry.model,
                gpu=Gpu(place.place.server, place.place.gpu_id),
                needs_bytes=_needs_bytes(place, profile, cluster),
            )
            splits[entry.model] = place.blocks.split
    return FleetRevision(
        number=manifest.epoch,
        deployment=manifest.deployment,
        splits=splits,
        tables=tables_of(manifest),
        workers=workers,
    )


def tables_of(manifest: DeploymentManifest) -> dict[str, ServedModel]:
    """By model."""
    return {entry.model: entry.served for entry in manifest.models}


def chain_names(*manifests: DeploymentManifest) -> set[str]:
    """Ensembles of stages within a server."""
    return {chain.name for manifest in manifests for entry in manifest.models for chain in entry.chains}


def rooms_of(cluster: Cluster) -> dict[Gpu, int]:
    """What each GPU has for workers, where its class's memory is modelled."""
    rooms = {}
    for server in cluster.servers:
        gpu_class = cluster.gpu_class(server.gpu)
        if gpu_class.memory_bytes is not None:
            for gpu_id in range(server.gpu_count):
                room = max(0, gpu_class.memory_bytes - server_bytes(gpu_class))
                rooms[Gpu(server.name, gpu_id)] = room
    return rooms


def with_tables(
    manifest: DeploymentManifest, tables: Tables, older: DeploymentManifest, *others: DeploymentManifest
) -> DeploymentManifest:
    """The manifest with these tables, whose workers are its own, the older one's or the others'. Ensembles of
    stages within a server are for the whole revision alone. Cascades' parts are those of the tables.
    """
    programs = {
        name: program for one in (*others, older, manifest) for name, program in _programs(one).items()
    }
    before = {entry.model: entry for entry in older.models}
    models = tuple(
        _with_table(entry, tables[entry.model], programs, before.get(entry.model, entry))
        for entry in manifest.models
    )
    parts_us = {model: table.slo_us for model, table in tables.items()}
    cascades = tuple(cascade.with_parts(parts_us) for cascade in manifest.cascades)
    return replace(manifest, models=models, cascades=cascades)


def with_idle_servers(
    manifest: DeploymentManifest, served: DeploymentManifest, repository: Path
) -> DeploymentManifest:
    """With the servers that the other manifest has too, so that they keep running and can be used again."""
    there = {server.name for server in manifest.servers}
    idle = [replace(server, models=()) for server in served.servers if server.name not in there]
    for server in idle:
        (repository / server.repository).mkdir(parents=True, exist_ok=True)
    return replace(manifest, servers=(*manifest.servers, *idle))


def served_manifest(repository: Path) -> DeploymentManifest:
    """What was generated last. Raises RolloutFault where nothing was."""
    path = repository / MANIFEST_NAME
    if not path.is_file():
        raise RolloutFault(f"{repository}: no {MANIFEST_NAME} there; make a repository with ppipe generate")
    return serial.load(DeploymentManifest, path)


def _place(manifest: DeploymentManifest, read: Reader, server: str, worker: str) -> StagePlace:
    path = f"{manifest.server(server).repository}/{worker}/{PLACE_NAME}"
    text = read(path)
    if text is None:
        raise RolloutFault(
            f"{path}: not in the repository, so revision {manifest.epoch} cannot be served from it: it was "
            "generated anew since"
        )
    return serial.loads(StagePlace, text, path)


def _needs_bytes(place: StagePlace, profile: Profile, cluster: Cluster) -> int:
    """What the worker's process takes of its GPU: its context, its weights, and the activations of its
    largest batch. 0 where the memory of its class is not modelled.
    """
    gpu_class = next(
        (cluster.gpu_class(each.gpu) for each in cluster.servers if each.name == place.place.server), None
    )
    if gpu_class is None or gpu_class.memory_bytes is None:
        return 0
    blocks = BlockRange(place.blocks.start, place.blocks.end)
    tensors = stage_bytes(profile.model(place.model), blocks, place.program.max_batch_size)
    return context_bytes(gpu_class) + tensors


def _programs(manifest: DeploymentManifest) -> Mapping[str, StageProgram]:
    return {
        worker.name: entry.programs[where.pipeline][where.stage]
        for entry in manifest.models
        for where, worker in entry.served.workers()
    }


def _with_table(
    entry: ModelEntry, table: ServedModel, programs: Mapping[str, StageProgram], before: ModelEntry
) -> ModelEntry:
    return replace(
        entry,
        served=table,
        programs=tuple(
            tuple(programs[stage.workers[0].name] for stage in pipeline.stages)
            for pipeline in table.pipelines
        ),
        chains=(),
        shards=shards_between(table, (entry.served, entry.shards), (before.served, before.shards)),
    )
