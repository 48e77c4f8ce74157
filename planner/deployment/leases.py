"""Where several entries keep who owns which shard, in a deployment file."""

from __future__ import annotations

from pydantic import Field, model_validator

from planner.deployment.spec import AbsolutePath, Spec
from planner.leases import LeasesAt, StoreKind


class LeasesSpec(Spec):
    """`file`: on the one host that all entries are on, nothing to install. `etcd`: the members' URLs; for
    https, PEM files at the same paths on every entry's host. `kubernetes`: Lease objects of the cluster that
    the entries are pods of.
    """

    kind: StoreKind = "file"
    endpoints: tuple[str, ...] = Field(default=(), max_length=64)
    ca: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    key: AbsolutePath | None = None
    namespace: str | None = Field(default=None, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")

    @model_validator(mode="after")
    def _fitting(self) -> LeasesSpec:
        if self.kind == "etcd" and not self.endpoints:
            raise ValueError("endpoints: none; expected the URLs of etcd's members, as http://10.0.0.5:2379")
        if self.kind != "etcd" and (self.endpoints or self.ca or self.certificate or self.key):
            raise ValueError(
                f"kind is {self.kind!r}, which has neither endpoints nor certificates; kind 'etcd' has"
            )
        if self.namespace is not None and self.kind != "kubernetes":
            raise ValueError(f"namespace: kind is {self.kind!r}; kind 'kubernetes' has one")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: give both, or none")
        return self

    def to_leases(self) -> LeasesAt:
        """As the run time's type."""
        ca, certificate, key = (
            "" if path is None else str(path) for path in (self.ca, self.certificate, self.key)
        )
        return LeasesAt(self.kind, self.endpoints, ca, certificate, key, self.namespace or "")
