"""Where the entries of a deployment keep who owns which shard: a store that all of them reach. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StoreKind = Literal["file", "etcd"]


@dataclass(frozen=True)
class LeasesAt:
    """`kind` file: a file of the one host that all entries are on. etcd: the members at `endpoints`, by `ca`,
    `certificate` and `key` where they are https (PEM files, '' for none).
    """

    kind: StoreKind = "file"
    endpoints: tuple[str, ...] = ()
    ca: str = ""
    certificate: str = ""
    key: str = ""
