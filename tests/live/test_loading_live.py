"""Models that come and go on a server that polls: loaded and unloaded under its supervision, and again after
the server was started anew.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.manifest import DeploymentManifest
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.probe import ModelProber, ProbeVerdict
from ppipe.serving.processes import stubs_of
from ppipe.serving.supervisor import ServerState, ServerStatus
from tests.live.handmade import free_ports, write_deployment, write_model
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.unhurried]
SERVER = "slow-0"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedDeployment]:
    write_deployment(tmp_path, free_ports(9))
    write_model(tmp_path / "groups" / "slow", "double.w7")
    with ServedDeployment(tmp_path, tmp_path / "logs") as deployment:
        deployment.start()
        yield deployment


def status_of(served: ServedDeployment, name: str) -> ServerStatus:
    return next(status for status in served.statuses if status.name == name)


def answers(manifest: DeploymentManifest, model: str) -> bool:
    with ModelProber(manifest.server(SERVER).grpc_address) as prober:
        return prober.ask(model, timeout_s=5.0).verdict is ProbeVerdict.ANSWERS


def stubs(served: ServedDeployment) -> set[str]:
    pid = status_of(served, SERVER).pid
    return set() if pid is None else set(stubs_of(pid))


def test_models_come_and_go_and_their_server_stays(served: ServedDeployment) -> None:
    pid = status_of(served, SERVER).pid
    served.load(SERVER, "double.w7")
    wait_for(lambda: answers(served.manifest, "double.w7"))
    wait_for(lambda: status_of(served, SERVER).models == 2)
    served.unload(SERVER, "double.w0")
    wait_for(lambda: stubs(served) == {"double.w7"})
    wait_for(lambda: status_of(served, SERVER).models == 1)
    assert not answers(served.manifest, "double.w0")

    # A stub that came later is looked after as the first ones are: its end is noticed, and made good.
    assert pid is not None
    os.kill(stubs_of(pid)["double.w7"].pid, signal.SIGKILL)
    wait_for(lambda: status_of(served, SERVER).detail.endswith("was loaded again"))
    assert answers(served.manifest, "double.w7")
    status = status_of(served, SERVER)
    assert (status.pid, status.restarts, status.fault) == (pid, 0, "")

    # Started anew, the server has what it had, not what it began with. Held, it stays away.
    served.hold(SERVER)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: status_of(served, SERVER).state is ServerState.WAITING)
    served.unload(SERVER, "no such model")
    assert status_of(served, SERVER).state is ServerState.WAITING
    served.release(SERVER)
    wait_for(lambda: status_of(served, SERVER).state is ServerState.SERVING)
    assert stubs(served) == {"double.w7"}
