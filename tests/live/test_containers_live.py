"""What the containers run, run for real: launch.py starts tritonservers, probe.py finds dead stubs."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_repo_generator.generate import generate, placed
from model_repo_generator.kubernetes import ComposeOptions, render_compose
from planner import serial
from planner.deployment import parse_deployment
from planner.manifest import DeploymentManifest
from planner.plan import ModelPlan, Pipeline, Plan
from planner.profile import Profile
from ppipe.serving.binaries import find_tritonserver
from tests.kubernetes.conftest import deployment_data, model_profile, stage
from tests.live.handmade import free_ports

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

START_S = 90
PREFIX = f"ppipe-test-{os.getpid()}-"


@dataclass(frozen=True)
class Containers:
    """Servers as their containers would run them; the launch folder is the one of a compose file."""

    folder: Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]
    servers: dict[str, Any]

    def run_probe(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.folder / "launch" / "probe.py"), *words]
        environment = self.environment | {"PPIPE_SERVER": name}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def kill_stub(self, name: str, model: str) -> None:
        """End one stub, a descendant of our own server `name`."""
        family = {self.processes[name].pid}
        for _ in range(3):
            family |= {pid for pid, parent, _ in processes() if parent in family}
        (stub,) = (pid for pid, _, words in processes() if pid in family and f"/{model}/1/" in words)
        os.kill(stub, signal.SIGKILL)


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent's pid, command line) of all that run."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_text().replace("\0", " ")


def local_deployment() -> dict[str, Any]:
    """One model on two emulated GPUs of one host."""
    data = deployment_data()
    data["cluster"] = {
        "base_port": min(free_ports(20)),
        "gpu_classes": [
            {"name": "fake", "executor": "emulated", "stated": {"gflop_per_s": 20, "gbyte_per_s": 2}}
        ],
        "groups": [{"gpu": "fake", "count": 1, "gpus_per_server": 2}],
    }
    data["models"] = data["models"][:1]
    return data


def write_files(folder: Path) -> dict[str, Any]:
    """Repository and compose files; servers.json with this test's paths and prefix. Its servers."""
    deployment = parse_deployment(local_deployment(), "test")
    profile = Profile(models=(model_profile("cars"),))
    split = Pipeline(
        stages=(stage(0, 1, "fake", 1, 1), stage(1, 2, "fake", 1, 1)),
        transfer_us=(50.0,),
        throughput_rps=900.0,
    )
    model = ModelPlan(model="cars", slo_us=100_000, slo_margin=0.4, pipelines=(split,), throughput_rps=900.0)
    plan = Plan(planner="hand", objective=1.0, upper_bound=1.0, gap=0.0, solver="none", models=(model,))
    plan = placed(plan, deployment, profile)
    manifest = generate(deployment, profile, plan, folder / "repository")
    options = ComposeOptions(image="none:1", shm_default_mib=4)
    files = render_compose(manifest, deployment, plan, options)
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text.replace("/tmp/ppipe-", "/tmp/").replace("ppipe-", PREFIX))
    return settle(folder)


def settle(folder: Path) -> dict[str, Any]:
    """The settings of servers that share this host's file system, which containers do not."""
    path = folder / "launch" / "servers.json"
    servers: dict[str, Any] = {}
    for name, server in json.loads(path.read_text())["servers"].items():
        own = str(folder / "models" / name)
        arguments = [word.replace(server["folder"], own) for word in server["arguments"]]
        servers[name] = server | {"root": str(folder / "repository"), "folder": own, "arguments": arguments}
    path.write_text(json.dumps({"servers": servers}))
    return servers


def install_wrapper(folder: Path) -> dict[str, str]:
    """`tritonserver` on PATH, as in an image. The environment with it."""
    install = find_tritonserver()
    wrapper = folder / "bin" / "tritonserver"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(install.command())} "$@"\n')
    wrapper.chmod(0o755)
    environment = os.environ | install.environment
    return {**environment, "PATH": f"{wrapper.parent}:{environment['PATH']}"}


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    folder = tmp_path_factory.mktemp("containers")
    servers = write_files(folder)
    environment = install_wrapper(folder)
    (folder / "keys").write_text("a key of these tests alone\n")
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in servers:
            with (folder / f"{name}.log").open("wb") as log:
                command = [sys.executable, str(folder / "launch" / "launch.py")]
                variables = environment | {"PPIPE_SERVER": name, "PPIPE_SHM_PREFIX": f"{PREFIX}{name}_"}
                variables |= {"PPIPE_TICKET_KEY_FILE": str(folder / "keys")}
                started[name] = subprocess.Popen(
                    command, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        yield Containers(folder=folder, environment=environment, processes=started, servers=servers)
    finally:
        for process in started.values():
            process.terminate()
        for process in started.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for left in Path("/dev/shm").glob(f"{PREFIX}*"):
            left.unlink(missing_ok=True)


def wait_well(containers: Containers, name: str) -> None:
    deadline = time.monotonic() + START_S
    while (ended := containers.run_probe(name)).returncode:
        log = containers.folder / f"{name}.log"
        if time.monotonic() > deadline or containers.processes[name].poll() is not None:
            raise AssertionError(f"{name}: {ended.stderr}\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.3)


def wait_shut() -> None:
    """Until nobody else may read the servers' shared memory, which Triton gives mode 0644."""
    deadline = time.monotonic() + START_S
    while True:
        modes = {path.name: path.stat().st_mode & 0o777 for path in Path("/dev/shm").glob(f"{PREFIX}*")}
        if modes and not any(mode & 0o077 for mode in modes.values()):
            return
        assert time.monotonic() < deadline, modes
        time.sleep(0.05)


def test_a_life_of_containers(containers: Containers) -> None:
    """In one test, because each step needs what the one before has left."""
    assert set(containers.servers) == {"entry", "fake-0"}
    for name in containers.servers:
        wait_well(containers, name)
    wait_shut()
    full = containers.run_probe("entry", "full")
    assert (full.returncode, full.stdout) == (0, "cars: answers\n"), full.stderr

    for path in ("v2/repository/models/cars/unload", "v2/repository/index"):
        url = f"http://127.0.0.1:{containers.servers['entry']['http_port']}/{path}"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url, data=b"", timeout=5)

    containers.kill_stub("entry", "cars")
    sick = containers.run_probe("entry")
    assert sick.returncode == 1
    assert sick.stderr.startswith("cars: ")
    assert "not healthy" in sick.stderr
    assert containers.run_probe("fake-0").returncode == 0, "a server must not suffer for another one"

    manifest = serial.load(DeploymentManifest, containers.folder / "repository" / "deployment.json")
    first, second = (worker.name for _, worker in manifest.models[0].served.workers())
    containers.kill_stub("fake-0", second)
    sick = containers.run_probe("fake-0")
    assert (sick.returncode, sick.stdout) == (1, f"{first}: answers\n")
    assert f"{second}: 500 " in sick.stderr
    wait_well(containers, "fake-0")
    assert f"'{second}' died: loading it again" in (containers.folder / "fake-0.log").read_text()


def test_a_stopped_container_ends_in_its_time(containers: Containers) -> None:
    """Even one with a dead stub, for which Triton waits until its own time is over."""
    compose = yaml.safe_load((containers.folder / "compose.yaml").read_text())
    grace_s = int(compose["services"]["fake-0"]["stop_grace_period"].removesuffix("s"))
    process = containers.processes["fake-0"]
    process.terminate()
    process.wait(timeout=grace_s)
