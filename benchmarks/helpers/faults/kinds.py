"""Ways to break a served deployment, and to know when what was broken works again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from planner.manifest import ModelEntry
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.processes import stubs_of
from ppipe.serving.supervisor import ServerState
from python_backend.wire import kserve
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.signing.keys import Keys
from python_backend.wire.transport import targets_of

_STOP_S = 2.0
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Fault:
    """`strike` breaks something and returns when it is done; `lost_share`: of one stage's workers,
    meanwhile.
    """

    name: str
    lost_share: float
    strike: Callable[[ServedDeployment], None]
    wait_until_back: Callable[[ServedDeployment], None]


def all_faults(victim: str) -> tuple[Fault, ...]:
    """`victim`: the stage server to break; it has half of its stage's workers."""
    return (
        Fault("stage stub killed", 0.25, lambda d: _kill_stub(d, victim), lambda d: _stage_back(d, victim)),
        Fault("stage server killed", 0.5, lambda d: _kill_server(d, victim), lambda d: _serving(d, victim)),
        Fault("server stopped 2 s", 0.5, lambda d: _stop_a_while(d, victim), lambda d: None),
        Fault("dispatcher stub killed", 1.0, _kill_dispatcher, lambda d: _serving(d, d.manifest.entry.name)),
        Fault("client vanished", 0.0, _vanish, lambda d: None),
    )


def pid_of(deployment: ServedDeployment, server: str) -> int:
    """Process id of a running server. Raises RuntimeError."""
    for status in deployment.statuses:
        if status.name == server and status.pid is not None:
            return status.pid
    raise RuntimeError(f"server {server!r} is not running")


def _kill_stub(deployment: ServedDeployment, server: str) -> None:
    stub = next(iter(stubs_of(pid_of(deployment, server)).values()))
    os.kill(stub.pid, signal.SIGKILL)


def _kill_server(deployment: ServedDeployment, server: str) -> None:
    os.kill(pid_of(deployment, server), signal.SIGKILL)


def _stop_a_while(deployment: ServedDeployment, server: str) -> None:
    pid = pid_of(deployment, server)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(_STOP_S)
    os.kill(pid, signal.SIGCONT)


def _kill_dispatcher(deployment: ServedDeployment) -> None:
    entry: ModelEntry = deployment.manifest.models[0]
    stub = stubs_of(pid_of(deployment, deployment.manifest.entry.name))[entry.dispatcher]
    os.kill(stub.pid, signal.SIGKILL)


def _vanish(deployment: ServedDeployment) -> None:
    """A client with many requests under way that goes without a word."""
    manifest = deployment.manifest
    entry = manifest.models[0]
    channel = grpc.insecure_channel(manifest.entry.grpc_address)
    call: Any = channel.unary_unary(kserve.INFER_METHOD)
    request = kserve.request_bytes(
        kserve.request_head(entry.dispatcher, (entry.input,), 1), b"", [[bytes(entry.input.bytes_per_frame)]]
    )
    for _ in range(20):
        call.future(request)
    time.sleep(0.02)
    channel.close()


def _serving(deployment: ServedDeployment, server: str) -> None:
    """Until the server was restarted and answers."""
    _until(lambda: _state(deployment, server) is not ServerState.SERVING, patience_s=10.0)
    _until(lambda: _state(deployment, server) is ServerState.SERVING)


def _stage_back(deployment: ServedDeployment, server: str) -> None:
    """Until each of the server's workers answers a probe."""
    manifest = deployment.manifest
    targets = targets_of(manifest, manifest.models[0], manifest.entry.host)
    transport = GrpcTransport(targets, Keys.none(), manifest.tls)

    def answers(worker: str) -> bool:
        try:
            transport.probe(worker, timeout_s=2.0)
        except HopFailure:
            return False
        return True

    time.sleep(0.2)
    try:
        _until(lambda: all(answers(worker) for worker in manifest.server(server).models))
    finally:
        transport.close()


def _state(deployment: ServedDeployment, server: str) -> ServerState:
    return next(status.state for status in deployment.statuses if status.name == server)


def _until(condition: Callable[[], bool], patience_s: float = _PATIENCE_S) -> None:
    end_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end_s:
            raise RuntimeError(f"what was broken did not come back within {patience_s:.0f} s")
        threading.Event().wait(0.05)
