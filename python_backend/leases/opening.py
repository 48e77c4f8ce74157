"""Opens the store of leases that a deployment names."""

from __future__ import annotations

from pathlib import Path

from planner.leases import LeasesAt
from python_backend.leases.etcd_store import EtcdStore, EtcdTls
from python_backend.leases.file_store import FileStore
from python_backend.leases.lease import LeaseStore

FOLDER_VARIABLE = "PPIPE_LEASES"
"""Environment variable of entry servers with the folder of leases in files."""


def open_store(at: LeasesAt | None, folder: Path | None) -> LeaseStore:
    """`folder`: of leases in files. Raises ValueError, OSError."""
    at = at or LeasesAt()
    if at.kind == "etcd":
        return EtcdStore(at.endpoints, EtcdTls(at.ca, at.certificate, at.key))
    if folder is None:
        raise ValueError(
            f"leases: {FOLDER_VARIABLE} names no folder; ppipe serve sets it, and all entries of a host "
            "have the same"
        )
    return FileStore(folder)
