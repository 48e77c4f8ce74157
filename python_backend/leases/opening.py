"""Opens the store of leases that a deployment names."""

from __future__ import annotations

from pathlib import Path

from planner.leases import LeasesAt
from python_backend.leases.etcd_store import EtcdStore, EtcdTls
from python_backend.leases.file_store import FileStore
from python_backend.leases.kubernetes_store import KubernetesStore
from python_backend.leases.lease import LeaseStore
from python_backend.leases.ownership import LeaseTimes

KUBERNETES_TIMES = LeaseTimes(
    look_us=500_000,
    beat_us=1_000_000,
    term_us=3_000_000,
    step_us=1_000_000,
    gap_us=1_700_000,
    settle_us=3_000_000,
)
FILE_TIMES = LeaseTimes(look_us=250_000, beat_us=450_000, term_us=1_200_000, gap_us=700_000)
"""That a process has ended is seen in files at the next look: the term is for one that hangs."""
FOLDER_VARIABLE = "PPIPE_LEASES"
"""Environment variable of entry servers with the folder of leases in files."""


def open_store(at: LeasesAt | None, folder: Path | None) -> LeaseStore:
    """`folder`: of leases in files. Raises ValueError, OSError."""
    at = at or LeasesAt()
    if at.kind == "etcd":
        return EtcdStore(at.endpoints, EtcdTls(at.ca, at.certificate, at.key))
    if at.kind == "kubernetes":
        return KubernetesStore(at.namespace)
    if folder is None:
        raise ValueError(
            f"leases: {FOLDER_VARIABLE} names no folder; ppipe serve sets it, and all entries of a host "
            "have the same"
        )
    return FileStore(folder)


def times_of(at: LeasesAt | None) -> LeaseTimes:
    """How often a store is looked at. An API server is everybody's: more rarely, so adoption takes longer."""
    return {"file": FILE_TIMES, "kubernetes": KUBERNETES_TIMES}.get((at or LeasesAt()).kind, LeaseTimes())
