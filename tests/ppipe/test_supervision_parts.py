"""The parts of serving that need no process: back-off, command line, prefixes, reading a log."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from planner.manifest import DeploymentManifest, ServerAddress
from ppipe.serving.backoff import BackOff
from ppipe.serving.binaries import TritonInstall
from ppipe.serving.here import NotHere, hosts_here
from ppipe.serving.launcher import ServeError, shared_ticket_key
from ppipe.serving.polled_folder import NoSuchModel, PolledFolder
from ppipe.serving.processes import Endings
from ppipe.serving.server_command import (
    NotLocal,
    server_command,
    server_environment,
    shm_prefixes,
    started_servers,
    wanted_ports,
)
from ppipe.serving.server_life import ServerPlan, log_errors
from ppipe.serving.supervisor import ServerKeeper, ServerState

INSTALL = TritonInstall(Path("/opt/tritonserver"), None, {"A": "b"})
STAGE = ServerAddress(
    name="slow-0", group="slow", host="127.0.0.1", http_port=1, grpc_port=2, metrics_port=3,
    repository="groups/slow", models=("m.p0.s0.w0", "m.p0.s0.w1"),
)  # fmt: skip
ENTRY = replace(STAGE, name="entry", group="entry", repository="groups/entry", models=("m",))
MANIFEST = DeploymentManifest(deployment="d", epoch=1, plan_hash="", entry=ENTRY, servers=(STAGE,), models=())


def test_back_off_doubles_up_to_a_limit_and_forgets_after_a_healthy_run() -> None:
    back_off = BackOff(first_s=1, most_s=4, healthy_s=10)
    assert [back_off.after(0.0) for _ in range(4)] == [1, 2, 4, 4]
    assert [back_off.after(served_s) for served_s in (10.0, 9.9, 0.0)] == [0, 1, 2]


def test_ends_of_processes_are_told_once() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    ended = subprocess.Popen(["true"])
    ended.wait()
    endings = Endings()
    endings.watch("sleeper", sleeper.pid)
    endings.watch("ended before", ended.pid)
    assert endings.wait(5.0) == ["ended before"]
    assert endings.wait(0.0) == []
    sleeper.kill()
    assert endings.wait(5.0) == ["sleeper"]
    assert endings.wait(0.0) == []
    sleeper.wait()
    endings.close()


def test_a_server_loads_its_own_models_and_listens_where_the_manifest_says() -> None:
    command = server_command(INSTALL, Path("/models"), STAGE, "ppipe_1_x_0_", 1 << 20)
    assert command[0] == "/opt/tritonserver"
    assert "--model-repository=/models" in command
    for service in ("http", "grpc", "metrics"):
        assert f"--{service}-address=127.0.0.1" in command
    assert "--model-control-mode=poll" in command
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        (closed,) = [word for word in command if word.startswith(flag)]
        assert "model-repository,shared-memory,trace,logging:" in closed
        name, _, value = closed.rpartition(":")[2].partition("=")
        assert "\n" in value if "http" in flag else name != name.lower(), "no message has such a header"
    assert "--disable-auto-complete-config" in command
    assert server_environment(INSTALL, "ppipe_1_x_0_", Path("/k")) == {
        "A": "b",
        "PPIPE_SHM_PREFIX": "ppipe_1_x_0_",
        "PPIPE_TICKET_KEY_FILE": "/k",
    }


def test_no_prefix_starts_another() -> None:
    servers = [replace(STAGE, name=f"s{index}") for index in range(12)]
    prefixes = list(shm_prefixes(servers).values())
    assert all(a is b or not b.startswith(a) for a in prefixes for b in prefixes)
    assert set(prefixes).isdisjoint(shm_prefixes(servers).values()), "another run has other prefixes"


def test_servers_without_models_are_not_started() -> None:
    assert started_servers(MANIFEST) == (STAGE, ENTRY)
    assert started_servers(replace(MANIFEST, entry=replace(ENTRY, models=()))) == (STAGE,)
    assert len(wanted_ports(MANIFEST, started_servers(MANIFEST))) == 6


@pytest.mark.parametrize("host", ["10.0.0.7", "gpu-node-3"])
def test_a_server_elsewhere_cannot_be_started_here(host: str) -> None:
    with pytest.raises(NotLocal, match=f"server 'slow-0': host '{host}' is not this machine"):
        started_servers(replace(MANIFEST, servers=(replace(STAGE, host=host),)))


def test_one_host_of_several_starts_its_own_servers() -> None:
    fleet = replace(MANIFEST, servers=(STAGE, replace(STAGE, name="far-0", host="10.213.9.9")))
    assert started_servers(fleet, "10.213.9.9") == fleet.servers[1:]
    assert started_servers(fleet, "auto") == (STAGE, ENTRY), "loopback is ours, the other is nobody's"
    assert started_servers(fleet, "127.0.0.1") == (STAGE, ENTRY)
    assert all(use.host == "10.213.9.9" for use in wanted_ports(fleet, fleet.servers[1:]))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("node-7", "'node-7' is none of them"), ("auto", "none of them is this machine's")],
)
def test_a_host_without_servers_is_told_which_there_are(wanted: str, said: str) -> None:
    with pytest.raises(NotHere, match=f"servers are on 10.213.9.8, 10.213.9.9; {said}"):
        hosts_here(["10.213.9.9", "10.213.9.8"], wanted)


def test_hosts_share_a_key_that_somebody_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPIPE_TICKET_KEY_FILE", raising=False)
    with pytest.raises(ServeError, match="openssl rand -hex 32"):
        shared_ticket_key(None)
    with pytest.raises(ServeError, match="is no file"):
        shared_ticket_key(tmp_path / "none")
    (tmp_path / "key").write_text("0123456789abcdef\n")
    monkeypatch.setenv("PPIPE_TICKET_KEY_FILE", str(tmp_path / "key"))
    assert shared_ticket_key(None) == tmp_path / "key"


def test_the_error_lines_of_a_log_are_told_once() -> None:
    log = """I1122 16:31:00.100000 12 server.cc:674] loading
E1122 16:31:00.100001 12 cuda_driver.cc:1] "CudaDriverHelper has not been initialized."
E1122 16:31:00.200000 12 model_lifecycle.cc:642] "failed to load 'm' version 1: Internal: no such weights"
E1122 16:31:00.300000 12 model_lifecycle.cc:642] "failed to load 'm' version 1: Internal: no such weights"
error: creating server: Internal - failed to load all models
"""
    assert log_errors(log) == [
        "failed to load 'm' version 1: Internal: no such weights",
        "error: creating server: Internal - failed to load all models",
    ]


def test_a_server_is_given_a_copy_of_its_own_models_alone(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    for model in ("a", "b", "c"):
        (root / "groups" / "g" / model / "1").mkdir(parents=True)
        (root / "groups" / "g" / model / "1" / "model.py").write_text(model)
        (root / "groups" / "g" / model / "config.pbtxt").write_text("old")
    (root / "programs").mkdir()
    (root / "deployment.json").write_text("old")
    folder = PolledFolder(tmp_path / "models" / "s", root, "groups/g")
    folder.make(("a", "b"))
    assert folder.models() == {"a", "b"}
    assert (tmp_path / "models" / "s").stat().st_mode & 0o777 == 0o700
    assert (folder.path / "a" / "1" / "__pycache__").is_file(), "or the stub's bytecode makes it newer"
    found = folder.path / "a" / "../../../deployment.json"
    assert found.resolve().read_text() == "old"
    assert (found.resolve().parent / "programs").resolve() == root / "programs"
    for ahead_s in (0, 3600):  # the clock may have been put back since
        for anew in (folder.load_again, folder.add):
            for path in (folder.path / "a").rglob("*"):
                os.utime(path, ns=(0, time.time_ns() + ahead_s * 10**9))
            before = max(path.stat().st_mtime_ns for path in (folder.path / "a").rglob("*"))
            anew("a")
            assert folder.path.joinpath("a", "1").stat().st_mtime_ns > before

    (root / "deployment.json").write_text("new")
    (root / "groups" / "g" / "a" / "config.pbtxt").write_text("new")
    (root / "groups" / "g" / "a" / "2").mkdir()
    assert (folder.path / "a" / "config.pbtxt").read_text() == "old", "generating anew changes nothing here"
    folder.add("a")
    assert (folder.path / "a" / "2").is_dir()
    assert (folder.path / "a" / "config.pbtxt").read_text() == found.resolve().read_text() == "new"

    (root / "deployment.json").write_text("newest")
    folder.renew()
    assert found.resolve().read_text() == "newest"
    assert not list(found.resolve().parent.glob("deployment.json.*"))

    folder.remove("a")
    folder.add("c")
    assert folder.models() == {"b", "c"}
    with pytest.raises(NoSuchModel, match="no model 'd': generate"):
        folder.add("d")
    folder.make(("a",))
    assert folder.models() == {"a"}


@pytest.mark.parametrize(
    ("script", "lives", "said"),
    [
        pytest.param("exit 1", 1, "it ended with status 1", id="one that fails says why"),
        pytest.param("kill -KILL $$", 2, "it ended with status 137", id="one that a signal ends does not"),
        pytest.param("exec sleep 600", 2, "too late: it has not loaded its models", id="nor one that hangs"),
    ],
)
def test_a_server_is_started_once_more_where_its_log_cannot_say_why(
    tmp_path: Path, script: str, lives: int, said: str
) -> None:
    plan = ServerPlan(
        name="slow-0",
        address="127.0.0.1:1",
        models=("m",),
        command=("bash", "-c", f"echo a life; {script}"),
        environment=dict(os.environ),
        log=tmp_path / "slow-0.log",
        shm_prefix=f"ppipe_{os.getpid()}_never_",
        start_timeout_s=0.5,
    )
    keeper = ServerKeeper(plan, threading.Semaphore(), changed=lambda status: None)
    keeper.start()
    keeper.join(30.0)
    assert keeper.status.state is ServerState.FAILED
    assert said in keeper.status.detail
    assert plan.log.read_text().count("a life") == lives
