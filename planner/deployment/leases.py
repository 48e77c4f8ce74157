"""Where several entries keep who owns which shard, in a deployment file."""

from __future__ import annotations

from pydantic import Field, model_validator

from planner.deployment.spec import AbsolutePath, Spec
from planner.leases import LeasesAt, StoreKind


class LeasesSpec(Spec):
    """`file`: on the one host that all entries are on, nothing to install. `etcd`: the members' URLs; for
    https, PEM files at the same paths on every entry's host.
    """

    kind: StoreKind = "file"
    endpoints: tuple[str, ...] = Field(default=(), max_length=64)
    ca: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    key: AbsolutePath | None = None

    @model_validator(mode="after")
    def _fitting(self) -> LeasesSpec:
        if self.kind == "etcd" and not self.endpoints:
            raise ValueError("endpoints: none; expected the URLs of etcd's members, as http://10.0.0.5:2379")
        if self.kind == "file" and (self.endpoints or self.ca or self.certificate or self.key):
            raise ValueError("kind is 'file', which has neither endpoints nor certificates; kind 'etcd' has")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: give both, or none")
        return self

    def to_leases(self) -> LeasesAt:
        """As the run time's type."""
        paths = ("" if path is None else str(path) for path in (self.ca, self.certificate, self.key))
        return LeasesAt(self.kind, self.endpoints, *paths)
