"""servers.json: what each container's launch.py and probe.py must know. And the scripts themselves.

Rules
- Data only: names and arguments are JSON, read by fixed scripts and passed on without a shell.
- Ports and models are deployment.json's, so what a server binds and loads is what the others expect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model_repo_generator.heap import HEAP_VARIABLES
from model_repo_generator.kubernetes.fleet import Fleet, ServerGroup, python_models
from model_repo_generator.lint.releases import RECOMMENDED
from model_repo_generator.naming import group_folder
from planner.addresses import address_flag
from planner.manifest import DeploymentManifest, ServerAddress

REPOSITORY_FOLDER = "/repository"
MODELS_FOLDER = "/tmp/ppipe-models"
"""Copies of the models that the server loads; launch.py makes it."""
LAUNCH_FOLDER = "/ppipe"
FLEET_FOLDER = "/fleet"
"""Through which the operator asks for changes, where there is one (container/agent.py)."""
REVISIONS_FOLDER = "/tmp/ppipe-revisions"
"""Of the entry's dispatchers; launch.py makes it."""
LEASES_FOLDER = "/leases"
"""Of several entries on one host, who keep leases in a file."""
TICKET_FOLDER = "/tickets"
TICKET_FILE = f"{TICKET_FOLDER}/keys"
LAUNCH_FILES = ("launch.py", "agent.py", "closer.py", "probe.py")
SERVERS_FILE = "servers.json"
SHM_PREFIX = "ppipe-container_"
"""Of a server that has /dev/shm to itself."""
PRE_STOP_S = 5
LOOPBACK = "127.0.0.1"
_SCRIPTS = {name: (Path(__file__).parent / "container" / name).read_text("utf-8") for name in LAUNCH_FILES}


def launch_files(servers: Mapping[str, Any]) -> dict[str, str]:
    """The scripts, and the settings of all servers by container name."""
    return {**_SCRIPTS, SERVERS_FILE: json.dumps({"servers": servers}, indent=1) + "\n"}


def server_settings(
    fleet: Fleet,
    group: ServerGroup,
    server: ServerAddress,
    *,
    bind: str | None,
    shm_default_bytes: int,
    triton_version: str,
    old_triton: bool = False,
    shm_prefix: str = SHM_PREFIX,
    operated: bool = False,
    leases: str = "",
) -> dict[str, Any]:
    """One entry of servers.json. `bind`: address to listen on, None for all of the container's. operated: an
    operator changes what servers load, so nothing here is of a plan: that is deployment.json's alone.
    leases: folder of leases in files; ''.
    """
    manifest = fleet.manifest
    others = [entry for entry in manifest.entries if entry.name != server.name] if group.is_entry else []
    return {
        "server": server.name,
        "group": server.group,
        "host": server.host,
        "probe_host": bind or "localhost",  # of IPv4 or of IPv6, wherever the server listens
        "http_port": server.http_port,
        "triton": triton_version,
        "oldest_triton": [f"{RECOMMENDED}", RECOMMENDED.container],
        "old_triton": old_triton or bind is not None,  # on loopback a warning will do
        "mps": group.mps or (operated and group.most_workers > group.gpus > 0),
        "shm_prefix": shm_prefix,
        "root": REPOSITORY_FOLDER,
        "folder": MODELS_FOLDER,
        "repository": server.repository,
        "fleet": FLEET_FOLDER if operated else "",
        "revisions": REVISIONS_FOLDER if operated and group.is_entry else "",
        # Of several entries: which one this is, where leases lie in files, and the others.
        "entry": server.name if others else "",
        "leases": leases if others else "",
        "others": [[other.host, other.grpc_port] for other in others],
        "models": [] if operated else list(server.models),
        # Callers of a dispatcher whose process has died wait until the server's end, so probes end it.
        "revives": [] if operated else [name for name, kind in _probes(manifest, server) if kind == "stage"],
        "arguments": list(_arguments(manifest, server, bind, shm_default_bytes, shm_prefix)),
        "probes": {} if operated else dict(_probes(manifest, server)),
        "public": dict.fromkeys(manifest.doors, "public") if group.is_entry else {},
    }


def exit_timeout_s(manifest: DeploymentManifest) -> int:
    """How long a server that is told to end waits for frames under way: twice the longest SLO, and some."""
    slos_us = [model.served.slo_us for model in manifest.models]
    slos_us += [cascade.slo_us for cascade in manifest.cascades]
    return 5 + -(-2 * max(slos_us) // 1_000_000)


def server_environment() -> dict[str, str]:
    """Variables that every server gets."""
    return {
        **HEAP_VARIABLES,
        # Repositories are mounted read-only.
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
        "PPIPE_SHM_PREFIX": SHM_PREFIX,
        "PPIPE_TICKET_KEY_FILE": TICKET_FILE,
    }


def launch_command() -> list[str]:
    """A container's command."""
    return ["python3", f"{LAUNCH_FOLDER}/launch.py"]


def probe_command() -> Sequence[str]:
    """The probe of a container."""
    return ["python3", f"{LAUNCH_FOLDER}/probe.py"]


def _arguments(
    manifest: DeploymentManifest,
    server: ServerAddress,
    bind: str | None,
    shm_default_bytes: int,
    shm_prefix: str,
) -> Iterator[str]:
    yield f"--model-repository={MODELS_FOLDER}/{server.repository}"
    # Who can load a model through the API can have his own code run: here nobody can.
    yield "--model-control-mode=poll"
    yield "--repository-poll-secs=1"
    if server.repository != group_folder(server.group):
        # One folder for the whole fleet: configs/<class>.pbtxt has this class's settings.
        yield f"--model-config-name={server.group}"
    # Otherwise every load first starts a throw-away stub.
    yield "--disable-auto-complete-config"
    yield f"--exit-timeout-secs={exit_timeout_s(manifest)}"
    tls = manifest.tls_of(server)
    for kind, port, address in (
        # No certificates are asked for there, so with TLS only this container's own probes may come.
        ("http", server.http_port, (bind or LOOPBACK) if tls else bind),
        ("grpc", server.grpc_port, bind),
        ("metrics", server.metrics_port, bind),
    ):
        if address is not None:
            yield address_flag(kind, address)
        yield f"--{kind}-port={port}"
    yield from tls.server_flags() if tls else ()
    yield f"--backend-config=python,shm-region-prefix-name={shm_prefix}"
    # Grown while serving, the region is mapped anew; so take enough at once.
    yield f"--backend-config=python,shm-default-byte-size={shm_default_bytes}"


def _probes(manifest: DeploymentManifest, server: ServerAddress) -> Iterator[tuple[str, str]]:
    """Every Triton model with a Python process, and how it is asked."""
    for name in python_models(manifest, server):
        yield name, "dispatcher" if name in manifest.doors else "stage"
