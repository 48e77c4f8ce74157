"""Refuses to load what was generated for another Python or torch, before it fails in a stranger way.

Versions agree when major and minor do: neither torch's programs nor Python's stubs promise more.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping


class VersionMismatch(RuntimeError):
    """This server cannot run what the manifest describes."""


def check_versions(wanted: Mapping[str, str], runs_programs: bool) -> None:
    """`wanted`: of the manifest. torch counts only where programs run. Raises VersionMismatch."""
    installed = installed_versions()
    for name, version in wanted.items():
        here = installed.get(name)
        if here is None or (name == "torch" and not runs_programs):
            continue
        if _major_minor(here) != _major_minor(version):
            raise VersionMismatch(
                f"generated for {name} {version}, but this server has {name} {here}: generate the repository "
                f"with {name} {_major_minor(here)}, or install {name} {_major_minor(version)}"
            )


def installed_versions() -> dict[str, str]:
    """Versions that can be seen from here, without importing anything."""
    versions = {"python": platform.python_version()}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["torch"] = importlib.metadata.version("torch")
    return versions


def _major_minor(version: str) -> str:
    return ".".join(version.partition("+")[0].split(".")[:2])
