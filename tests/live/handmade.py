"""A small hand-made deployment of models that double four numbers: everything that supervision needs,
without torch.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ServerAddress
from ppipe.serving.ports import free_base
from tests.lint.battery.case import MODEL_PY

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""

_BASES = itertools.cycle(random.sample(range(10_000, 20_000, 100), 100))


def write_model(group: Path, name: str, code: str = MODEL_PY) -> None:
    """One Triton model in a repository folder."""
    version = group / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code)
    (version.parent / "config.pbtxt").write_text(CONFIG.format(name=name))


def write_deployment(root: Path, ports: list[int], code: str = MODEL_PY) -> DeploymentManifest:
    """Two stage servers with one model each and an entry server; nine ports."""
    write_model(root / "groups" / "slow", "double.w0", code)
    write_model(root / "groups" / "slow", "double.w1", code)
    write_model(root / "groups" / "entry", "double", code)
    manifest = DeploymentManifest(
        deployment="handmade",
        epoch=1,
        plan_hash="",
        entry=_address("entry", "entry", ports[:3], ("double",)),
        servers=(
            _address("slow-0", "slow", ports[3:6], ("double.w0",)),
            _address("slow-1", "slow", ports[6:9], ("double.w1",)),
        ),
        models=(),
    )
    (root / MANIFEST_NAME).write_text(serial.dumps(manifest))
    return manifest


def free_ports(count: int) -> list[int]:
    """A run of ports that nobody has at this moment, another one each time. They are below those that the
    kernel gives outgoing connections, so nobody is given one of them before it is listened on.
    """
    first = free_base(next(_BASES), count)
    return list(range(first, first + count))


def _address(name: str, group: str, ports: list[int], models: tuple[str, ...]) -> ServerAddress:
    http, grpc, metrics = ports
    return ServerAddress(
        name=name,
        group=group,
        host="127.0.0.1",
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        repository=f"groups/{group}",
        models=models,
    )
