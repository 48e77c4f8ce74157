"""What every model.py of ours needs first: its parameters, and the deployment's manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner import serial
from planner.manifest import DeploymentManifest
from python_backend.triton.versions import check_versions


@dataclass(frozen=True)
class ModelFolder:
    """`root` is the manifest's folder, which programs are relative to."""

    name: str
    parameters: Mapping[str, str]
    manifest: DeploymentManifest
    root: Path

    def parameter(self, name: str) -> str:
        """The config.pbtxt parameter `name`. Raises ValueError."""
        if name not in self.parameters:
            raise ValueError(f"{self.name}: config.pbtxt has no parameter {name!r}")
        return self.parameters[name]


def open_model_folder(args: Mapping[str, str]) -> ModelFolder:
    """Read what Triton passed to initialize(). Raises ValueError, OSError, FormatError, VersionMismatch."""
    config = json.loads(args["model_config"])
    parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
    name = args["model_name"]
    if "manifest" not in parameters:
        raise ValueError(f"{name}: config.pbtxt has no parameter 'manifest'")
    path = (Path(args["model_repository"]) / parameters["manifest"]).resolve()
    older = path.with_name(f"{path.stem}.{args.get('model_version')}{path.suffix}")
    if older.exists():  # this version is of an older revision; config.pbtxt speaks of the newest
        path = older
    manifest = serial.load(DeploymentManifest, path)
    plan_hash = parameters.get("plan_hash", manifest.plan_hash)
    if path != older and plan_hash != manifest.plan_hash:
        raise ValueError(
            f"{name}: generated for plan {plan_hash}, but {path} is of plan {manifest.plan_hash}"
        )
    check_versions(manifest.versions, runs_programs="worker_name" in parameters)
    return ModelFolder(name=name, parameters=parameters, manifest=manifest, root=path.parent)
