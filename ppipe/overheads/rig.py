"""What overheads are measured on: two servers of stages that compute nothing, here or at given addresses.

Per size of feature map a pipeline of two emulated stages, the first passing a tensor of that size on to the
second on the other server; one such stage alone; and a stage of a real executor with a program of next to
nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
    write_entries,
)
from planner import serial
from planner.addresses import checked_host
from planner.cluster import Executor
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ModelEntry, ServerAddress
from planner.profile import TensorSpec
from ppipe.serving.ports import free_base
from python_backend.wire.sockets import resolved

ALONE = "overhead_alone"
NULL = "overhead_null"
FRAME = TensorSpec("frame", "UINT8", (64,))
MINUTE_US = 60_000_000
"""Deadline of a batch: nothing is late here."""
_NULL_PROGRAM = "programs/null.pt2"
_SERVERS = ("first", "second")
_SCORES = (TensorSpec("scores", "FP32", (16,)),)
_FIRST_PORT = 20_500


class OverheadError(Exception):
    """Overheads that cannot be measured; the message says what to do."""


@dataclass(frozen=True)
class Address:
    """A running tritonserver's gRPC address."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """'host:port'. Raises OverheadError."""
        host, _, port = text.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise OverheadError(f"{text!r} is no server; expected 'host:port' of its gRPC endpoint")
        try:
            return cls(host=checked_host(host), port=int(port))
        except ValueError as error:
            raise OverheadError(f"{text!r}: {error}") from error


def parse_servers(text: str) -> tuple[Address, Address]:
    """'host:port,host:port'. Raises OverheadError."""
    addresses = [Address.parse(part) for part in text.split(",")]
    if len(addresses) != 2:
        raise OverheadError(f"{text!r} names {len(addresses)} servers; expected two: host:port,host:port")
    return addresses[0], addresses[1]


def write_rig(
    root: Path, sizes: Sequence[int], servers: tuple[Address, Address] | None = None
) -> DeploymentManifest:
    """Repositories of both servers under `root`, for servers here or for these addresses."""
    models = [_alone(NULL), _alone(ALONE), *(_pair(size) for size in sizes)]
    base_port = free_base(_FIRST_PORT, 3 * 3 + 2 * len(models))
    null, *emulated = build_manifest(models, base_port, "overheads").models
    entries = [_computing(null, _export_null(root)), *emulated]
    manifest = write_entries(root, entries, base_port + len(models), name="overheads")
    # No dispatcher: the one who measures sends the tickets and takes the notices.
    manifest = dataclasses.replace(manifest, entry=dataclasses.replace(manifest.entry, models=()))
    if servers is not None:
        at = dict(zip(_SERVERS, servers, strict=True))
        moved = [_moved(server, at[server.name]) for server in manifest.servers]
        entry = dataclasses.replace(manifest.entry, host=_own_address(servers[1]))
        # Started by hand for a few minutes; what they serve computes nothing.
        manifest = dataclasses.replace(manifest, entry=entry, servers=tuple(moved), unsigned_tickets=True)
    (root / MANIFEST_NAME).write_text(serial.dumps(manifest), encoding="utf-8")
    return manifest


def _export_null(root: Path) -> str:
    """Save a program that does next to nothing; its SHA-256."""
    path = root / _NULL_PROGRAM
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        batch = torch.export.Dim("batch", min=1, max=16)
        frames = torch.zeros((2, *FRAME.shape), dtype=torch.uint8)
        torch.export.save(torch.export.export(_Null(), (frames,), dynamic_shapes=({0: batch},)), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Null(torch.nn.Module):
    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor]:
        return (frames[:, : _SCORES[0].shape[0]].float(),)


def _computing(entry: ModelEntry, sha256: str) -> ModelEntry:
    """A model of one emulated stage with the null program instead, on the GPU where this host has one."""
    executor = Executor.CUDA if torch.cuda.is_available() else Executor.CPU
    ((stage,),) = entry.programs
    stage = dataclasses.replace(stage, program=_NULL_PROGRAM, program_sha256=sha256, executor=executor)
    return dataclasses.replace(entry, programs=((stage,),))


def addresses_of(manifest: DeploymentManifest) -> tuple[Address, Address]:
    """Where the rig's servers are: the one that passes tensors on, and the one that takes them."""
    first, second = (manifest.server(name) for name in _SERVERS)
    return Address(first.host, first.grpc_port), Address(second.host, second.grpc_port)


def _alone(name: str) -> EmulatedModel:
    return _model(name, (EmulatedStage((0,), _SERVERS[1:], _SCORES),))


def _pair(size: int) -> EmulatedModel:
    cut = (TensorSpec("cut", "UINT8", (size,)),)
    stages = (EmulatedStage((0,), _SERVERS[:1], cut), EmulatedStage((0,), _SERVERS[1:], _SCORES))
    return _model(pair_name(size), stages)


def _model(name: str, stages: tuple[EmulatedStage, ...]) -> EmulatedModel:
    pipeline = EmulatedPipeline(batch_size=1, stages=stages)
    return EmulatedModel(name=name, slo_us=MINUTE_US, planned_rps=1.0, input=FRAME, pipelines=(pipeline,))


def _moved(server: ServerAddress, address: Address) -> ServerAddress:
    return dataclasses.replace(server, host=address.host, http_port=0, grpc_port=address.port, metrics_port=0)


def _own_address(server: Address) -> str:
    """Where that server reaches this host, for its notices. Nothing is sent."""
    family, address = resolved(server.host, server.port, socket.SOCK_DGRAM)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def pair_name(size: int) -> str:
    """The model of two stages with a feature map of `size` bytes between them."""
    return f"overhead_{size}"
