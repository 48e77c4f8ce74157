"""launch.py and probe.py: what they ask, wait for and refuse, without a server."""

import ast
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from model_repo_generator.control import NAMED_CALLERS, closed_apis
from model_repo_generator.kubernetes.container import launch, probe
from model_repo_generator.kubernetes.launch import LAUNCH_FILES
from planner.profile import DTYPE_BYTES
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import decode

CONTAINER = Path(launch.__file__).parent


@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_scripts_need_the_standard_library_only(name: str) -> None:
    tree = ast.parse((CONTAINER / name).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in imported} <= set(sys.stdlib_module_names)


def test_the_probe_ticket_is_one_that_stages_accept() -> None:
    assert decode(probe.TICKET, Keys.none(), received_us=0).is_probe


def test_both_tables_of_sizes_say_the_same() -> None:
    assert dict(DTYPE_BYTES) == probe.DTYPE_BYTES


# launch.py


def test_an_older_triton_than_recommended_is_refused_unless_it_may_be() -> None:
    server = {"triton": "", "oldest_triton": ["2.71", "26.07"], "old_triton": False}
    for found in ("2.71.0", "2.100", "3.0.1", ""):
        assert launch.check_release(server, found) == ""
    with pytest.raises(launch.LaunchFault, match=r"2\.51\.0 has holes.*2\.71 .*26\.07.*old_triton"):
        launch.check_release(server, "2.51.0")
    with pytest.raises(launch.LaunchFault, match="has holes"):
        launch.check_release(server | {"triton": "2.9"}, "")
    assert "2.51.0 has holes" in launch.check_release(server | {"old_triton": True}, "2.51.0")


def test_a_container_without_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_text('{"servers": {"a-0": {}}}')
    with pytest.raises(launch.LaunchFault, match=r"PPIPE_SERVER is 'b-0'; .* has a-0"):
        launch.find_server(path, "b-0")


def test_a_name_must_mean_this_pod() -> None:
    launch.wait_for_name("localhost", "127.0.0.1", timeout_s=0)
    launch.wait_for_name("any.invalid", "", timeout_s=0)
    with pytest.raises(launch.LaunchFault, match=r"'localhost' is .*not this pod's 10\.1\.2\.3"):
        launch.wait_for_name("localhost", "10.1.2.3", timeout_s=0)


def test_a_server_listens_on_all_addresses_of_its_pod() -> None:
    plain = {"arguments": ["--x=1"]}
    assert (closed_apis(), NAMED_CALLERS) == (launch.CLOSED, launch.NAMED_CALLERS)
    command = ["tritonserver", "--x=1", *launch.CLOSED, *launch.NAMED_CALLERS]
    assert launch.server_command(plain) == command
    bound = launch.server_command({**plain, "arguments": ["--http-address=127.0.0.1"]}, "fd00::7")
    assert bound[1] == "--http-address=127.0.0.1"
    assert bound[len(command) :] == ["--grpc-address=[::]", "--metrics-address=ipv6:[::]"]
    assert launch.server_command(plain, "10.0.0.7") == command


def test_the_server_polls_a_copy_that_is_its_users_alone(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    for model in ("a", "b", "of another server"):
        (root / "groups" / "g" / model / "1").mkdir(parents=True)
        (root / "groups" / "g" / model / "1" / "model.py").write_text(model)
    (root / "programs").mkdir()
    (root / "deployment.json").write_text("{}")
    for _ in range(2):  # a container that starts again finds its last life's
        folder = launch.make_models(tmp_path / "models", root, "groups/g", ["a", "b"])
        assert folder == tmp_path / "models" / "groups" / "g"
        assert {path.name for path in folder.iterdir()} == {"a", "b"}
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o700
    assert (folder / "a" / "../../../deployment.json").resolve() == tmp_path / "models" / "deployment.json"
    assert (tmp_path / "models" / "programs").resolve() == root / "programs"
    for ahead_s in (0, 3600):  # the clock may have been put back since
        for path in (folder / "a").rglob("*"):
            os.utime(path, ns=(0, time.time_ns() + ahead_s * 10**9))
        before = [(each / "1").stat().st_mtime_ns for each in (folder / "a", folder / "b")]
        launch.load_again(folder / "a")
        after = [(each / "1").stat().st_mtime_ns for each in (folder / "a", folder / "b")]
        assert (after[0] > before[0], after[1] == before[1]) == (True, True)
    with pytest.raises(launch.LaunchFault, match="no model 'c'"):
        launch.make_models(tmp_path / "models", root, "groups/g", ["c"])


def test_only_the_own_prefix_is_swept(tmp_path: Path) -> None:
    for name in ("ppipe-a_1", "ppipe-a_2", "ppipe-ab_1", "other"):
        (tmp_path / name).touch()
    launch.sweep(tmp_path, "ppipe-a_")
    assert {path.name for path in tmp_path.iterdir()} == {"ppipe-ab_1", "other"}
    launch.sweep(tmp_path, "")
    assert len(list(tmp_path.iterdir())) == 2


def test_mps_that_does_not_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = tmp_path / "nvidia-cuda-mps-control"
    control.write_text('#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY" >> "$0.called"\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    variables = launch.start_mps(tmp_path / "mps")
    assert Path(f"{control}.called").read_text() == f"-d {tmp_path}/mps/pipe\n"
    assert variables["CUDA_MPS_LOG_DIRECTORY"] == f"{tmp_path}/mps/log"
    control.write_text("#!/bin/sh\necho no driver >&2; exit 3\n")
    with pytest.raises(launch.LaunchFault, match=r"slices of GPUs need MPS.*no driver"):
        launch.start_mps(tmp_path / "mps")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(launch.LaunchFault, match="slices of GPUs need MPS"):
        launch.start_mps(tmp_path / "mps")


# probe.py


class FakeTriton(BaseHTTPRequestHandler):
    """One input [-1, 3] of FP32; answers as `answers` says and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, tuple[int, str]]] = {}
    asked: ClassVar[dict[str, tuple[Any, bytes]]] = {}

    def do_GET(self) -> None:
        datatype = "BYTES" if "jpeg" in self.path else "FP32"
        inputs = [{"name": "image", "datatype": datatype, "shape": [-1, 3]}]
        self.reply(200, json.dumps({"inputs": inputs}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        model = self.path.split("/")[3]
        self.asked[model] = (json.loads(body[:length]), body[length:])
        self.reply(*self.answers[model])

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeTriton)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stage_is_asked_with_a_probe_ticket(port: int) -> None:
    FakeTriton.answers["stage"] = (200, "{}")
    probe.probe("127.0.0.1", port, "stage", "stage")
    head, tensors = FakeTriton.asked["stage"]
    assert head["parameters"]["ppipe_ticket"] == '{"probe": true}'
    assert head["inputs"][0]["shape"] == [1, 3]
    assert tensors == bytes(12)


def test_encoded_images_are_real_ones(port: int) -> None:
    import io

    from PIL import Image

    FakeTriton.answers["jpeg"] = (200, "{}")
    probe.probe("127.0.0.1", port, "jpeg", "dispatcher")
    _, tensors = FakeTriton.asked["jpeg"]
    length = int.from_bytes(tensors[:4], "little")
    assert Image.open(io.BytesIO(tensors[4 : 4 + length])).size == (16, 16)


def test_a_dispatcher_is_asked_in_one_of_its_ways_in(port: int) -> None:
    FakeTriton.answers["dispatch"] = (200, "{}")
    for kind in ("dispatcher", "public"):
        probe.probe("127.0.0.1", port, "dispatch", kind)
        head, _ = FakeTriton.asked["dispatch"]
        assert len(head["inputs"]) == 1
        assert ("ppipe_ticket" in head["parameters"]) is (kind == "dispatcher")


@pytest.mark.parametrize("kind", ["stage", "dispatcher", "public"])
def test_a_dead_stub_is_a_fault(kind: str, port: int) -> None:
    FakeTriton.answers["dead"] = (500, '{"error": "Stub process \'dead\' is not healthy."}')
    with pytest.raises(probe.ProbeFault, match="500 Stub process 'dead' is not healthy"):
        probe.probe("127.0.0.1", port, "dead", kind)


def test_no_server_is_a_fault() -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        probe.probe("127.0.0.1", 1, "any", "stage")


def test_every_fault_is_told(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    FakeTriton.answers |= {"good": (200, "{}"), "bad": (500, '{"error": "broken"}'), "ill": (503, "")}
    server = {"probe_host": "127.0.0.1", "http_port": port, "fleet": ""}
    server |= {"probes": dict.fromkeys(("good", "bad", "ill"), "stage"), "public": {"good": "public"}}
    (tmp_path / "servers.json").write_text(json.dumps({"servers": {"a-0": server}}))
    monkeypatch.setattr(probe, "__file__", str(tmp_path / "probe.py"))
    monkeypatch.setattr(sys, "argv", ["probe.py"])
    monkeypatch.setenv("PPIPE_SERVER", "a-0")
    with pytest.raises(SystemExit) as end:
        probe.main()
    assert end.value.code == "bad: 500 broken\nill: 503 "
    assert capsys.readouterr().out == "good: answers\n"
    monkeypatch.setattr(sys, "argv", ["probe.py", "full"])
    probe.main()
    assert capsys.readouterr().out == "good: answers\n"


def tended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ticks: Sequence[tuple[Mapping[str, int], set[int]]]
) -> list[str]:
    """What is loaded again. ticks: the models that are there, by the number of times they were put there; and
    processes that live: 1 and 2 are a's, 11 and 12 b's.
    """
    left, again, puts = iter(ticks), list[str](), dict[str, int]()

    def stubs_of(server_pid: int) -> dict[str, set[int]]:
        there, found = next(left, ({}, set()))
        for name in ("a", "b"):
            if puts.get(name) != there.get(name) and (tmp_path / name).exists():
                (tmp_path / name).rename(tmp_path.parent / f"{name}{puts[name]}")
            if name in there:
                (tmp_path / name).mkdir(exist_ok=True)
        puts.clear()
        puts.update(there)
        if not there:
            monkeypatch.setattr(os, "getppid", lambda: 0)
        by_model = {"a": {pid for pid in found if pid < 10}, "b": {pid for pid in found if pid > 10}}
        return {model: pids for model, pids in by_model.items() if pids}

    def end(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "getppid", lambda: 7)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(launch, "stubs_of", stubs_of)
    monkeypatch.setattr(launch, "load_again", lambda folder: again.append(folder.name))
    monkeypatch.setattr(launch, "TEND_S", 0.0)
    with pytest.raises(SystemExit):
        launch.tend(7, tmp_path, {"fleet": "/fleet", "public": {}, "revives": {}})
    return again


def test_a_model_that_is_loaded_for_the_second_time_is_not_taken_for_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    ticks: list[tuple[Mapping[str, int], set[int]]] = [
        ({"a": 1, "b": 1}, {1, 11}),
        ({"a": 1}, {1, 11}),  # b's process is ending
        ({"a": 1}, {1}),
        ({"a": 1, "b": 2}, {1}),  # it is loading again
        ({"a": 1, "b": 2}, {1, 12}),
        ({"a": 1, "b": 2}, {12}),  # a died
    ]
    assert tended(folder, monkeypatch, ticks) == ["a"]


@pytest.mark.parametrize("ending", [False, True])
def test_nor_is_one_that_was_unloaded_and_loaded_between_two_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: bool
) -> None:
    """ending: the process of what was there before still lives at the first look."""
    folder = tmp_path / "models"
    folder.mkdir()
    ticks: list[tuple[Mapping[str, int], set[int]]] = [
        ({"a": 1, "b": 1}, {1, 11}),
        *([({"a": 1, "b": 2}, {1, 11})] if ending else []),
        ({"a": 1, "b": 2}, {1}),
        ({"a": 1, "b": 2}, {1, 12}),
        ({"a": 1, "b": 2}, {1}),  # now it died
    ]
    assert tended(folder, monkeypatch, ticks) == ["b"]
