"""Which of a deployment's entries this process is of."""

from __future__ import annotations

import os

from planner.manifest import DeploymentManifest

ENTRY_VARIABLE = "PPIPE_ENTRY"
"""Environment variable of an entry server with its name, where a deployment has several."""


def this_entry(manifest: DeploymentManifest) -> str:
    """Its name. Raises ValueError where several are possible."""
    named = os.environ.get(ENTRY_VARIABLE)
    names = [server.name for server in manifest.entries]
    if named is None and len(names) == 1:
        return names[0]
    if named not in names:
        found = "is not set" if named is None else f"is {named!r}"
        raise ValueError(f"{ENTRY_VARIABLE} {found}; deployment.json has the entries {', '.join(names)}")
    return named
