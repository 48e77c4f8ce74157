"""Where the entries of a deployment keep who owns which shard: a store that all of them reach. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from planner.serial import LATER

StoreKind = Literal["file", "etcd", "kubernetes"]


@dataclass(frozen=True)
class LeasesAt:
    """`kind` file: a file of the one host that all entries are on. etcd: the members at `endpoints`, by `ca`,
    `certificate` and `key` where they are https (PEM files, '' for none). kubernetes: Lease objects of
    `namespace`, '' for that of the entries' pods.
    """

    kind: StoreKind = "file"
    endpoints: tuple[str, ...] = ()
    ca: str = ""
    certificate: str = ""
    key: str = ""
    namespace: str = field(default="", metadata=LATER)
