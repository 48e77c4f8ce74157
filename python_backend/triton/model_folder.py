"""What every model.py of ours needs first: its parameters, and the deployment's manifest or its own place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner import serial
from planner.cluster import Executor
from planner.manifest import DeploymentManifest
from planner.places import ADDRESSES_NAME, PLACE_NAME, StagePlace
from python_backend.triton.versions import check_versions


@dataclass(frozen=True)
class ModelFolder:
    """Of a dispatcher."""

    name: str
    parameters: Mapping[str, str]
    manifest: DeploymentManifest

    def parameter(self, name: str) -> str:
        """The config.pbtxt parameter `name`. Raises ValueError."""
        return _parameter(self.name, self.parameters, name)


@dataclass(frozen=True)
class PlaceFolder:
    """Of a worker. `root`: the folder of the table of servers, which programs and labels are relative to."""

    name: str
    parameters: Mapping[str, str]
    place: StagePlace
    root: Path

    @property
    def servers(self) -> Path:
        """The table of servers."""
        return self.root / ADDRESSES_NAME


def open_model_folder(args: Mapping[str, str]) -> ModelFolder:
    """Read what Triton passed to a dispatcher's initialize(). Raises ValueError, OSError, FormatError,
    VersionMismatch.
    """
    name, parameters = args["model_name"], _parameters(args)
    path = (Path(args["model_repository"]) / _parameter(name, parameters, "manifest")).resolve()
    manifest = serial.load(DeploymentManifest, path)
    check_versions(manifest.versions, runs_programs=False)
    return ModelFolder(name=name, parameters=parameters, manifest=manifest)


def open_place_folder(args: Mapping[str, str]) -> PlaceFolder:
    """Read what Triton passed to a worker's initialize(). Raises ValueError, OSError, FormatError,
    VersionMismatch.
    """
    name, parameters = args["model_name"], _parameters(args)
    folder = Path(args["model_repository"])
    place = serial.load(StagePlace, folder / PLACE_NAME)
    check_versions(place.versions, runs_programs=place.program.executor is not Executor.EMULATED)
    root = (folder / _parameter(name, parameters, "root")).resolve()
    return PlaceFolder(name=name, parameters=parameters, place=place, root=root)


def _parameters(args: Mapping[str, str]) -> Mapping[str, str]:
    config = json.loads(args["model_config"])
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}


def _parameter(model: str, parameters: Mapping[str, str], name: str) -> str:
    if name not in parameters:
        raise ValueError(f"{model}: config.pbtxt has no parameter {name!r}")
    return parameters[name]
