"""What a cluster's owner chooses: image, volumes, node labels, room. Read from YAML or built in code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model_repo_generator.kubernetes.names import BundleFault, is_dns_label, is_label_key, is_label_value

GPU_CLASS_LABEL = "ppipe/gpu-class"
"""Default node label of a GPU class; its value is the class's name in the deployment file."""

_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9_./:@-]{0,254}")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_RELATIVE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_REMOTE = re.compile(r"[A-Za-z0-9:_=,./+@-]{1,500}")


T = TypeVar("T", bound=BaseModel)


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return AfterValidator(check)


def _dns(value: str) -> str:
    if not is_dns_label(value):
        raise ValueError(f"{value!r} is not a DNS label: lower-case letters, digits and '-', a letter first")
    return value


def _labels(value: Mapping[str, str]) -> Mapping[str, str]:
    for key, text in value.items():
        if not is_label_key(key) or not is_label_value(text):
            raise ValueError(f"{key!r}: {text!r} is not a Kubernetes label")
    return value


Image = Annotated[str, _matching(_IMAGE, "an image reference such as registry.example/ppipe:24.10")]
DnsLabel = Annotated[str, AfterValidator(_dns)]
ObjectName = Annotated[str, _matching(_SUBDOMAIN, "a Kubernetes object's name")]
Quantity = Annotated[str, _matching(_QUANTITY, "a quantity such as 500m, 2 or 4Gi")]
Labels = Annotated[Mapping[str, str], AfterValidator(_labels)]
SubPath = Annotated[str, _matching(_RELATIVE, "a relative path without '..'")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClaimSource(_Strict):
    """The repository lies on a PersistentVolumeClaim that many nodes can read."""

    kind: Literal["claim"] = "claim"
    claim: ObjectName = "ppipe-repository"
    sub_path: SubPath | None = None


class ObjectStoreSource(_Strict):
    """The repository is copied from an object store when a pod starts, by rclone.

    `remote` is rclone's name of the folder, e.g. ':s3,provider=AWS,env_auth:bucket/street'; `secret` has
    the credentials as environment variables, as rclone's documentation names them.
    """

    kind: Literal["object-store"]
    remote: Annotated[str, _matching(_REMOTE, "a remote folder of rclone")]
    image: Image = "docker.io/rclone/rclone:1.68"
    secret: ObjectName | None = None
    port: int = Field(default=443, ge=1, le=65535)
    """Of the store: pods may call this port of others when they start."""
    size: Quantity = "20Gi"


class Toleration(_Strict):
    """A taint that the pods of GPU classes tolerate."""

    key: Annotated[str, _matching(re.compile(r"[A-Za-z0-9./_-]{1,317}"), "a taint's key")]
    operator: Literal["Exists", "Equal"] = "Exists"
    value: Annotated[str, _matching(re.compile(r"[A-Za-z0-9._-]{0,63}"), "a taint's value")] = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = "NoSchedule"


class OperatorSpec(_Strict):
    """`ppipe operate` in a pod of its own, so that plans change without a pod being restarted.

    `work`: folder of the repository's claim that is the deployment's working folder: deployment.yaml,
    profile.json, plan.json and repository/ lie in it, of user `user_id`. The claim must let many nodes write.
    """

    work: SubPath
    image: Image | None = None
    """Holds this project with its planner. None: the servers' image."""
    cpu: Quantity = "500m"
    memory_mib: int = Field(default=2048, ge=512, le=1 << 20)


class MonitoringSpec(_Strict):
    """Objects of the Prometheus operator and a dashboard for Grafana's sidecar."""

    enabled: bool = True
    labels: Labels = {}
    """Put on PodMonitor and PrometheusRule, for operators that select by label (e.g. release: prometheus)."""
    interval: Annotated[str, _matching(re.compile(r"[1-9][0-9]{0,4}(s|m)"), "a duration such as 15s")] = "15s"
    dashboard_labels: Labels = {"grafana_dashboard": "1"}
    namespace: DnsLabel | None = None
    """Where Prometheus runs: only from there may the metrics ports be read. None: from anywhere."""


class KubernetesOptions(_Strict):
    """All choices. Sizes that are None are computed, see memory.py."""

    image: Image
    """Holds tritonserver, Python with the manifest's torch, and this project's run time. With a digest
    (NAME@sha256:...) it cannot change between two starts of a pod.
    """
    triton_version: Annotated[str, _matching(re.compile(r"[0-9]+(\.[0-9]+){1,2}"), "a version")] | None = None
    """What the image's tritonserver is, where its TRITON_SERVER_VERSION does not say it."""
    old_triton: bool = False
    """Start servers older than the oldest release that is recommended, all the same: old cards need them."""
    namespace: DnsLabel | None = None
    cluster_domain: ObjectName = "cluster.local"
    repository: Annotated[ClaimSource | ObjectStoreSource, Field(discriminator="kind")] = ClaimSource()
    image_pull_secret: ObjectName | None = None
    ticket_secret: ObjectName | None = None
    """Secret with the key `keys`, one ticket key a line. None: <deployment>-tickets."""
    tls_secret: ObjectName | None = None
    """Where the deployment has `tls`: Secret with the keys `ca.crt`, `tls.crt` and `tls.key`, for all pods.
    None: <deployment>-tls.
    """
    etcd_secret: ObjectName | None = None
    """Where `leases` names files for etcd: Secret with the keys `ca.crt`, `tls.crt` and `tls.key`, as far as
    it names them, for entries' pods. None: <deployment>-etcd-tls.
    """
    node_selectors: Mapping[str, Labels] = {}
    """Per GPU class (`T4`), per size of its servers (`T4-x4`: those with four GPUs), or, where servers of one
    size have links of several speeds, per pool (`T4-x4-25gbps`); the narrowest goes first. Default for CUDA
    classes: ppipe/gpu-class: <class>; for others none.
    """
    entry_node_selector: Labels = {}
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)
    gpu_resource: Annotated[str, _matching(re.compile(r"[a-z0-9.-]+/[A-Za-z0-9._-]+"), "a resource")] = (
        "nvidia.com/gpu"
    )
    gpu_resources: Mapping[
        str, Annotated[str, _matching(re.compile(r"[a-z0-9.-]+/[A-Za-z0-9._-]+"), "a resource")]
    ] = {}
    """Instead of gpu_resource, per GPU class, size or pool as in node_selectors: MIG devices, say."""
    runtime_class: ObjectName | None = None
    priority_class: ObjectName | None = None
    entry_service: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    entry_cpu: Quantity | None = None
    stage_cpu: Quantity | None = None
    memory_per_stub_mib: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    in_flight: int = Field(default=3, ge=1, le=64)
    """Batches that a worker holds at once, for the size of /dev/shm: one computing, one waiting, one
    leaving.
    """
    shm_default_mib: int = Field(default=32, ge=1, le=4096)
    """The Python backend's shm-default-byte-size: what each stub takes at its start."""
    start_timeout_s: int = Field(default=600, ge=30, le=7200)
    """How long loading all models of a server may take before its container is started anew."""
    entry_evictable: bool = False
    """False: a drain of a lone entry's node waits until somebody deletes the pod: that is an outage."""
    api_server_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = (443, 6443)
    """Of the cluster's API server, which entries call where leases are Lease objects: its Service's and its
    own.
    """
    user_id: int = Field(default=1000, ge=1, le=1 << 30)
    monitoring: MonitoringSpec = MonitoringSpec()
    operator: OperatorSpec | None = None
    """None: plans are changed by generating and applying anew."""


_ASKED_FOR: Mapping[tuple[str | int, ...], str] = {
    ("missing", "image"): "; give it with --image, or as image: in the file that --options names"
}


def parse_options(plain: Any, where: str) -> KubernetesOptions:
    """Validate plain data. Raises BundleFault with one line per fault."""
    return validated(KubernetesOptions, plain, where)


def validated(cls: type[T], plain: Any, where: str) -> T:
    """Plain data as options. Raises BundleFault with one line per fault."""
    try:
        return cls.model_validate(plain)
    except pydantic.ValidationError as error:
        lines = [
            f"{where}: {'.'.join(map(str, fault['loc'])) or '(top level)'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            f"{_ASKED_FOR.get((fault['type'], *fault['loc']), '')}"
            for fault in error.errors()
        ]
        raise BundleFault("\n".join(lines)) from error


def read_plain(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises BundleFault."""
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleFault(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleFault(f"{path}: not YAML: {error}") from error
    if not isinstance(plain, dict):
        raise BundleFault(f"{path}: expected a mapping of options")
    return plain


def load_options(path: Path | None, **overrides: Any) -> KubernetesOptions:
    """The options in a YAML file, if there is one, with fields set over it. Raises BundleFault."""
    plain = {} if path is None else read_plain(path)
    return parse_options({**plain, **overrides}, "options" if path is None else str(path))
