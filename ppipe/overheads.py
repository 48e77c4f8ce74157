"""Times stages and hops on real tritonservers, with stages that compute nothing, for the planner's overheads.

Two servers hold, per size of feature map, a pipeline of two emulated stages: the first passes a tensor of
that size on to the second, as stages do, through shared memory or gRPC. Another model is one such stage
alone. What two stages take longer than one is one more stage and one hop. How long a stage's worker is held
beside its blocks is what a stage with a real executor and a program of next to nothing says of itself.

Batches go one at a time: queues are planned with elsewhere. All models take turns, so that a slow moment of
the host meets all alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import socket
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from planner import serial
from planner.cluster import Executor
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ModelEntry, ServerAddress
from planner.profile import TensorSpec
from planner.profiling.overhead import FoundOverheads, HopTimes, fit_overheads
from ppipe.benchmarks.emulated_deployment import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
    write_entries,
)
from ppipe.launcher import ServedDeployment
from ppipe.ports import free_base
from python_backend.runtime import kserve
from python_backend.runtime.clock import now_us
from python_backend.runtime.feedback import Notice, NoticeReceiver
from python_backend.runtime.hop_failure import HopFailure
from python_backend.runtime.ticket_codec import Keys, WireTicket
from python_backend.runtime.transport import GrpcTransport, targets_of
from python_backend.scheduler.actions import Hop, Ticket

SIZES = (4_096, 65_536, 262_144, 1_048_576, 4_194_304, 12_582_912)
"""Bytes of the feature maps: what cuts of vision models carry per frame, and some batches."""
REPEATS = 15
_ALONE = "overhead_alone"
_NULL = "overhead_null"
_NULL_PROGRAM = "programs/null.pt2"
_SERVERS = ("first", "second")
_SMALL = TensorSpec("frame", "UINT8", (64,))
_SCORES = (TensorSpec("scores", "FP32", (16,)),)
_MINUTE_US = 60_000_000
_WARM_UP = 3
_CALL_S = 20.0
_FIRST_PORT = 35_000


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
            raise OverheadError(f"{text!r} is no server; 'host:port' of its gRPC endpoint belongs")
        return cls(host=host, port=int(port))


def parse_servers(text: str) -> tuple[Address, Address]:
    """'host:port,host:port'. Raises OverheadError."""
    addresses = [Address.parse(part) for part in text.split(",")]
    if len(addresses) != 2:
        raise OverheadError(f"{text!r} names {len(addresses)} servers; two belong: host:port,host:port")
    return addresses[0], addresses[1]


def measure_here(sizes: Sequence[int] = SIZES, repeats: int = REPEATS) -> FoundOverheads:
    """Overheads between two tritonservers that are started on this host for it, and ended."""
    with tempfile.TemporaryDirectory(prefix="ppipe-overheads-") as folder:
        root = Path(folder)
        write_rig(root / "repository", sizes)
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            keys = Keys(root / "logs" / "ticket.key")
            return fit_overheads(_measure(deployment.manifest, keys, sizes, repeats))


def measure_there(
    servers: tuple[Address, Address],
    repository: Path,
    wire_gbps: float | None,
    sizes: Sequence[int] = SIZES,
    repeats: int = REPEATS,
) -> FoundOverheads:
    """Overheads between two running servers of `repository`, which is written first where it is not there.

    Raises OverheadError where they do not answer: it says what to load on each.
    """
    manifest = _rig_for(servers, repository, sizes)
    try:
        return fit_overheads(_measure(manifest, Keys.from_environment(), sizes, repeats), wire_gbps)
    except HopFailure as failure:
        lines = [
            f"{failure.text}: two servers that answer are needed; copy {repository} to their hosts and start",
            *(_command(repository, server) for server in manifest.servers),
        ]
        raise OverheadError("\n".join(lines)) from failure


def _rig_for(servers: tuple[Address, Address], repository: Path, sizes: Sequence[int]) -> DeploymentManifest:
    """The rig that these servers have already, or a new one."""
    if (repository / MANIFEST_NAME).is_file():
        manifest = serial.load(DeploymentManifest, repository / MANIFEST_NAME)
        if addresses_of(manifest) == servers:
            return manifest
    return write_rig(repository, sizes, servers)


def write_rig(
    root: Path, sizes: Sequence[int], servers: tuple[Address, Address] | None = None
) -> DeploymentManifest:
    """Repositories of both servers under `root`, for servers here or for these addresses."""
    models = [_alone(_NULL), _alone(_ALONE), *(_pair(size) for size in sizes)]
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
        manifest = dataclasses.replace(manifest, entry=entry, servers=tuple(moved))
    (root / MANIFEST_NAME).write_text(serial.dumps(manifest), encoding="utf-8")
    return manifest


def _export_null(root: Path) -> str:
    """Save a program that does next to nothing; its SHA-256."""
    path = root / _NULL_PROGRAM
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        batch = torch.export.Dim("batch", min=1, max=16)
        frames = torch.zeros((2, *_SMALL.shape), dtype=torch.uint8)
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
    return _model(f"overhead_{size}", stages)


def _model(name: str, stages: tuple[EmulatedStage, ...]) -> EmulatedModel:
    pipeline = EmulatedPipeline(batch_size=1, stages=stages)
    return EmulatedModel(name=name, slo_us=_MINUTE_US, planned_rps=1.0, input=_SMALL, pipelines=(pipeline,))


def _moved(server: ServerAddress, address: Address) -> ServerAddress:
    return dataclasses.replace(server, host=address.host, http_port=0, grpc_port=address.port, metrics_port=0)


def _own_address(server: Address) -> str:
    """Where that server reaches this host, for its notices. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((server.host, server.port))
        return str(probe.getsockname()[0])


def _command(repository: Path, server: ServerAddress) -> str:
    loads = " ".join(f"--load-model={model}" for model in server.models)
    return (
        f"  on {server.host}: tritonserver --model-repository={repository / server.repository} "
        f"--model-control-mode=explicit {loads} --grpc-port={server.grpc_port}"
    )


def _measure(manifest: DeploymentManifest, keys: Keys, sizes: Sequence[int], repeats: int) -> HopTimes:
    callers = {model.model: _Caller(manifest, model.model, keys) for model in manifest.models}
    times: dict[str, list[float]] = {model: [] for model in callers}
    try:
        with _busy_times(manifest, keys) as busy_us:
            for turn in range(repeats + _WARM_UP):
                for model, caller in callers.items():
                    elapsed_us = caller.call()
                    if turn >= _WARM_UP:
                        times[model].append(elapsed_us)
    finally:
        for caller in callers.values():
            caller.close()
    medians = {model: statistics.median(values) for model, values in times.items()}
    return HopTimes(
        one_stage_us=medians[_ALONE],
        two_stages_us={size: medians[f"overhead_{size}"] for size in sizes},
        stage_busy_us=statistics.median(busy_us) if busy_us else 0.0,
    )


class _Caller:
    """Sends batches of one frame through a model's only pipeline, as its dispatcher would."""

    def __init__(self, manifest: DeploymentManifest, model: str, keys: Keys) -> None:
        entry = manifest.model(model)
        self._deployment = manifest.deployment
        self._workers = [stage.workers[0].name for stage in entry.served.pipelines[0].stages]
        self._transport = GrpcTransport(
            targets_of(manifest, entry, own_host=manifest.entry.host), keys, manifest.tls
        )
        self._frame = np.zeros(_SMALL.shape, np.uint8)

    def call(self) -> float:
        """Microseconds of one batch, there and back. Raises HopFailure."""
        at_us = now_us()
        ticket = Ticket(
            batch_id=at_us,
            attempt=0,
            pipeline=0,
            deadline_us=at_us + _MINUTE_US,
            hops=tuple(Hop(worker, at_us, at_us, at_us, at_us) for worker in self._workers),
        )
        wire = WireTicket(deployment=self._deployment, epoch=1, hop=0, ticket=ticket)
        began = time.perf_counter()
        self._transport.infer(wire, [[kserve.piece(self._frame)]], 1, timeout_s=_CALL_S)
        return (time.perf_counter() - began) * 1e6

    def close(self) -> None:
        """Give the connections back."""
        self._transport.close()


@contextlib.contextmanager
def _busy_times(manifest: DeploymentManifest, keys: Keys) -> Iterator[list[int]]:
    """Fills with what the stage with the null program says that its worker was held for."""
    busy_us: list[int] = []
    port = manifest.model(_NULL).feedback_port
    receiver = NoticeReceiver((manifest.entry.host, port), keys)

    def take(notice: Notice) -> None:
        if notice.ok:
            busy_us.append(notice.busy_us)

    thread = threading.Thread(target=receiver.run, args=(take,), name="notices", daemon=True)
    thread.start()
    try:
        yield busy_us
    finally:
        receiver.close()
        thread.join()
