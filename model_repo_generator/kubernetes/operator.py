"""The operator: `ppipe operate` as a Deployment of one replica, which changes plans while pods go on.

Rules
- It has no rights in the cluster: no service account's token, no role. It asks the agents in the servers'
  pods through a folder of the claim that they share, and sees servers by gRPC and dispatchers by their pages.
- There is one: a new pod starts when the old one is gone (Recreate), and the folder's lock keeps two apart.
- What it changes is in no object of the bundle, so a changed plan restarts no pod.
"""

from __future__ import annotations

from typing import Any

from model_repo_generator.kubernetes.fleet import Fleet
from model_repo_generator.kubernetes.launch import FLEET_FOLDER
from model_repo_generator.kubernetes.names import BundleFault, dns_label
from model_repo_generator.kubernetes.options import ClaimSource, KubernetesOptions, OperatorSpec
from model_repo_generator.kubernetes.tls import tls_mounts

Plain = dict[str, Any]
OPERATOR = "operator"
WORK_FOLDER = "/work"
SHARED = "fleet"
"""Folder of the working folder: the fleet's (container/agent.py)."""
TOLD = "there"
"""Folder in it with one for each group: what its servers tell."""
REPOSITORY = "repository"
OPERATOR_STOP_S = 60
"""How long it may take to come to an end."""


def operator_of(options: KubernetesOptions) -> tuple[OperatorSpec, ClaimSource] | None:
    """What is chosen for it, and the claim that it shares with the servers. Raises BundleFault."""
    spec, source = options.operator, options.repository
    if spec is None:
        return None
    if not isinstance(source, ClaimSource):
        raise BundleFault(
            "operator: repository.kind is 'object-store', whose copies in the pods nobody can add to; "
            "expected 'claim', of a volume that many nodes can write"
        )
    wanted = f"{spec.work}/{REPOSITORY}"
    if source.sub_path != wanted:
        raise BundleFault(
            f"operator.work: {spec.work!r}, so repository.sub_path must be {wanted!r}, not "
            f"{source.sub_path!r}: the operator adds to the repository in its working folder"
        )
    return spec, source


def fleet_mounts(spec: OperatorSpec, group: str) -> list[Plain]:
    """Of the folder through which servers are asked: to read, and to write what servers of this group tell.
    Nothing else of the claim can a pod write, so no server asks another one for anything, nor speaks for it.
    """
    shared, told = f"{spec.work}/{SHARED}", f"{TOLD}/{group}"
    return [
        {"name": "fleet", "mountPath": FLEET_FOLDER, "subPath": shared, "readOnly": True},
        {"name": "fleet", "mountPath": f"{FLEET_FOLDER}/{told}", "subPath": f"{shared}/{told}"},
    ]


def fleet_folders(spec: OperatorSpec, group: str, image: str, rights: Plain) -> Plain:
    """Makes that folder before it is mounted, for this user alone, and ends: a folder that a mount makes is
    root's, and a volume that honours fsGroup lets the group write in what was there before.
    """
    made = [FLEET_FOLDER, *(f"{FLEET_FOLDER}/{name}" for name in ("wanted", TOLD, f"{TOLD}/{group}"))]
    return {
        "name": "folders",
        "image": image,
        "command": ["sh", "-c", 'mkdir -p -m 700 "$@" && chmod 700 "$@"', "folders", *made],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": rights,
        "volumeMounts": [
            {"name": "fleet", "mountPath": FLEET_FOLDER, "subPath": f"{spec.work}/{SHARED}"},
        ],
    }


def fleet_volume(source: ClaimSource) -> Plain:
    """The claim, to be written."""
    return {"name": "fleet", "persistentVolumeClaim": {"claimName": source.claim}}


def command() -> list[str]:
    """Its container's command."""
    return [
        *("ppipe", "operate", f"{WORK_FOLDER}/deployment.yaml"),
        *("--work", WORK_FOLDER, "--fleet", f"{WORK_FOLDER}/{SHARED}"),
    ]


def operator_deployment(
    fleet: Fleet,
    options: KubernetesOptions,
    spec: OperatorSpec,
    source: ClaimSource,
    common: Plain,
    rights: Plain,
    tls_volumes: list[Plain],
) -> Plain:
    """common: what all pods' specs have. rights: what no container may do."""
    name = dns_label(f"{fleet.manifest.deployment}-{OPERATOR}", "deployment")
    labels = {
        "app.kubernetes.io/name": "ppipe",
        "app.kubernetes.io/instance": fleet.manifest.deployment,
        "app.kubernetes.io/component": OPERATOR,
    }
    memory = f"{spec.memory_mib}Mi"
    container: Plain = {
        "name": OPERATOR,
        "image": spec.image or options.image,
        "command": command(),
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
        "resources": {"requests": {"cpu": spec.cpu, "memory": memory}, "limits": {"memory": memory}},
        "securityContext": rights,
        "volumeMounts": [
            {"name": "work", "mountPath": WORK_FOLDER, "subPath": spec.work},
            {"name": "tmp", "mountPath": "/tmp"},
            *tls_mounts(fleet.manifest),
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    **common,
                    "terminationGracePeriodSeconds": OPERATOR_STOP_S,
                    "containers": [container],
                    "volumes": [
                        {"name": "work", "persistentVolumeClaim": {"claimName": source.claim}},
                        {"name": "tmp", "emptyDir": {}},
                        *tls_volumes,
                    ],
                },
            },
        },
    }
