"""Starting, watching and ending real tritonservers, with a hand-made deployment that needs no plan."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.manifest import DeploymentManifest
from ppipe.serving.guard import SHM, children_of
from ppipe.serving.launcher import ServedDeployment, ServeError
from ppipe.serving.ports import PortInUse
from ppipe.serving.probe import ModelProber, ProbeVerdict
from ppipe.serving.processes import stubs_of
from ppipe.serving.supervisor import ServerState, ServerStatus
from tests.live.handmade import free_ports, write_deployment
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

FAILING = "raise RuntimeError('no such weights')"
SERVE_FOREVER = """
import signal, sys, time
from pathlib import Path
from ppipe.serving.launcher import ServedDeployment
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits it ignored
with ServedDeployment(Path(sys.argv[1]), Path(sys.argv[1]) / "logs") as served:
    served.start()
    print("serving", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedDeployment]:
    write_deployment(tmp_path, free_ports(9))
    before = left_behind(os.getpid())
    with ServedDeployment(tmp_path, tmp_path / "logs") as deployment:
        deployment.start()
        yield deployment
    assert left_behind(os.getpid()) == before


def left_behind(owner: int) -> tuple[list[int], list[str]]:
    """Children of `owner`, and shared-memory files that carry its number.

    A test run has children of its own: Python's resource tracker, once a test before has spawned a process.
    """
    return children_of(owner), [path.name for path in SHM.glob(f"ppipe_{owner}_*")]


def status_of(served: ServedDeployment, name: str) -> ServerStatus:
    return next(status for status in served.statuses if status.name == name)


def asks(manifest: DeploymentManifest, server: str, model: str) -> ProbeVerdict:
    address = manifest.server(server)
    with ModelProber(f"{address.host}:{address.grpc_port}") as prober:
        return prober.ask(model, timeout_s=5.0).verdict


def test_every_model_answers_once_it_is_started(served: ServedDeployment) -> None:
    assert [(status.name, status.state) for status in served.statuses] == [
        ("slow-0", ServerState.SERVING),
        ("slow-1", ServerState.SERVING),
        ("entry", ServerState.SERVING),
    ]
    assert asks(served.manifest, "entry", "double") is ProbeVerdict.ANSWERS
    assert asks(served.manifest, "slow-1", "double.w1") is ProbeVerdict.ANSWERS
    assert asks(served.manifest, "slow-1", "double.w0") is ProbeVerdict.NOT_YET, (
        "a server has its own models alone"
    )


def test_dead_servers_and_dead_stubs_come_back(served: ServedDeployment) -> None:
    server, other = status_of(served, "slow-0").pid, status_of(served, "slow-1").pid
    assert server is not None
    assert other is not None
    os.kill(server, signal.SIGKILL)
    stub = stubs_of(other)["double.w1"].pid
    os.kill(stub, signal.SIGKILL)
    wait_for(lambda: status_of(served, "slow-0").restarts == 1)
    wait_for(lambda: "loaded again" in status_of(served, "slow-1").detail)
    served.wait_until_serving()
    assert asks(served.manifest, "slow-0", "double.w0") is ProbeVerdict.ANSWERS
    assert asks(served.manifest, "slow-1", "double.w1") is ProbeVerdict.ANSWERS
    assert status_of(served, "slow-1").pid == other, "one dead stub costs no restart of a stage server"
    assert stubs_of(other)["double.w1"].pid != stub


def test_a_stopped_stub_costs_its_model_a_moment_and_its_server_nothing(served: ServedDeployment) -> None:
    server = status_of(served, "slow-1").pid
    assert server is not None
    stub = stubs_of(server)["double.w1"].pid
    os.kill(stub, signal.SIGSTOP)
    wait_for(lambda: "loaded again" in status_of(served, "slow-1").detail)
    with contextlib.suppress(ProcessLookupError):
        os.kill(stub, signal.SIGCONT)  # what would have made tritonserver abort
    assert asks(served.manifest, "slow-1", "double.w1") is ProbeVerdict.ANSWERS
    assert status_of(served, "slow-1").pid == server
    assert status_of(served, "slow-1").restarts == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_one_who_serves(tmp_path: Path, number: signal.Signals) -> None:
    write_deployment(tmp_path, free_ports(9))
    command = [sys.executable, "-c", SERVE_FOREVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "serving\n"
        guards = children_of(owner.pid)
        below = [child for guard in guards for child in children_of(guard)]
        stubs = [stub for server in below for stub in children_of(server)]
        assert (len(guards), len(below), len(stubs)) == (3, 3, 3)
        owner.send_signal(number)
        owner.wait(timeout=20)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (*guards, *below, *stubs)), 60.0)
    assert left_behind(owner.pid)[1] == []


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    ports = free_ports(9)
    write_deployment(tmp_path, ports)
    fault = rf"server 'slow-0': grpc_port: port {ports[4]} on 127.0.0.1 is in use by process {os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", ports[4])),
        ServedDeployment(tmp_path, tmp_path / "logs") as deployment,
        pytest.raises(PortInUse, match=fault),
    ):
        deployment.start()
    assert not (tmp_path / "logs").exists()


def test_a_model_that_cannot_load_is_reported_with_its_reason(tmp_path: Path) -> None:
    write_deployment(tmp_path, free_ports(9), code=FAILING)
    before = left_behind(os.getpid())
    with (
        ServedDeployment(tmp_path, tmp_path / "logs") as deployment,
        pytest.raises(ServeError, match=r"(?s)server '(entry|slow-\d)'.*no such weights"),
    ):
        deployment.start()
    assert left_behind(os.getpid()) == before
