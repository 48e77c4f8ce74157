"""A deployment that runs: where its files are, what it serves, who holds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model_repo_generator import naming
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest, ServerAddress
from planner.profile import Profile
from planner.revision import read_hand_over, run_of
from planner.rollout.fleet import FleetRevision
from ppipe.rollout.early import Early, load_saved
from ppipe.rollout.history import History
from ppipe.rollout.lock import LOCK_NAME, rollout_lock
from ppipe.rollout.record import RolloutRecord, load_record
from ppipe.rollout.revisions import KeptRevisions, fleet_revision, reader_of, served_manifest
from ppipe.serving.launcher import REVISIONS
from ppipe.serving.polled_folder import PolledFolder
from ppipe.serving.server_models import AskedModels, HereModels, ServerModels
from ppipe.workspace import Workspace


@dataclass(frozen=True)
class Deployed:
    """A deployment that runs. base: folder that relative paths of the deployment file start from. fleet: the
    folder through which servers of other hosts are asked; None: all servers run here.
    """

    deployment: Deployment
    profile: Profile
    workspace: Workspace
    base: Path = Path()
    fleet: Path | None = None

    @property
    def repository(self) -> Path:
        """From which its servers load."""
        return self.workspace.repository

    @cached_property
    def tables(self) -> Path:
        """Where its dispatchers look for tables."""
        return self.fleet or self.workspace.logs.resolve() / REVISIONS

    @cached_property
    def answers(self) -> Path:
        """Where they say what they serve, beside the name of their run."""
        return self.tables if self.fleet is None else self.fleet / "there" / naming.ENTRY_GROUP

    @property
    def kept(self) -> KeptRevisions:
        """Its revisions."""
        return KeptRevisions(self.workspace.root)

    @property
    def history(self) -> History:
        """What was done to it."""
        return History(self.workspace.root)

    @property
    def early(self) -> Early | None:
        """What may be loaded early on its servers."""
        return load_saved(self.workspace.root, run_of(self.answers))

    @contextlib.contextmanager
    def lock(self, what: str, name: str = LOCK_NAME) -> Iterator[None]:
        """Hold the lock of its working folder, and of the folder that its hosts share: others may roll out
        from another working folder. Raises RolloutBusy, OSError.
        """
        with contextlib.ExitStack() as held:
            for folder in (self.workspace.root, *([] if self.fleet is None else [self.fleet])):
                held.enter_context(rollout_lock(folder, what, name))
            yield

    def models_of(self, server: ServerAddress) -> ServerModels:
        """The models of one of its servers, as they are changed."""
        if self.fleet is not None:
            return AskedModels(self.fleet, server.name, server.group)
        logs = self.workspace.logs
        folder = PolledFolder(logs / "models" / server.name, self.repository, server.repository)
        return HereModels(folder, logs / f"{server.name}.log")

    def revision(self, manifest: DeploymentManifest) -> FleetRevision:
        """As rollouts reckon with it. Raises RolloutFault."""
        cluster = self.deployment.to_cluster()
        return fleet_revision(manifest, reader_of(self.repository), self.profile, cluster)


@dataclass(frozen=True)
class Start:
    """From where a rollout goes. stopped: the one that was not ended, which left the fleet in between."""

    manifest: DeploymentManifest
    stopped: RolloutRecord | None = None


def start_of(deployed: Deployed) -> Start:
    """The revision that is served; of a rollout that was stopped, the one from which it came."""
    run = run_of(deployed.answers)
    table = read_hand_over(deployed.tables, run) if deployed.tables.is_dir() else None
    generated = served_manifest(deployed.repository)
    record = load_record(deployed.workspace.root)
    if record is not None and record.was_stopped and record.began_with == run:
        return Start(deployed.kept.manifest(record.origin), record)
    if table is None or table.manifest.epoch == generated.epoch:
        return Start(generated)
    return Start(deployed.kept.manifest(table.manifest.epoch))
