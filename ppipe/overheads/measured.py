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
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ServerAddress
from planner.profiling.overhead import FoundOverheads, HopTimes, fit_overheads
from ppipe.overheads.rig import (
    ALONE,
    FRAME,
    MINUTE_US,
    NULL,
    Address,
    OverheadError,
    addresses_of,
    pair_name,
    write_rig,
)
from ppipe.serving.launcher import ServedDeployment
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.wire import kserve
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice, NoticeReceiver
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import Way, WireTicket
from python_backend.wire.transport import targets_of

SIZES = (4_096, 65_536, 262_144, 1_048_576, 4_194_304, 12_582_912)
"""Bytes of the feature maps: what cuts of vision models carry per frame, and some batches."""
REPEATS = 15
_WARM_UP = 3
_CALL_S = 20.0


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
        keys = Keys.from_environment(manifest.unsigned_tickets)
        return fit_overheads(_measure(manifest, keys, sizes, repeats), wire_gbps)
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
        one_stage_us=medians[ALONE],
        two_stages_us={size: medians[pair_name(size)] for size in sizes},
        stage_busy_us=statistics.median(busy_us) if busy_us else 0.0,
    )


class _Caller:
    """Sends batches of one frame through a model's only pipeline, as its dispatcher would."""

    def __init__(self, manifest: DeploymentManifest, model: str, keys: Keys) -> None:
        entry = manifest.model(model)
        self._deployment = manifest.deployment
        workers = [stage.workers[0] for stage in entry.served.pipelines[0].stages]
        self._workers = [worker.name for worker in workers]
        self._way = Way(tuple(worker.server for worker in workers), manifest.entry.name, 0)
        self._transport = GrpcTransport(
            targets_of(manifest, entry, own_host=manifest.entry.host), keys, manifest.tls
        )
        self._frame = np.zeros(FRAME.shape, np.uint8)

    def call(self) -> float:
        """Microseconds of one batch, there and back. Raises HopFailure."""
        at_us = now_us()
        ticket = plain_ticket(
            batch_id=at_us,
            attempt=0,
            pipeline=0,
            deadline_us=at_us + MINUTE_US,
            hops=tuple(tensor_hop(worker, at_us, at_us, at_us, at_us) for worker in self._workers),
        )
        wire = WireTicket(deployment=self._deployment, revision=1, hop=0, ticket=ticket, way=self._way)
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
    port = manifest.model(NULL).feedback_port
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
