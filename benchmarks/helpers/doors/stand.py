"""What the doors are tried on: a served deployment of emulated stages, and a front before it."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, write_deployment
from model_repo_generator.front import FrontOptions, render_front
from planner.frames import FrameSize
from planner.ingress import PrepareRecipe
from planner.manifest import DeploymentManifest, ModelEntry, ServerAddress
from planner.profile import TensorSpec
from ppipe.serving.launcher import TICKET_KEY, ServedDeployment
from ppipe.serving.ports import free_base
from ppipe.serving.processes import GuardedProcess, stubs_of
from python_backend.wire.signing.keys import Keys

SLO_US = 300_000
STAGE = "stage"
_SIZE = 64
_LATENCY_US = (8_000, 10_000, 12_000, 14_000)
CAPACITY_RPS = 4 / _LATENCY_US[-1] * 1e6
"""Of each of its two stages, one worker each."""


KNOWN = ("127.0.0.1",)
"""Where the good client calls from."""


class Way(Enum):
    """How clients come to the entry."""

    ENTRY = "entry"
    FRONT = "front"
    KNOWING_FRONT = "front that knows the good client"
    NOWHERE = "nginx that refuses all"


@dataclass(frozen=True)
class Stand:
    """See the module. front_http, front_grpc, knowing_grpc, nowhere_grpc: 0 where there is no nginx.
    knowing_grpc: of a front that knows the good client (KNOWN). nowhere_grpc: of an nginx that answers each
    request with 503, and asks nobody.
    """

    deployment: ServedDeployment
    root: Path
    front_http: int
    front_grpc: int
    knowing_grpc: int
    nowhere_grpc: int

    def address(self, way: Way) -> str:
        """For gRPC clients that come this way."""
        if way is Way.ENTRY:
            return self.manifest.entry.grpc_address
        ports = {
            Way.FRONT: self.front_grpc,
            Way.KNOWING_FRONT: self.knowing_grpc,
            Way.NOWHERE: self.nowhere_grpc,
        }
        return f"127.0.0.1:{ports[way]}"

    @property
    def manifest(self) -> DeploymentManifest:
        """Of the deployment."""
        return self.deployment.manifest

    @property
    def entry(self) -> ModelEntry:
        """The one model."""
        return self.manifest.models[0]

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """The entry and the stage server."""
        return (self.manifest.entry, *self.manifest.servers)

    @property
    def key_file(self) -> Path:
        """Of the run."""
        return self.root / "logs" / TICKET_KEY

    def keys(self) -> Keys:
        """The run's keys: what only its own processes have."""
        return Keys(self.key_file)

    def pid(self, server: str) -> int:
        """Of a tritonserver."""
        (pid,) = [each.pid for each in self.deployment.statuses if each.name == server]
        assert pid is not None
        return pid

    def metric(self, name: str) -> float:
        """One of the dispatcher's, by its name without the prefix."""
        url = f"http://{self.manifest.entry.host}:{self.entry.feedback_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        (value,) = [line.split()[-1] for line in lines if line.startswith(f"ppipe_{name}")]
        return float(value)

    def processes(self) -> dict[str, int]:
        """Every tritonserver and every Python process of a model, by name."""
        found = {}
        for server in self.servers:
            pid = self.pid(server.name)
            found[server.name] = pid
            found |= {model: stub.pid for model, stub in stubs_of(pid).items()}
        return found


@contextmanager
def stand(root: Path) -> Iterator[Stand]:
    """Serve it, with an nginx before it where there is one."""
    base_port = free_base(28_600, 25)
    manifest = write_deployment(root / "repository", [_model()], base_port, name="doors")
    with ServedDeployment(root / "repository", root / "logs") as deployment, ExitStack() as stack:
        deployment.start()
        nginx = find_nginx()
        if nginx is None:
            yield Stand(deployment, root, 0, 0, 0, 0)
            return
        http, grpc, knowing_http, knowing_grpc, nowhere = range(base_port + 20, base_port + 25)
        for options in (
            FrontOptions(http_port=http, grpc_port=grpc, folder=root / "front"),
            FrontOptions(
                http_port=knowing_http, grpc_port=knowing_grpc, folder=root / "knowing", known=KNOWN
            ),
        ):
            stack.enter_context(front(nginx, options.folder, render_front(manifest, options)))
        stack.enter_context(front(nginx, root / "nowhere", _refusing(root / "nowhere", nowhere)))
        yield Stand(deployment, root, http, grpc, knowing_grpc, nowhere)


def _refusing(folder: Path, port: int) -> str:
    """Where the part of a flood is measured that its own work takes."""
    return (
        f"worker_processes auto; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port} http2; "
        "http2_max_concurrent_streams 8192; return 503; } }\n"
    )


def find_nginx() -> Path | None:
    """Debian's nginx, if it is there."""
    return next((path for path in (Path("/usr/sbin/nginx"), Path("/usr/bin/nginx")) if path.exists()), None)


@contextmanager
def front(nginx: Path, folder: Path, config: str) -> Iterator[None]:
    """An nginx with this configuration, whose own files are in `folder`."""
    folder.mkdir()
    (folder / "nginx.conf").write_text(config)
    command = [str(nginx), "-c", str(folder / "nginx.conf"), "-g", "daemon off; user root;"]
    process = GuardedProcess.start(command, log=folder / "nginx.log")
    try:
        end_s = time.monotonic() + 60
        while not (folder / "nginx.pid").exists():
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError((folder / "nginx.log").read_text())
            time.sleep(0.05)
        yield
    finally:
        process.stop()


def check_front(nginx: Path, config: Path) -> str:
    """What nginx itself says of a configuration; '' where it takes it."""
    done = subprocess.run([nginx, "-t", "-q", "-c", config], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


def _model() -> EmulatedModel:
    stages = (
        EmulatedStage(_LATENCY_US, (STAGE,), (TensorSpec("cut", "FP32", (5_000,)),)),
        EmulatedStage(_LATENCY_US, (STAGE,), (TensorSpec("scores", "FP32", (10,)),)),
    )
    return EmulatedModel(
        name="tiny",
        slo_us=SLO_US,
        planned_rps=CAPACITY_RPS,
        input=TensorSpec("image", "FP32", (3, _SIZE, _SIZE)),
        pipelines=(EmulatedPipeline(4, stages, ((500,) * 4,)),),
        longest_timeout_us=None,
        prepare=PrepareRecipe(
            kind="jpeg",
            frame=TensorSpec("jpeg", "BYTES", (1,)),
            channels=3,
            height=_SIZE,
            width=_SIZE,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            planned=FrameSize(640, 480, 60_000),
        ),
    )
