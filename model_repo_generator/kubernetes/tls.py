"""The files of mutual TLS in containers: a Secret's three keys, each at the path that deployment.json has.

Rules
- Every container gets them: stage servers show their certificate, and dispatchers and stages call with it.
- Each file is a mount of its own, so that the folder that it lies in keeps what the image has there.
- Keys of the Secret are those of Kubernetes' own TLS Secrets with a CA, as cert-manager writes them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from model_repo_generator.kubernetes.launch import LAUNCH_FOLDER, REPOSITORY_FOLDER, TICKET_FOLDER
from model_repo_generator.kubernetes.names import BundleFault, check_distinct
from planner.manifest import DeploymentManifest

_TAKEN = (REPOSITORY_FOLDER, LAUNCH_FOLDER, TICKET_FOLDER, "/dev", "/proc", "/sys", "/tmp")
"""Mounts of other things."""


def tls_paths(manifest: DeploymentManifest) -> Mapping[str, str]:
    """Key in the Secret -> path in the container; empty without TLS. Raises BundleFault."""
    files = manifest.tls
    if files is None:
        return {}
    paths = {"ca.crt": files.ca, "tls.crt": files.certificate, "tls.key": files.key}
    fields = dict(zip(paths, ("ca", "certificate", "key"), strict=True))
    for key, path in paths.items():
        _check_path(f"tls.{fields[key]}", path)
    check_distinct((path, f"tls.{fields[key]}") for key, path in paths.items())
    return paths


def tls_mounts(manifest: DeploymentManifest) -> list[dict[str, Any]]:
    """Mounts of the volume 'tls' in a pod's container. Raises BundleFault."""
    return [
        {"name": "tls", "mountPath": path, "subPath": key, "readOnly": True}
        for key, path in tls_paths(manifest).items()
    ]


def _check_path(field: str, path: str) -> None:
    """A mount's path goes into the pod as it is, where ':' and control characters mean something."""
    plain = path.isprintable() and ":" not in path and path == posixpath.normpath(path)
    if not (plain and path.startswith("/") and not path.startswith("//") and path != "/"):
        raise BundleFault(f"{field}: {path!r} is no absolute path without ':' and '..'")
    for folder in _TAKEN:
        if path == folder or path.startswith(f"{folder}/"):
            raise BundleFault(
                f"{field}: {path!r} is below {folder}, where a container has something else; "
                "choose a folder such as /etc/ppipe-tls"
            )
