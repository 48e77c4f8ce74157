"""How fast a batch reaches a stage: through shared memory, in a message (body: wire.http, wire.http2), and by
the gRPC library, against memcpy and a bare TCP socket.

A hop is one call of our transport to a stage on a real tritonserver, there and back with a small answer;
the stage computes nothing. floor: two memcpys of the tensor and one 4 KB gRPC hop, what a hop through
memory cannot avoid. Ways are measured in turn, so that drifts of the host meet all alike; figures are
medians.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.helpers.report import main
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    write_deployment,
)
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.wire import kserve
from python_backend.wire.clock import now_us
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.http.transport import HttpTransport
from python_backend.wire.shm.arena import Arena, share_of
from python_backend.wire.shm.file import SharedFile
from python_backend.wire.shm.transport import ShmTransport
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Transport, targets_of

SIZES = {"4kb": (4_096, 60), "600kb": (614_400, 40), "6mb": (6_291_456, 25), "25mb": (26_214_400, 10)}
"""Per size: bytes, repetitions."""
_OUTPUT = (TensorSpec("scores", "FP32", (16,)),)
_MINUTE_US = 60_000_000


def run() -> Mapping[str, Any]:
    """The figures of this benchmark."""
    with tempfile.TemporaryDirectory(prefix="ppipe-hop-") as folder:
        root = Path(folder)
        write_deployment(root / "repository", [_model(size) for size in SIZES], free_base(34_000, 30))
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            keys = Keys(root / "logs" / "ticket.key")
            medians = {size: _measure(deployment, keys, size) for size in SIZES}
    floor_ms = {size: 2 * ways["memcpy"] + medians["4kb"]["grpc"] for size, ways in medians.items()}
    rounded = {
        f"ms_{size}": {way: round(value, 3) for way, value in ways.items()} for size, ways in medians.items()
    }
    return (
        rounded
        | {f"shm_over_grpc_{size}": round(ways["grpc"] / ways["shm"], 2) for size, ways in medians.items()}
        | {f"body_over_grpc_{size}": round(ways["grpc"] / ways["body"], 2) for size, ways in medians.items()}
        | {f"shm_over_floor_{size}": round(ways["shm"] / floor_ms[size], 2) for size, ways in medians.items()}
    )


def _model(size: str) -> EmulatedModel:
    stage = EmulatedStage((0,), ("stage",), _OUTPUT)
    return EmulatedModel(
        name=f"hop_{size}",
        slo_us=_MINUTE_US,
        planned_rps=1.0,
        input=TensorSpec("cut", "UINT8", (SIZES[size][0],)),
        pipelines=(EmulatedPipeline(batch_size=1, stages=(stage,)),),
    )


def _measure(deployment: ServedDeployment, keys: Keys, size: str) -> dict[str, float]:
    """Median milliseconds by way."""
    manifest = deployment.manifest
    size_bytes, repetitions = SIZES[size]
    targets = targets_of(manifest, manifest.model(f"hop_{size}"), own_host=manifest.entry.host)
    frame = np.random.default_rng(0).integers(0, 255, size_bytes, dtype=np.uint8)
    target = np.empty_like(frame)
    share = share_of(0, [size_bytes], 2)
    arena = Arena(SharedFile(f"bench_{size}", share.end, share), share)
    shm = ShmTransport(HttpTransport(GrpcTransport(targets, keys), targets), targets, arena, smallest_bytes=0)
    body = HttpTransport(GrpcTransport(targets, keys), targets)
    grpc = GrpcTransport(targets, keys)
    echo = _TcpSink(size_bytes)
    ways: dict[str, Callable[[], object]] = {
        "memcpy": lambda: np.copyto(target, frame),
        "tcp": lambda: echo.send(frame),
        "grpc": lambda: _hop(grpc, manifest.deployment, size, frame),
        "body": lambda: _hop(body, manifest.deployment, size, frame),
        "shm": lambda: _hop(shm, manifest.deployment, size, frame),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    try:
        for turn in range(repetitions + 2):
            for way, call in ways.items():
                began_s = time.perf_counter()
                call()
                if turn >= 2:  # the first calls make connections and touch memory
                    times[way].append((time.perf_counter() - began_s) * 1e3)
    finally:
        shm.close()
        body.close()
        grpc.close()
        echo.close()
    return {way: statistics.median(values) for way, values in times.items()}


def _hop(transport: Transport, deployment: str, size: str, frame: np.ndarray[Any, Any]) -> None:
    at_us = now_us()
    hop = tensor_hop(f"hop_{size}.p0.s0.w0", at_us, at_us, at_us, at_us)
    ticket = plain_ticket(batch_id=at_us, attempt=0, pipeline=0, deadline_us=at_us + _MINUTE_US, hops=(hop,))
    wire = WireTicket(deployment=deployment, revision=1, hop=0, ticket=ticket)
    transport.infer(wire, [[kserve.piece(frame)]], 1, timeout_s=20.0)


class _TcpSink:
    """A loopback TCP peer in a thread that takes a tensor and answers with one byte."""

    def __init__(self, size: int) -> None:
        self._size = size
        server = socket.create_server(("127.0.0.1", 0))
        self._client = socket.create_connection(server.getsockname())
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer, _ = server.accept()
        server.close()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def send(self, frame: np.ndarray[Any, Any]) -> None:
        """There and back."""
        self._client.sendall(frame.data)
        self._client.recv(1)

    def close(self) -> None:
        """End the peer."""
        self._client.close()
        self._thread.join()
        self._peer.close()

    def _serve(self) -> None:
        buffer = bytearray(self._size)
        while self._fill(memoryview(buffer)):
            self._peer.sendall(b"k")

    def _fill(self, view: memoryview) -> bool:
        while view:
            count = self._peer.recv_into(view)
            if count == 0:
                return False
            view = view[count:]
        return True


if __name__ == "__main__":
    main("Shared-memory and gRPC hops against memcpy and a TCP socket.", run)
