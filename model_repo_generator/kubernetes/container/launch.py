"""Starts the tritonserver of this container: which one, servers.json says by this container's name.

Rules
- Standard library only: this runs in whatever Python the image has.
- It becomes the server (exec), so that the server gets the signals and its exit status is the container's.
- The server polls a folder that is made here and that only this container's user can write: nobody can load a
  model over the network. A process beside the server (tend) watches its models' Python processes
  and has a model loaded again whose process has died; another (closer.py) keeps its shared memory to
  this user. Where there is an operator, a fourth (agent.py) loads and unloads what that asks for.
- It refuses an image with an older Triton than is recommended, unless the options say that it may be.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAME_VARIABLE = "PPIPE_SERVER"
"""Which entry of servers.json this container is."""
ADDRESS_VARIABLE = "PPIPE_POD_IP"
"""This container's address; where it is given, the server's host must mean it before the server starts."""
TRITON_VARIABLE = "TRITON_SERVER_VERSION"
"""Set by NVIDIA's images."""
ANYWHERE_IPV6 = {"--http-address": "ipv6:[::]", "--grpc-address": "[::]", "--metrics-address": "ipv6:[::]"}
NAME_TIMEOUT_S = 180.0
COPIED_BYTES = 1 << 20
BYTECODE = "__pycache__"
_APIS = "model-repository,shared-memory,trace,logging"
CLOSED = (
    f"--http-restricted-api={_APIS}:ppipe-closed=no\nbody",
    f"--grpc-restricted-protocol={_APIS}:Sent By Nobody=-",
)
"""Headers that no message can carry: see model_repo_generator/control.py."""
NAMED_CALLERS = (
    "--http-header-forward-pattern=^ppipe-caller$",
    "--grpc-header-forward-pattern=^ppipe-caller$",
)
MANIFEST = "deployment.json"
TEND_S = 0.5
TEND_PATIENCE_S = 30.0
MPS_FOLDER = Path("/tmp/ppipe-mps")
SHM = Path("/dev/shm")


Put = tuple[int, int]
"""Which folder a model has: inode, and when it was put there, in nanoseconds."""
Seen = dict[int, Put]
"""A model's processes, and what folder it had when each was first seen."""


class LaunchFault(Exception):
    """Why the server is not started."""


def main() -> None:
    """Become the server. Exits with status 1 and one line where that cannot be."""
    try:
        server = find_server(Path(__file__).with_name("servers.json"), os.environ.get(NAME_VARIABLE, ""))
        warning = check_release(server, os.environ.get(TRITON_VARIABLE, ""))
        if warning:
            print(f"ppipe: warning: {warning}", file=sys.stderr)
        wait_for_name(server["host"], os.environ.get(ADDRESS_VARIABLE, ""), NAME_TIMEOUT_S)
        os.umask(0o077)  # what the server makes in shared memory is nobody else's to read
        sweep(SHM, server["shm_prefix"])
        folder = Path(server["folder"])
        root = Path(server["root"])
        models = models_of(root / MANIFEST, server["server"]) if server["fleet"] else server["models"]
        made = make_models(folder, root, server["repository"], models)
        environment = dict(os.environ)
        if server["revisions"]:
            environment["PPIPE_REVISIONS"] = server["revisions"]
            make_revisions(Path(server["revisions"]))
        if server["entry"]:
            environment["PPIPE_ENTRY"] = server["entry"]
        if server["leases"]:
            environment["PPIPE_LEASES"] = server["leases"]
        if server["mps"]:
            environment |= start_mps(MPS_FOLDER)
        command = server_command(server, os.environ.get(ADDRESS_VARIABLE, ""))
        start_closer(server["shm_prefix"])
        if os.fork() == 0:
            tend(os.getppid(), made, server)
        if server["fleet"] and os.fork() == 0:
            follow(os.getppid(), folder, made, server)
        os.execvpe(command[0], command, environment)
    except (LaunchFault, OSError) as error:
        sys.exit(f"ppipe: {error}")


def find_server(path: Path, name: str) -> Any:
    """The settings of server `name`. Raises LaunchFault."""
    servers = json.loads(path.read_text(encoding="utf-8"))["servers"]
    if name not in servers:
        raise LaunchFault(f"{NAME_VARIABLE} is {name!r}; {path} has {', '.join(servers)}")
    return servers[name]


def check_release(server: Any, found: str) -> str:
    """What is to be said of this image's Triton, '' where that is nothing. Raises LaunchFault where it is
    older than recommended and nobody said that it may be.
    """
    version, container = server["oldest_triton"]
    found = found or server["triton"]
    if not found or _numbers(found) >= _numbers(version):
        return ""
    said = (
        f"Triton {found} has holes that strangers can use; {version} (container {container}) or later is "
        "recommended"
    )
    if server["old_triton"]:
        return said
    raise LaunchFault(f"{said}; 'old_triton: true' among the options starts it all the same")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


def wait_for_name(host: str, address: str, timeout_s: float) -> None:
    """Return when `host` resolves to `address`: the dispatcher listens on that name. Raises LaunchFault."""
    deadline = time.monotonic() + timeout_s
    found: set[str] = set()
    while address:
        try:
            found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
        except OSError:
            found = set()
        if address in found:
            return
        if time.monotonic() > deadline:
            raise LaunchFault(
                f"{host!r} is {', '.join(sorted(found)) or 'unknown'} after {timeout_s:.0f} s, not this "
                f"pod's {address}: is the Service of that name there, and does it select this pod?"
            )
        time.sleep(1.0)


def sweep(folder: Path, prefix: str) -> None:
    """Remove what this server's last life left in shared memory, which outlives containers."""
    for path in folder.iterdir() if prefix else ():
        if path.name.startswith(prefix) and path.is_file():
            path.unlink(missing_ok=True)


def start_closer(prefix: str) -> None:
    """Beside the server, until its end: what it makes in shared memory keeps to this user."""
    if prefix and os.fork() == 0:
        os.execv(sys.executable, [sys.executable, str(Path(__file__).with_name("closer.py")), prefix])


def start_mps(folder: Path) -> dict[str, str]:
    """Start MPS for this container's GPUs and return the variables that lead its clients there."""
    paths = {"CUDA_MPS_PIPE_DIRECTORY": folder / "pipe", "CUDA_MPS_LOG_DIRECTORY": folder / "log"}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    variables = {name: str(path) for name, path in paths.items()}
    command = ["nvidia-cuda-mps-control", "-d"]
    try:
        ended = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchFault(f"slices of GPUs need MPS, but {' '.join(command)}: {error}") from error
    if ended.returncode:
        said = (ended.stdout + ended.stderr).decode(errors="replace").strip()
        raise LaunchFault(f"slices of GPUs need MPS, but {' '.join(command)} failed: {said}")
    return variables


def server_command(server: Any, address: str = "") -> list[str]:
    """tritonserver with its arguments, and what nobody may do over the network closed.

    It listens on all addresses of IPv4 by itself; a container whose `address` is of IPv6 has none.
    """
    command = ["tritonserver", *server["arguments"], *CLOSED, *NAMED_CALLERS]
    if ":" in address:
        for flag, anywhere in ANYWHERE_IPV6.items():
            if not any(argument.startswith(f"{flag}=") for argument in command):
                command.append(f"{flag}={anywhere}")
    return command


def models_of(manifest: Path, server: str) -> list[str]:
    """What a server is to begin with: the revision that was served last. Raises LaunchFault."""
    found = json.loads(manifest.read_text(encoding="utf-8"))
    more = [each["server"] for each in found.get("more_entries", ())]
    for each in (found["entry"], *more, *found["servers"]):
        if each["name"] == server:
            return list(each["models"])
    raise LaunchFault(f"{manifest} has no server {server!r}: it is of another deployment than servers.json")


def make_revisions(folder: Path) -> None:
    """Where the dispatchers are given tables; with the name of this run of the server, and no table yet."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    (folder / "run").write_text(secrets.token_hex(16))


def make_models(folder: Path, root: Path, repository: str, models: list[str]) -> Path:
    """A copy of the models' folders, as they are now, with what they find beside them: a repository that is
    generated anew changes nothing under a running server. Returns what the server is to poll. Raises
    LaunchFault.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    (folder / repository).mkdir(parents=True)
    for model in models:
        add_model(folder, root, repository, model)
    take_root(folder, root, repository)
    return folder / repository


def add_model(folder: Path, root: Path, repository: str, model: str) -> None:
    """Copy one, in a single step for a server that polls. Raises LaunchFault."""
    source = root / repository / model
    if not source.is_dir():
        raise LaunchFault(f"{source.parent} has no model {model!r}: it is of another plan than servers.json")
    take_root(folder, root, repository)
    away = folder / f".away.{os.getpid()}"
    shutil.rmtree(away, ignore_errors=True)
    away.mkdir()
    shutil.copytree(source, away / "new", copy_function=take, ignore=shutil.ignore_patterns(BYTECODE))
    for version in filter(Path.is_dir, (away / "new").iterdir()):
        # Bytecode left here would make the folder newer, and the model be loaded twice.
        (version / BYTECODE).touch()
    if (folder / repository / model).exists():
        os.rename(folder / repository / model, away / "old")
    os.rename(away / "new", folder / repository / model)
    shutil.rmtree(away)


def remove_model(folder: Path, repository: str, model: str) -> None:
    """In a single step, too; nothing where it is not there."""
    away = folder / f".away.{os.getpid()}"
    shutil.rmtree(away, ignore_errors=True)
    away.mkdir()
    if (folder / repository / model).exists():
        os.rename(folder / repository / model, away / "old")
    shutil.rmtree(away)


def take_root(folder: Path, root: Path, repository: str) -> None:
    """What models find beside their repository: files as they are now, links to all else."""
    for path in root.iterdir():
        if path.is_file():
            beside = folder / f".{path.name}.{os.getpid()}"
            shutil.copyfile(path, beside)
            os.replace(beside, folder / path.name)
        elif path.name != Path(repository).parts[0] and not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path)


def take(source: str, made: str) -> None:
    """A copy of what is small, a link to what is not."""
    if os.stat(source).st_size <= COPIED_BYTES:
        shutil.copyfile(source, made)
    else:
        os.symlink(os.path.realpath(source), made)


class PolledModels:
    """The models of this container's server, for its agent: as ppipe.serving.server_models.ServerModels."""

    def __init__(self, server_pid: int, folder: Path, root: Path, repository: str) -> None:
        self._pid = server_pid
        self._folder = folder
        self._root = root
        self._repository = repository

    def models(self) -> set[str]:
        return {path.name for path in (self._folder / self._repository).iterdir()}

    def processes(self) -> set[str]:
        return set(stubs_of(self._pid))

    def add(self, names: list[str]) -> None:
        for name in names:
            add_model(self._folder, self._root, self._repository, name)

    def remove(self, names: list[str]) -> None:
        for name in names:
            remove_model(self._folder, self._repository, name)

    def mark(self) -> int:
        return 0

    def said(self, since: int) -> list[str]:
        return []  # the server's log is the container's


def follow(server_pid: int, folder: Path, made: Path, server: Any) -> None:
    """Do what the operator asks, until the server ends. Never returns."""
    sys.path.insert(0, str(Path(__file__).parent))
    agent: Any = __import__("agent")
    models = PolledModels(server_pid, folder, Path(server["root"]), server["repository"])
    revisions = Path(server["revisions"]) if server["revisions"] else None
    others = [(host, port) for host, port in server["others"]] if revisions else []
    joins = agent.others_serve(Path(server["fleet"]), server["group"], others)
    while os.getppid() == server_pid:
        try:
            fleet, name, group = Path(server["fleet"]), server["server"], server["group"]
            doing = agent.Agent(fleet, name, models, group, revisions, joins)
            doing.follow(lambda: os.getppid() != server_pid)
        except OSError as error:
            print(f"ppipe: {server['fleet']}: {error}", file=sys.stderr)
            time.sleep(TEND_PATIENCE_S)
    os._exit(0)


def tend(server_pid: int, folder: Path, server: Any) -> None:
    """Have models loaded again whose Python process has died, until the server ends. Never returns. A
    dispatcher that has died ends its server instead, by its probes.
    """
    seen: dict[str, Seen] = {}
    asked: dict[str, float] = {}
    while os.getppid() == server_pid:
        found = stubs_of(server_pid)
        there = {path.name for path in folder.iterdir()} if server["fleet"] else set(server["revives"])
        puts = {model: put_of(folder / model) for model in there}
        for model in sorted(there - set(server["public"])):
            now = time.monotonic()
            died = model not in found and puts[model] in seen.get(model, {}).values()
            if died and now >= asked.get(model, -TEND_PATIENCE_S) + TEND_PATIENCE_S:
                print(f"ppipe: the Python process of model {model!r} died: loading it again", file=sys.stderr)
                load_again(folder / model)
                asked[model] = now
            elif model in found:
                asked.pop(model, None)
        seen = {model: seen_now(seen.get(model, {}), found.get(model, set()), puts[model]) for model in there}
        time.sleep(TEND_S)
    os._exit(0)


def seen_now(before: Seen, alive: set[int], put: Put) -> Seen:
    """Of one model. What was unloaded and is there again has not died: its processes were of the folder that
    was there before. They are remembered until there are others.
    """
    return {pid: before.get(pid, put) for pid in alive} or before


def put_of(folder: Path) -> Put:
    """Which folder a model has now: each is put there in one step."""
    try:
        status = folder.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_ctime_ns


def stubs_of(server_pid: int) -> dict[str, set[int]]:
    """The models whose Python process is a living child of the server, and these processes."""
    found: dict[str, set[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes().split(b"\0") if parent == server_pid else []
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile
        if len(words) > 1 and words[0].endswith(b"triton_python_backend_stub"):
            # <stub> <folder>/<model>/<version>/model.py ...
            model = Path(os.fsdecode(words[1])).parent.parent.name
            found.setdefault(model, set()).add(int(path.name))
    return found


def load_again(folder: Path) -> None:
    """A version's folder that is newer than before is loaded anew. A clock that was put back makes nothing
    new by itself.
    """
    for version in folder.iterdir():
        if version.is_dir():
            newest_ns = max(path.stat().st_mtime_ns for path in (version, *version.rglob("*")))
            at_ns = max(time.time_ns(), newest_ns + 1)
            os.utime(version, ns=(at_ns, at_ns))


if __name__ == "__main__":
    main()
