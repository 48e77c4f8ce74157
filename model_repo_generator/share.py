"""One repository for the whole fleet instead of one per GPU class, where nodes mirror one bucket or volume.

Each model carries its class's settings as configs/<class>.pbtxt, Triton's own hook: a server of that class is
started with --model-config-name=<class> and with the models that are its own. config.pbtxt says the same for
a server that is started without.
"""

from __future__ import annotations

import dataclasses

from model_repo_generator import naming
from model_repo_generator.render import Rendered
from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ServerAddress

FLEET = "fleet"


def shared(rendered: Rendered) -> Rendered:
    """The same models in one folder."""
    manifest = dataclasses.replace(
        rendered.manifest,
        entry=_moved(rendered.manifest.entry),
        more_entries=tuple(
            dataclasses.replace(each, server=_moved(each.server)) for each in rendered.manifest.more_entries
        ),
        servers=tuple(_moved(server) for server in rendered.manifest.servers),
    )
    files: dict[str, str] = {}
    for path, text in rendered.files.items():
        parts = path.split("/")
        if parts[0] != naming.GROUPS:
            files[path] = text
            continue
        group, rest = parts[1], parts[2:]
        files["/".join([naming.group_folder(FLEET), *rest])] = text
        if rest[1:] == ["config.pbtxt"]:
            files["/".join([naming.group_folder(FLEET), rest[0], "configs", f"{group}.pbtxt"])] = text
    files[MANIFEST_NAME] = serial.dumps(manifest)
    return Rendered(manifest=manifest, files=files)


def is_shared(manifest: DeploymentManifest) -> bool:
    """Whether a repository was written so."""
    return manifest.entry.repository == naming.group_folder(FLEET)


def _moved(server: ServerAddress) -> ServerAddress:
    return dataclasses.replace(server, repository=naming.group_folder(FLEET))
