"""Hosts apart: each serves its own part, frames cross the network as they came, and hosts come and go."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ppipe.bench.frames import encode_jpeg, make_pictures
from ppipe.bench.target import public_request
from python_backend.stage.executors.emulated import frame_tag
from python_backend.wire.http.transport import LARGEST_BYTES
from tests.live.hosts import Host, HostsServed, Link, hosts, jpeg_model, require_hosts, serve_on_hosts
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

PICTURES = make_pictures(4, seed=3, width=640, height=480)

_LINKS = {"entry": Link(200), "a": Link(100), "b": Link(100)}


@dataclass(frozen=True)
class Hosts:
    """Three of them, and what they serve."""

    made: dict[str, Host]
    served: HostsServed

    def request(self, number: int) -> service_pb2.ModelInferRequest:
        request = public_request(self.served.manifest.models[0], PICTURES[number])
        request.model_name = "net"
        request.parameters["timeout"].int64_param = 2_000_000
        return request


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    require_hosts()
    root = tmp_path_factory.mktemp("hosts")
    with (
        hosts(_LINKS, ("entry", Link(1_000)), clocks_apart=True) as made,
        serve_on_hosts(root, [jpeg_model()], made) as served,
    ):
        yield Hosts(made, served)


def test_frames_cross_the_network_and_each_gets_its_own_answer(three: Hosts) -> None:
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = []
        for number in range(40):
            calls.append(stub.ModelInfer.future(three.request(number % 4), timeout=10))
            time.sleep(0.03)
        answers = [call.result() for call in calls]
    tags = [frame_tag(encode_jpeg(picture)) for picture in PICTURES]
    for number, answer in enumerate(answers):
        assert answer.raw_output_contents[0][:8] == tags[number % 4]


def test_what_leaves_the_entry_is_little_more_than_the_frames(three: Hosts) -> None:
    before = three.made["entry"].sent_bytes()
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for number in range(20):
            stub.ModelInfer(three.request(number % 4), timeout=10)
    sent = three.made["entry"].sent_bytes() - before
    frames = 5 * sum(len(encode_jpeg(picture)) for picture in PICTURES)
    assert frames < sent < 1.2 * frames, "as tensors they would be twenty times as large"


def test_large_frames_cross_the_network_from_where_they_lie(three: Hosts) -> None:
    """And so do cuts of two frames, as gRPC calls over sockets of the stages' own (wire.http2)."""
    noise = np.random.default_rng(7).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    tag = frame_tag(encode_jpeg(noise))
    assert len(encode_jpeg(noise)) > LARGEST_BYTES
    request = public_request(three.served.manifest.models[0], noise)
    request.model_name = "net"
    request.parameters["timeout"].int64_param = 2_000_000
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = [stub.ModelInfer.future(request, timeout=10) for _ in range(12)]
        answers = [call.result().raw_output_contents[0][:8] for call in calls]
    assert answers == [tag] * 12


def test_a_host_that_ends_is_done_without_and_is_back_when_it_is_started(three: Hosts) -> None:
    three.served.stop("a")
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = [stub.ModelInfer(three.request(number % 4), timeout=10) for number in range(10)]
    assert len(answers) == 10, "by the other host's worker"
    three.served.start(three.made["a"])
    wait_until_all_up(three)


def test_each_host_tells_of_the_others_and_of_other_keys(three: Hosts, tmp_path: Path) -> None:
    said = three.served.logs / "entry.out"
    wait_until_said(said, "all hosts answer")
    three.served.stop("a")
    address = three.made["a"].address
    wait_until_said(said, f"host {address} (a) does not answer")
    keys = tmp_path / "other.key"
    keys.write_text(f"{'0123456789abcdef' * 4}\n")
    three.served.start(three.made["a"], keys)
    wait_until_said(said, f"host {address} (a) has other ticket keys: its stages refuse this host's tickets")
    wait_until_said(three.served.logs / "a.out", f"host {three.made['b'].address} (b) has other ticket keys")
    three.served.stop("a")
    answers = f"host {address} (a) answers\n"
    before = said.read_text(encoding="utf-8").count(answers)
    three.served.start(three.made["a"])
    wait_until_said(said, answers, times=before + 1)


def test_a_host_that_the_network_cuts_off_is_done_without_until_it_is_back(three: Hosts) -> None:
    """For two seconds. Every frame ends, and each answer is its own frame's."""
    wait_until_all_up(three)
    with grpc.insecure_channel(three.served.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = []
        with three.made["a"].cut_off():
            for number in range(20):
                calls.append(stub.ModelInfer.future(three.request(number % 4), timeout=30))
                time.sleep(0.1)
        failures = [call.exception() for call in calls]
    answered = [number for number, failure in enumerate(failures) if failure is None]
    for number in answered:
        tag = frame_tag(encode_jpeg(PICTURES[number % 4]))
        assert calls[number].result().raw_output_contents[0][:8] == tag
    assert len(answered) >= 10, "what was on its way to the one is tried with the other"
    refused = [failure for failure in failures if failure is not None]
    assert {failure.code() for failure in refused} <= {grpc.StatusCode.UNAVAILABLE}
    wait_until_all_up(three)


def wait_until_all_up(three: Hosts) -> None:
    model = three.served.manifest.models[0]
    wait_for(lambda: three.served.metric(model, "worker_up") >= 3, found=three.served.said)


RUN_HERE = ("ppipe status", "ppipe units", "(umask 077; openssl")
RUN_ELSEWHERE = ("ppipe profile", "ppipe plan", "ppipe generate")
SERVED_HERE = "ppipe serve"
RUN_IN_A_COPY_OF_ETC = ("useradd", "chown", "cp units/")
COPIED_HERE = "rsync"
NEEDS_MACHINES = ("systemctl", "journalctl")
"""systemd."""


def test_the_commands_of_the_page_run_on_these_hosts(three: Hosts, tmp_path: Path) -> None:
    """As on the page but for the repository's path; what serves here was started by the page's command."""
    page = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert [line for line in lines if line.startswith(RUN_HERE)]
    wait_until_all_up(three)
    program = Path(sys.executable).with_name("ppipe")
    for line in lines:
        if line.startswith(RUN_HERE):
            text = line.replace(".ppipe/street/repository", str(three.served.repository))
            command = three.made["b"].command(["bash", "-euc", text.replace("ppipe ", f"{program} ", 1)])
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        else:
            known = (*RUN_ELSEWHERE, *RUN_IN_A_COPY_OF_ETC, *NEEDS_MACHINES, COPIED_HERE, SERVED_HERE)
            assert line.startswith(known), f"nobody tries: {line}"
    assert len(list(tmp_path.glob("units/*/*.service"))) == 3
    install = [line for line in lines if line.startswith(RUN_IN_A_COPY_OF_ETC)]
    installed = run_in_a_copy_of_etc(three.made["b"], install, tmp_path)
    assert installed == ["root:ppipe 640 street.keys", "ppipe-emulated.service"]


def test_the_pages_copies_arrive_on_a_bare_host(tmp_path: Path) -> None:
    """What stands for ssh runs the other end here, below a folder that stands for its root."""
    if shutil.which("rsync") is None:
        pytest.skip("no rsync here")
    page = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(COPIED_HERE)]
    assert len(lines) == 2
    repository, key, there = (
        tmp_path / ".ppipe/street/repository",
        tmp_path / "ticket.key",
        tmp_path / "there",
    )
    repository.mkdir(parents=True)
    (repository / "deployment.json").write_text("{}")
    key.write_text("key")
    key.chmod(0o600)
    there.mkdir()
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    shell.chmod(0o755)
    for line in lines:
        command = line.replace("10.0.0.2:/", f"10.0.0.2:{there}/")
        environment = {**os.environ, "RSYNC_RSH": str(shell)}
        subprocess.run(["bash", "-euc", command], cwd=tmp_path, env=environment, check=True)
    assert (there / "srv/ppipe/street/repository/deployment.json").read_text() == "{}"
    copied = there / "etc/ppipe/street.keys"
    assert (copied.read_text(), oct(copied.stat().st_mode & 0o777)) == ("key", "0o600")


def run_in_a_copy_of_etc(host: Host, lines: list[str], folder: Path) -> list[str]:
    """The page's commands for a host's user, key and unit, where /etc is a copy. What is there then."""
    unit = f"units/{host.address}/ppipe-emulated.service"
    script = [
        "mount --make-rprivate /",
        f"cp -a /etc {folder}/etc",
        f"mount --bind {folder}/etc /etc",
        "mkdir -p /etc/ppipe /etc/systemd/system",
        f"cp {folder}/ticket.key /etc/ppipe/street.keys",
        *(re.sub(r"units/\S+", unit, line) for line in lines),
        "stat -c '%U:%G %a %n' /etc/ppipe/street.keys",
        "ls /etc/systemd/system/ppipe-emulated.service",
    ]
    command = host.command(["unshare", "--mount", "bash", "-euc", "\n".join(script)])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [re.sub(r"/\S*/", "", line) for line in done.stdout.splitlines()[-2:]]


def wait_until_said(said: Path, line: str, times: int = 1) -> None:
    """Until a host has said so, so many times."""

    def text() -> str:
        return said.read_text(encoding="utf-8")

    wait_for(lambda: text().count(line) >= times, found=lambda: text()[-2_000:])


def test_a_host_that_has_no_part_is_told_so(three: Hosts, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ppipe", "serve", str(three.served.repository), "--host", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "none of them is this machine's" in done.stderr.replace("\n", " ")
