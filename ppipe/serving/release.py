"""Which Triton is started here, and whether others may reach it.

Rules: releases before the recommended one have holes that any caller can use (lint.releases says which). On
loopback that is said; on addresses that others reach they are not started unless the user says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from model_repo_generator.lint.releases import RECOMMENDED, Release, UnknownRelease, parse
from planner.manifest import ServerAddress
from ppipe.serving.binaries import TritonInstall
from ppipe.serving.server_command import is_loopback

TRITON_VARIABLE = "TRITON_SERVER_VERSION"
"""Set in NVIDIA's containers."""
_UNPACKED = Release(51)
"""What scripts/setup unpacks."""


class OldTriton(Exception):
    """A release with known holes on an address that others reach."""


def check_release(install: TritonInstall, servers: Sequence[ServerAddress], allowed: bool) -> str:
    """What is to be said of the release, '' where that is nothing. Raises OldTriton."""
    release = _release(install)
    if release is None or release >= RECOMMENDED:
        return ""
    said = (
        f"Triton {release} ({release.container}) has holes that any caller can use; {RECOMMENDED} "
        f"({RECOMMENDED.container}) or later is recommended"
    )
    reached = [server.host for server in servers if not is_loopback(server.host)]
    if not reached or allowed:
        return said
    raise OldTriton(
        f"{said}. Others reach {reached[0]}: start a newer one, or say --old-triton where only those whom "
        "you trust can connect (docs/security.md)"
    )


def _release(install: TritonInstall) -> Release | None:
    """None where nobody says."""
    text = os.environ.get(TRITON_VARIABLE, "")
    if install.backend_directory is not None:
        return _UNPACKED
    try:
        return parse(text) if text else None
    except UnknownRelease:
        return Release(0)
