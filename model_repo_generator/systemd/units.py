"""systemd units: one for each host, which starts `ppipe serve --host` there and keeps it running.

Rules
- A unit may do what serving takes, and nothing else, as the pods of a Kubernetes bundle: no root, no
  capabilities, no new privileges, a read-only file system but for its own state and /dev/shm, no devices but
  the GPUs that its servers have.
- What `ppipe serve` would do after a death it does itself; systemd starts `ppipe serve` anew.
- Key files are named, not copied, so that keys are rotated without a restart.
- No text of a deployment gets into a unit but names and addresses that are checked here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model_repo_generator.texts import render_text
from planner.addresses import checked_host, same_host
from planner.manifest import DeploymentManifest, ServerAddress

STOP_S = 60
"""Time for a host's servers to end in order: the entry first, then its stages."""
_SAFE = re.compile(r"[A-Za-z0-9_.@/+-]+")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_HIDDEN = ("/home", "/root", "/run/user")
"""What ProtectHome hides."""


class UnitFault(Exception):
    """Units that would not start, or not be safe; the message names what is wrong and what would do."""


@dataclass(frozen=True)
class UnitOptions:
    """Where things are on every host. None: by the deployment's name, below /srv and /etc."""

    ppipe: Path = Path("/opt/ppipe/bin/ppipe")
    repository: Path | None = None
    ticket_keys: Path | None = None
    user: str = "ppipe"
    old_triton: bool = False
    fleet: Path | None = None
    """The folder that all hosts share, where plans are changed while they run (docs/operations.md)."""


def render_units(manifest: DeploymentManifest, options: UnitOptions) -> dict[str, str]:
    """A unit for each host, by path: <host>/ppipe-<deployment>.service. Raises UnitFault."""
    _check(options)
    hosts: dict[str, list[ServerAddress]] = {}
    for server in manifest.every_server:
        if server.models:
            hosts.setdefault(same_host(server.host), []).append(server)
    name = unit_name(manifest)
    return {
        f"{host.replace(':', '-')}/{name}": _unit(manifest, servers, options)
        for host, servers in hosts.items()
    }


def unit_name(manifest: DeploymentManifest) -> str:
    """Of the unit on each host."""
    return f"ppipe-{manifest.deployment}.service"


def _check(options: UnitOptions) -> None:
    for flag, path in (
        ("--ppipe", options.ppipe),
        ("--repository", options.repository),
        ("--ticket-keys", options.ticket_keys),
        ("--fleet", options.fleet),
    ):
        if path is None:
            continue
        if not path.is_absolute() or not _SAFE.fullmatch(str(path)):
            raise UnitFault(f"{flag} {str(path)!r}: expected an absolute path of letters, digits and _.@/+-")
        if any(path.is_relative_to(hidden) for hidden in _HIDDEN):
            raise UnitFault(
                f"{flag} {path}: units see nothing below {', '.join(_HIDDEN)}; expected a path such as "
                "/srv/ppipe or /opt/ppipe"
            )
    if not _USER.fullmatch(options.user) or options.user == "root":
        raise UnitFault(
            f"--user {options.user!r}: expected a user of its own that is not root, such as ppipe"
        )


def _unit(manifest: DeploymentManifest, servers: Sequence[ServerAddress], options: UnitOptions) -> str:
    state = f"ppipe-{manifest.deployment}"
    repository = options.repository or Path("/srv/ppipe") / manifest.deployment / "repository"
    keys = options.ticket_keys or Path("/etc/ppipe") / f"{manifest.deployment}.keys"
    command = [str(options.ppipe), "serve", str(repository), "--host", checked_host(servers[0].host)]
    command += ["--ticket-keys", str(keys), "--work", f"/var/lib/{state}"]
    if options.fleet:
        command += ["--fleet", str(options.fleet)]
    if options.old_triton:
        command.append("--old-triton")
    return render_text(
        "ppipe.service",
        deployment=manifest.deployment,
        servers=[server.name for server in servers],
        command=command,
        user=options.user,
        state=state,
        fleet=options.fleet,
        stop_s=STOP_S,
        gpus=any(server.devices for server in servers),
    )
