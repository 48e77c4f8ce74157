"""Leases as Lease objects of a Kubernetes cluster, through its official Python client.

Rules
- A lease is one object of coordination.k8s.io/v1, which shows holder, term and the time of its last renewal
  as others' do. What counts is the record in an annotation: no clock of the cluster takes part.
- It is replaced by the resourceVersion that was seen last, so of two who want it at once one gets it.
- Objects are named by a digest: a shard's name may have what no object's name may.
- Lists are read at the quorum: an API server that is cut off from etcd does not answer them.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from python_backend.leases.lease import Lease, StoreUnreachable, Swap
from python_backend.leases.record_text import from_text, to_text

ANSWER_S = 1.0
"""How long the API server is waited for."""
NAMESPACE_VARIABLE = "PPIPE_NAMESPACE"
"""Environment variable with the namespace, where the deployment names none."""
CONFIG_VARIABLE = "KUBECONFIG"
"""Of a process that is not in the cluster."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NAME, _RECORD = "ppipe/lease", "ppipe/record"
"""Annotations."""
_MANAGED = "app.kubernetes.io/managed-by"
_GROUP = "ppipe/leases"
"""Label: a digest of what the names of one model's leases begin with."""
_CONFLICT, _GONE = 409, 404


class KubernetesStore:
    """In one namespace. Not thread-safe."""

    def __init__(self, namespace: str = "", answer_s: float = ANSWER_S) -> None:
        """namespace: '' for that of this pod. Raises ValueError, with what is missing."""
        self._namespace = namespace or _own_namespace()
        self._times_s = (answer_s, answer_s)
        """To connect, and to answer. The client takes no notice of a single number with a fraction."""
        self._client = _client()
        self._api: Any = importlib.import_module("kubernetes.client").CoordinationV1Api(self._client)
        self._seen: dict[str, tuple[str, str]] = {}
        """By lease, the text of the record that was seen last and its object's version."""

    def look(self, prefix: str) -> Mapping[str, Lease]:
        """See LeaseStore."""
        wanted = f"{_MANAGED}=ppipe" + (f",{_GROUP}={_digest(group)}" if (group := _group(prefix)) else "")
        listed = self._ask(self._api.list_namespaced_lease, label_selector=wanted)
        found: dict[str, Lease] = {}
        for item in listed.items:
            notes = item.metadata.annotations or {}
            name, text = notes.get(_NAME, ""), notes.get(_RECORD, "")
            if name and name.startswith(prefix):
                found[name] = from_text(name, text)
                self._seen[name] = text, item.metadata.resource_version
        return found

    def swap(self, swap: Swap) -> bool:
        """See LeaseStore."""
        name = swap.new.name
        text, version = self._seen.get(name, ("", ""))
        if swap.seen is None:
            body, call = self._object(swap.new, None), self._api.create_namespaced_lease
            done = self._unless_changed(call, (_CONFLICT,), body=body)  # 404: no such namespace
        elif text != to_text(swap.seen):
            return False
        else:
            body, call = self._object(swap.new, version), self._api.replace_namespaced_lease
            done = self._unless_changed(call, (_CONFLICT, _GONE), name=body["metadata"]["name"], body=body)
        if done is None:
            return False
        self._seen[name] = to_text(swap.new), done.metadata.resource_version
        return True

    def swap_all(self, swaps: Sequence[Swap]) -> list[bool]:
        """See LeaseStore. A call for each."""
        return [self.swap(swap) for swap in swaps]

    def close(self) -> None:
        """See LeaseStore."""
        self._client.close()

    def _object(self, lease: Lease, version: str | None) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": f"ppipe-{_digest(lease.name)}",
            "labels": {_MANAGED: "ppipe", _GROUP: _digest(_group(lease.name) or lease.name)},
            "annotations": {_NAME: lease.name, _RECORD: to_text(lease)},
        }
        if version is not None:
            metadata["resourceVersion"] = version
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {"leaseTransitions": lease.term, "renewTime": now}
        if lease.holder:
            spec["holderIdentity"] = lease.holder
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }

    def _unless_changed(self, call: Any, faster: Collection[int], **arguments: Any) -> Any:
        """The object as it is now; None where somebody was `faster`, as these statuses say."""
        try:
            return self._ask(call, **arguments)
        except _Refused as error:
            if error.status in faster:
                return None
            raise

    def _ask(self, call: Any, **arguments: Any) -> Any:
        """Raises _Refused, StoreUnreachable."""
        exceptions: Any = importlib.import_module("kubernetes.client.exceptions")
        try:
            return call(namespace=self._namespace, _request_timeout=self._times_s, **arguments)
        except exceptions.ApiException as error:
            said = str(error.body or error.reason)[:200]
            raise _Refused(f"kubernetes: status {error.status}: {said}", error.status) from error
        except Exception as error:  # of urllib3, of TLS, of an answer that is none
            raise StoreUnreachable(f"kubernetes: {str(error)[:200] or type(error).__name__}") from error


class _Refused(StoreUnreachable):
    """The API server says no."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def _client() -> Any:
    """A client of the cluster: of the file that KUBECONFIG names, or of the one that this pod is in."""
    try:
        config: Any = importlib.import_module("kubernetes.config")
        client: Any = importlib.import_module("kubernetes.client")
    except ImportError as error:
        raise ValueError(
            f"leases: kind is 'kubernetes', and its Python client is not there ({error}): install "
            "'ppipe[kubernetes]' in the image of the entries"
        ) from error
    settings = client.Configuration()
    file = os.environ.get(CONFIG_VARIABLE)
    try:
        if file:
            config.load_kube_config(config_file=file, client_configuration=settings)
        else:
            config.load_incluster_config(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise ValueError(
            f"leases: kind is 'kubernetes', and no cluster is known here: {error}; expected a pod with a "
            f"service account, or {CONFIG_VARIABLE}"
        ) from error
    settings.retries = False  # who waits for an answer looks again by itself
    return client.ApiClient(settings)


def _own_namespace() -> str:
    named = os.environ.get(NAMESPACE_VARIABLE)
    if named:
        return named
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(
            f"leases.namespace: not given, {NAMESPACE_VARIABLE} is not set, and there is no {_NAMESPACE_FILE}"
        ) from error


def _group(name: str) -> str:
    """The first two parts of a lease's name, which a keeper's leases have in common; '' where it has less."""
    parts = name.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
