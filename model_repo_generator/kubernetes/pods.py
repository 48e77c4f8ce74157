"""Pods of one server group: container, probes, volumes, rights. All as plain data in Kubernetes' own words.

Rules
- One container per pod: server, stubs and MPS share its processes, its /dev/shm and its user.
- It may do nothing but serve: no root, no new privileges, a read-only file system; no service account, but
  for entries that keep leases as Lease objects.
- Probes ask every Python process for an inference (container/probe.py), never another pod.
"""

from __future__ import annotations

from typing import Any

from model_repo_generator.kubernetes.fleet import Fleet, ServerGroup, page_ports, ports_of
from model_repo_generator.kubernetes.launch import (
    LAUNCH_FOLDER,
    PRE_STOP_S,
    REPOSITORY_FOLDER,
    TICKET_FOLDER,
    exit_timeout_s,
    launch_command,
    probe_command,
    server_environment,
)
from model_repo_generator.kubernetes.lease_rights import account, uses_lease_objects
from model_repo_generator.kubernetes.memory import MIB, group_memory_bytes, group_shm_bytes, group_stubs
from model_repo_generator.kubernetes.names import MAX_STATEFUL_SET, dns_label
from model_repo_generator.kubernetes.operator import fleet_folders, fleet_mounts, fleet_volume
from model_repo_generator.kubernetes.options import (
    GPU_CLASS_LABEL,
    ClaimSource,
    KubernetesOptions,
    ObjectStoreSource,
)
from model_repo_generator.kubernetes.tls import etcd_mounts, etcd_paths, tls_mounts
from planner.cluster import Executor
from planner.manifest import DeploymentManifest, ServerAddress

Plain = dict[str, Any]
CONTAINER = "triton"
PROBE_PERIOD_S = 10
PROBE_TIMEOUT_S = 30
"""More than probe.py needs for one model that does not answer, so that its message is seen."""
UNREADY_AFTER, RESTART_AFTER = 2, 6
"""Failed probes in a row. A dispatcher revives a dead stage stub within seconds; a restart, which takes all
other workers of the server along, comes only when that has not helped."""
RESTART_ENTRY_AFTER = 2
"""Nobody but a restart helps callers of a dead dispatcher, who wait until their own time limits."""
KILL_AFTER_S = 10
"""On top of the server's own time for ending: stubs that hang."""


def set_name(fleet: Fleet, group: ServerGroup) -> str:
    """The StatefulSet of a group. Raises BundleFault."""
    deployment = fleet.manifest.deployment
    if group.is_entry:
        return dns_label(f"{deployment}-{group.group}-server", "entry", MAX_STATEFUL_SET)
    name = group.pool if group.gpus else f"{group.group}-{group.executor.value}"
    return dns_label(f"{deployment}-{name}", f"GPU class {group.group}", MAX_STATEFUL_SET)


def launch_config(fleet: Fleet) -> str:
    """The ConfigMap of launch files; kustomize adds a hash of its contents, so that a change restarts
    pods.
    """
    return dns_label(f"{fleet.manifest.deployment}-launch", "deployment")


def selector(fleet: Fleet, group: ServerGroup | None = None) -> dict[str, str]:
    """Labels that pick the pods of a deployment, or of one of its groups. Never the plan: it changes."""
    labels = {"app.kubernetes.io/name": "ppipe", "app.kubernetes.io/instance": fleet.manifest.deployment}
    if group is not None:
        labels["app.kubernetes.io/component"] = set_name(fleet, group)
    return labels


def labels(fleet: Fleet, group: ServerGroup, options: KubernetesOptions) -> dict[str, str]:
    """Labels of a pod."""
    found = {**selector(fleet, group), "ppipe/group": group.group}
    if options.operator is None:  # else plans change while pods go on
        found |= {"ppipe/plan": fleet.manifest.plan_hash, "ppipe/epoch": str(fleet.manifest.epoch)}
    version = options.triton_version
    return {**found, "ppipe/triton": version} if version else found


def pod_template(fleet: Fleet, group: ServerGroup, options: KubernetesOptions) -> Plain:
    """The template of a group's pods."""
    shm = group_shm_bytes(
        fleet,
        group,
        in_flight=options.in_flight,
        default_bytes=options.shm_default_mib * MIB,
        any_plan=options.operator is not None,
    )
    spec: Plain = {
        **common_spec(options),
        "terminationGracePeriodSeconds": PRE_STOP_S + exit_timeout_s(fleet.manifest) + KILL_AFTER_S,
        **_scheduling(fleet, group, options),
    }
    if group.is_entry and uses_lease_objects(fleet):
        spec |= {"serviceAccountName": account(fleet), "automountServiceAccountToken": True}
    if isinstance(options.repository, ObjectStoreSource):
        spec["initContainers"] = [_fetch(options.repository)]
    if options.operator is not None:
        rights = container_rights()
        made = fleet_folders(options.operator, group.group, options.image, rights)
        spec["initContainers"] = [made]
    spec["containers"] = [_container(fleet, group, options, shm)]
    spec["volumes"] = _volumes(fleet, group, options, shm)
    return {"metadata": {"labels": labels(fleet, group, options)}, "spec": spec}


def common_spec(options: KubernetesOptions) -> Plain:
    """What the specs of all pods have."""
    spec: Plain = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # A name with a dot is tried as it is first: every look-up of another server is one question, not six.
        "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": options.user_id,
            "runAsGroup": options.user_id,
            "fsGroup": options.user_id,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if options.image_pull_secret is not None:
        spec["imagePullSecrets"] = [{"name": options.image_pull_secret}]
    if options.priority_class is not None:
        spec["priorityClassName"] = options.priority_class
    return spec


def _scheduling(fleet: Fleet, group: ServerGroup, options: KubernetesOptions) -> Plain:
    if group.is_entry:
        alone: Plain = (
            {"nodeSelector": dict(options.entry_node_selector)} if options.entry_node_selector else {}
        )
        return alone | _spread(fleet, group) if len(group.servers) > 1 else alone
    found: Plain = {}
    on_gpu = group.executor is Executor.CUDA
    default = {GPU_CLASS_LABEL: group.group} if on_gpu else {}
    node_selector = dict(group.chosen(options.node_selectors, default))
    if node_selector:
        found["nodeSelector"] = node_selector
    if on_gpu and options.tolerations:
        found["tolerations"] = [_toleration(each.model_dump()) for each in options.tolerations]
    if on_gpu and options.runtime_class is not None:
        found["runtimeClassName"] = options.runtime_class
    return found | _spread(fleet, group)


def _spread(fleet: Fleet, group: ServerGroup) -> Plain:
    """Pools span two servers so that one may fail, and entries stand in for each other; so a node should hold
    one of a group where it can.
    """
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(fleet, group)},
    }
    return {"topologySpreadConstraints": [constraint]}


def _toleration(fields: Plain) -> Plain:
    return {name: value for name, value in fields.items() if value}


def _container(fleet: Fleet, group: ServerGroup, options: KubernetesOptions, shm: int) -> Plain:
    return {
        "name": CONTAINER,
        "image": options.image,
        "command": launch_command(),
        "env": _environment(leases=group.is_entry and uses_lease_objects(fleet)),
        "ports": _ports(fleet, group),
        "resources": _resources(fleet, group, options, shm),
        "startupProbe": _probe(failures=-(-options.start_timeout_s // PROBE_PERIOD_S)),
        "readinessProbe": _probe(UNREADY_AFTER),
        "livenessProbe": _probe(RESTART_ENTRY_AFTER if group.is_entry else RESTART_AFTER),
        # Callers stop to come before the server stops to listen.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_S)]}}},
        "securityContext": container_rights(),
        "volumeMounts": [
            {"name": "launch", "mountPath": LAUNCH_FOLDER, "readOnly": True},
            _repository_mount(options),
            {"name": "tickets", "mountPath": TICKET_FOLDER, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
            *(fleet_mounts(options.operator, group.group) if options.operator else []),
            *tls_mounts(fleet.manifest),
            *(etcd_mounts(fleet.manifest) if group.is_entry else []),
        ],
    }


def container_rights() -> Plain:
    """None."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _environment(leases: bool) -> list[Plain]:
    own = {"PPIPE_SERVER": "metadata.name", "PPIPE_POD_IP": "status.podIP"}
    if leases:
        own["PPIPE_NAMESPACE"] = "metadata.namespace"
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in own.items()),
        *({"name": name, "value": value} for name, value in server_environment().items()),
    ]


def _ports(fleet: Fleet, group: ServerGroup) -> list[Plain]:
    ports: list[Plain] = [
        {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in open_ports(fleet, group)
    ]
    if group.is_entry:
        for index, model in enumerate(fleet.manifest.models):
            notices = {"name": f"notices-{index}", "containerPort": model.feedback_port, "protocol": "UDP"}
            ports.append(notices)
        for index, port in enumerate(page_ports(fleet.manifest)):
            ports.append({"name": page_port(index), "containerPort": port, "protocol": "TCP"})
    return ports


def open_ports(fleet: Fleet, group: ServerGroup) -> list[tuple[str, int]]:
    """Name and number of the TCP ports that servers of the group have for other pods."""
    server = group.servers[0]
    http, grpc, metrics = ports_of(server)
    plain = [] if fleet.manifest.tls_of(server) else [("http", http)]
    return [*plain, ("grpc", grpc), ("metrics", metrics)]


def page_port(index: int) -> str:
    """Name of a port with a page of metrics, by its number among `page_ports`."""
    return f"metrics-{index}"


def _resources(fleet: Fleet, group: ServerGroup, options: KubernetesOptions, shm: int) -> Plain:
    """CPU is asked for and not limited: a throttled stub holds a GPU for nothing. Memory is limited to what
    is asked for, or the kernel would choose a victim on the node.
    """
    memory = f"{_memory_bytes(fleet, group, options, shm) // MIB}Mi"
    requests: Plain = {"cpu": _cpu(fleet, group, options), "memory": memory}
    limits: Plain = {"memory": memory}
    if group.gpus:
        # Kubernetes wants both equal for GPUs. They are numbered from 0 in the container, as in the
        # placement.
        resource = group.chosen(options.gpu_resources, options.gpu_resource)
        requests[resource] = limits[resource] = str(group.gpus)
    return {"requests": requests, "limits": limits}


def _memory_bytes(fleet: Fleet, group: ServerGroup, options: KubernetesOptions, shm: int) -> int:
    any_plan = options.operator is not None
    return group_memory_bytes(fleet, group, shm, options.memory_per_stub_mib, any_plan)


def _cpu(fleet: Fleet, group: ServerGroup, options: KubernetesOptions) -> str:
    """One core for the server and a half per stub of the entry, a whole one per cascade, which decodes and
    cuts; a core per stub where stages compute on it. A server that prepares frames asks for the cores that
    the plan counts on at least.
    """
    if group.is_entry:
        stubs, cascades = len(fleet.manifest.models), len(fleet.manifest.cascades)
        return options.entry_cpu or f"{1000 + 500 * stubs + 1000 * cascades}m"
    stubs = group_stubs(fleet, group, any_plan=False)
    if options.operator is not None:
        stubs = group.most_workers  # while a plan changes, more are loaded, which compute nothing yet
    per_stub = 250 if group.executor is Executor.EMULATED else 1000
    prepares = max(prepare_cores(server, fleet.manifest) for server in group.servers)
    return options.stage_cpu or f"{max(1000 + per_stub * stubs, 1000 * prepares)}m"


def prepare_cores(server: ServerAddress, manifest: DeploymentManifest) -> int:
    """Cores of a server on which the plan has frames prepared, for any model; 0 where it prepares none."""
    hosts = [host for model in manifest.models if model.served.entry for host in model.served.entry.hosts]
    return max((host.cores for host in hosts if host.server == server.name), default=0)


def _probe(failures: int) -> Plain:
    return {
        "exec": {"command": list(probe_command())},
        "periodSeconds": PROBE_PERIOD_S,
        "timeoutSeconds": PROBE_TIMEOUT_S,
        "failureThreshold": failures,
    }


def _repository_mount(options: KubernetesOptions) -> Plain:
    mount: Plain = {"name": "repository", "mountPath": REPOSITORY_FOLDER, "readOnly": True}
    if isinstance(options.repository, ClaimSource) and options.repository.sub_path is not None:
        mount["subPath"] = options.repository.sub_path
    return mount


def _fetch(source: ObjectStoreSource) -> Plain:
    """Copies the repository before the server starts. No shell: the remote's name is one argument."""
    container: Plain = {
        "name": "fetch",
        "image": source.image,
        "args": ["copy", "--checksum", "--retries=10", "--", source.remote, REPOSITORY_FOLDER],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_rights(),
        "volumeMounts": [
            {"name": "repository", "mountPath": REPOSITORY_FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    if source.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": source.secret}}]
    return container


def _volumes(fleet: Fleet, group: ServerGroup, options: KubernetesOptions, shm: int) -> list[Plain]:
    source = options.repository
    if isinstance(source, ClaimSource):
        repository: Plain = {"persistentVolumeClaim": {"claimName": source.claim, "readOnly": True}}
    else:
        repository = {"emptyDir": {"sizeLimit": source.size}}
    return [
        {"name": "launch", "configMap": {"name": launch_config(fleet)}},
        {"name": "repository", **repository},
        {"name": "tickets", "secret": {"secretName": ticket_secret(fleet, options), "defaultMode": 0o440}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm // MIB}Mi"}},
        {"name": "tmp", "emptyDir": {}},
        *([fleet_volume(source)] if options.operator and isinstance(source, ClaimSource) else []),
        *tls_volumes(fleet, options),
        *(_etcd_volumes(fleet, options) if group.is_entry else []),
    ]


def tls_volumes(fleet: Fleet, options: KubernetesOptions) -> list[Plain]:
    """The files of mutual TLS, where the deployment has it."""
    if not fleet.manifest.tls:
        return []
    return [{"name": "tls", "secret": {"secretName": tls_secret(fleet, options), "defaultMode": 0o440}}]


def _etcd_volumes(fleet: Fleet, options: KubernetesOptions) -> list[Plain]:
    """The files of https to etcd, where the deployment has them."""
    if not etcd_paths(fleet.manifest):
        return []
    secret = options.etcd_secret or dns_label(f"{fleet.manifest.deployment}-etcd-tls", "deployment")
    return [{"name": "etcd-tls", "secret": {"secretName": secret, "defaultMode": 0o440}}]


def ticket_secret(fleet: Fleet, options: KubernetesOptions) -> str:
    """The Secret with the ticket keys."""
    return options.ticket_secret or dns_label(f"{fleet.manifest.deployment}-tickets", "deployment")


def tls_secret(fleet: Fleet, options: KubernetesOptions) -> str:
    """The Secret with the files of mutual TLS."""
    return options.tls_secret or dns_label(f"{fleet.manifest.deployment}-tls", "deployment")
