"""The files of TLS in containers: a Secret's three keys, each at the path that deployment.json has.

Rules
- Every container gets those of mutual TLS: stage servers show their certificate, and dispatchers and stages
  call with it. Entries alone get those of https to etcd, from a Secret of their own; a file that both name
  is that of mutual TLS.
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
_KEYS = {"ca": "ca.crt", "certificate": "tls.crt", "key": "tls.key"}


def tls_paths(manifest: DeploymentManifest) -> Mapping[str, str]:
    """Key in the Secret -> path in the container; empty without TLS. Raises BundleFault."""
    files = manifest.tls
    if files is None:
        return {}
    return _checked("tls", {"ca": files.ca, "certificate": files.certificate, "key": files.key})


def etcd_paths(manifest: DeploymentManifest) -> Mapping[str, str]:
    """The same of https to etcd, without the files that tls_paths has: those that the deployment names.
    Raises BundleFault.
    """
    leases = manifest.leases
    if leases is None:
        return {}
    named = {"ca": leases.ca, "certificate": leases.certificate, "key": leases.key}
    paths = _checked("leases", {field: path for field, path in named.items() if path})
    there = tls_paths(manifest).values()
    return {key: path for key, path in paths.items() if path not in there}


def tls_mounts(manifest: DeploymentManifest) -> list[dict[str, Any]]:
    """Mounts of the volume 'tls' in a pod's container. Raises BundleFault."""
    return _mounts("tls", tls_paths(manifest))


def etcd_mounts(manifest: DeploymentManifest) -> list[dict[str, Any]]:
    """Mounts of the volume 'etcd-tls' in an entry's container. Raises BundleFault."""
    return _mounts("etcd-tls", etcd_paths(manifest))


def _mounts(volume: str, paths: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": volume, "mountPath": path, "subPath": key, "readOnly": True} for key, path in paths.items()
    ]


def _checked(whose: str, named: Mapping[str, str]) -> Mapping[str, str]:
    """Key in the Secret -> path, of the files that fields of `whose` name."""
    for field, path in named.items():
        _check_path(f"{whose}.{field}", path)
    check_distinct((path, f"{whose}.{field}") for field, path in named.items())
    return {_KEYS[field]: path for field, path in named.items()}


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
