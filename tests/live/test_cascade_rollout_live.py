"""A cascade on real tritonservers while its plan changes under load: every frame is whole. And on streams,
whose answers come in the order of their frames.
"""

from __future__ import annotations

import io
import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from rich.console import Console
from tritonclient.utils import InferenceServerException

import ppipe.commands.status
from benchmarks.helpers.heal.fleet import HealFleet, make_fleet
from planner import serial
from planner.manifest import DeploymentManifest
from ppipe.cli import run
from ppipe.operate.replan import Truth, plan_now
from ppipe.rollout.deployed import start_of
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.live_metrics import read_cascades
from ppipe.serving.ports import free_base

pytestmark = pytest.mark.live
WAIT_S = 120.0
SLO_MS = 20_000
"""In which any host answers."""
STREAMS = 2
MANY, MANY_S = 9, 2.0


def some_frames(frame: Any, outputs: Mapping[str, Any]) -> Iterator[Any]:
    """As many as the frame's second number says; MANY take their time."""
    number, count = frame.given["frame"].reshape(-1).view(np.int64)[:2]
    if count == MANY:
        time.sleep(MANY_S)
    for row in range(count):
        yield row, frame_of(int(number) * 100 + row, 0)


def frame_of(number: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    frame = np.zeros(256, np.float32)
    frame.view(np.int64)[:2] = number, count
    return frame


@pytest.fixture(scope="module", params=[1, 2], ids=["an entry", "two entries"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HealFleet]:
    members = [
        {"model": "cars"},
        {"model": "faces", "of": "cars", "count": 2, "most": 9, "make": f"{__name__}:some_frames"},
    ]
    cascade = {"name": "seen", "slo_ms": SLO_MS, "models": members, "streams": {"order": "stream"}}
    base = free_base(23_000, 40)
    made = make_fleet(tmp_path_factory.mktemp("fleet"), base, cascade=cascade, entries=request.param)
    workspace = made.deployed.workspace
    with ServedDeployment(workspace.repository, workspace.logs) as served:
        served.start()
        yield made


class Frames:
    """Frames that are sent by calls of their own, as they are heard of: to all entries in turn, those of a
    stream to one of them.
    """

    def __init__(self, manifest: DeploymentManifest) -> None:
        self._manifest = manifest
        self._clients = [triton.InferenceServerClient(entry.grpc_address) for entry in manifest.entries]
        self.heard: queue.Queue[tuple[int, Any]] = queue.Queue()
        self.sent = 0

    def send(self, count: int, **parameters: Any) -> None:
        """One whose answer makes `count` others."""
        number, self.sent = self.sent, self.sent + 1
        tensor = triton.InferInput("frame", [1, 256], "FP32")
        tensor.set_data_from_numpy(frame_of(number, count)[np.newaxis])

        def hear(result: Any, error: InferenceServerException | None) -> None:
            self.heard.put((number, error if result is None else result))

        turn = int(parameters.get("ppipe_stream", f"s{number}").removeprefix("s"))
        client = self._clients[turn % len(self._clients)]
        client.async_infer("seen", [tensor], hear, parameters=parameters or None)

    def send_in_order(self, count: int, **parameters: Any) -> None:
        """The same, and wait until it is there: calls of their own may overtake one another."""
        before = self._arrived()
        self.send(count, **parameters)
        until_s = time.monotonic() + WAIT_S
        while self._arrived() == before:
            assert time.monotonic() < until_s
            time.sleep(0.02)

    def _arrived(self) -> float:
        looks = read_cascades(self._manifest, self._manifest.cascade("seen")).values()
        return sum(look.total("ppipe_cascade_frames_total") for look in looks)

    def answers(self) -> list[tuple[int, Any]]:
        """Of all that was sent, as they came."""
        found = [self.heard.get(timeout=WAIT_S) for _ in range(self.sent)]
        for client in self._clients:
            client.close()
        return found


def assert_whole(found: list[tuple[int, Any]], counts: list[int]) -> None:
    assert sorted(number for number, _ in found) == list(range(len(counts)))
    for number, answer in found:
        assert not isinstance(answer, InferenceServerException), answer
        assert not answer.as_numpy("partial").any(), answer.as_numpy("missing")
        assert answer.as_numpy("faces.answered").shape == (1, counts[number])


def by_us(fleet: HealFleet) -> float:
    """By when the first member must have answered, as the cascade's page says at each entry."""
    manifest = fleet.manifest
    looks = read_cascades(manifest, manifest.cascade("seen"))
    assert set(looks) == {entry.name for entry in manifest.entries}
    (part_us,) = {look.total("ppipe_cascade_part_us", model="cars") for look in looks.values()}
    return part_us


def rolled_out(fleet: HealFleet, *more: str) -> DeploymentManifest:
    """While frames come; all of them are whole. What is served then."""
    root = fleet.deployed.workspace.root
    frames = Frames(fleet.manifest)
    counts: list[int] = []

    def send() -> None:
        counts.append(len(counts) % 4)
        frames.send(counts[-1])

    process = subprocess.Popen(
        [sys.executable, "-m", "ppipe", "rollout", str(fleet.file), "--work", str(root), *more]
    )
    try:
        until_s = time.monotonic() + WAIT_S
        while process.poll() is None and time.monotonic() < until_s:
            send()
            time.sleep(0.1)
        assert process.wait(timeout=WAIT_S) == 0
        for _ in range(8):  # by the new plan
            send()
            time.sleep(0.05)
        assert_whole(frames.answers(), counts)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return start_of(fleet.deployed).manifest


def test_another_plan_reaches_the_cascade_and_no_frame_is_partial_for_it(
    fleet: HealFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(fleet.problem.options, slo_margin=0.1)
    narrow = replace(fleet.problem, options=options)
    # Of a member that takes other times than were profiled the SLO is divided anew.
    factors = {("cars", each.name): 1.05 for each in fleet.problem.cluster.gpu_classes}
    other = plan_now(narrow, Truth(out=frozenset({"slow-0"}), factors=factors), fleet.plan)
    before, after = (each.cascades[0].parts[0].slo_us for each in (fleet.plan, other))
    assert before != after
    assert by_us(fleet) == before
    file = fleet.deployed.workspace.root / "other.json"
    serial.save(other, file)
    assert rolled_out(fleet, "--plan", str(file)).plan_hash == serial.content_hash(other)
    assert by_us(fleet) == after
    assert rolled_out(fleet, "--to", "1").epoch == 1
    assert by_us(fleet) == before
    text = io.StringIO()
    monkeypatch.setattr(ppipe.commands.status, "out", Console(file=text, width=80))
    assert run(["status", str(fleet.file), "--work", str(fleet.deployed.workspace.root)]) == 0
    assert "complete/s" in text.getvalue()
    assert all(entry.name in text.getvalue() for entry in fleet.manifest.entries)
    assert max(map(len, text.getvalue().splitlines())) <= 80


def test_answers_of_a_stream_come_in_its_order_whatever_came_of_the_frames(fleet: HealFleet) -> None:
    frames = Frames(fleet.manifest)
    counts = [MANY, 0, 1, 0, 0]
    for place, count in enumerate(counts):
        frames.send_in_order(count, ppipe_stream=f"s{place % STREAMS}", ppipe_place=place)
    frames.send_in_order(0, ppipe_stream="s0", ppipe_place=2)
    found = frames.answers()
    (refused,) = [answer for number, answer in found if number == len(counts)]
    assert isinstance(refused, InferenceServerException)
    assert "place 2 of stream s0 is not after those that came before" in refused.message()
    whole = [(number, answer) for number, answer in found if number < len(counts)]
    assert_whole(whole, counts)
    for stream in range(STREAMS):
        numbers = [number for number, _ in whole if number % STREAMS == stream]
        assert numbers == sorted(numbers)
