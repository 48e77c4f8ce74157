"""Where several entries keep who owns which shard, in a deployment file."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from planner.deployment.spec import AbsolutePath, Spec
from planner.leases import LeasesAt, StoreKind

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _is_endpoint(text: str) -> bool:
    url = urlsplit(text)
    try:
        has_port = url.port is not None
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname) and has_port and not url.path.strip("/")


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
    namespace: str | None = None

    @model_validator(mode="after")
    def _fitting(self) -> LeasesSpec:
        if self.kind == "etcd" and not self.endpoints:
            raise ValueError("endpoints: none; expected the URLs of etcd's members, as http://10.0.0.5:2379")
        for endpoint in self.endpoints:
            if not _is_endpoint(endpoint):
                raise ValueError(f"endpoints: {endpoint!r}; expected a URL such as http://10.0.0.5:2379")
        if self.kind != "etcd" and (self.endpoints or self.ca or self.certificate or self.key):
            raise ValueError(
                f"kind is {self.kind!r}, which has neither endpoints nor certificates; kind 'etcd' has"
            )
        if self.namespace is not None and self.kind != "kubernetes":
            raise ValueError(f"namespace: kind is {self.kind!r}; kind 'kubernetes' has one")
        if self.namespace is not None and not _NAMESPACE.fullmatch(self.namespace):
            raise ValueError(
                f"namespace: {self.namespace!r}; expected at most 63 lower-case letters, digits and '-'"
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: give both, or none")
        return self

    def to_leases(self) -> LeasesAt:
        """As the run time's type."""
        ca, certificate, key = (
            "" if path is None else str(path) for path in (self.ca, self.certificate, self.key)
        )
        return LeasesAt(self.kind, self.endpoints, ca, certificate, key, self.namespace or "")
