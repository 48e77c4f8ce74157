"""Two entries with a shard each on real tritonservers: one is killed under load, the other adopts its shard
and gives it back.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from planner.shards import Shard
from planner.streams import StreamPolicy
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.live_metrics import read
from tests.live.data_plane_client import PATIENT_US, Client, served, tag_of, two_stage_model
from tests.live.test_data_plane_faults import pid_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.slow]

SHARDS = (
    Shard(("entry-0", "entry-1"), 250.0, (((0,), (0,)),)),
    Shard(("entry-1", "entry-0"), 250.0, (((1,), (1,)),)),
)
PATIENCE_S = 120.0


def owned(deployment: ServedDeployment, entry: str) -> set[str]:
    """The shards that an entry's dispatcher owns, as its metrics say."""
    seen = deployment.manifest.seen_from(entry)
    try:
        look = read(seen, seen.models[0])
    except OSError:
        return set()
    return set(look.values("ppipe_shard_term", "shard"))


def passed_on(deployment: ServedDeployment, entry: str) -> float:
    """Frames that an entry's dispatcher has passed on so far."""
    seen = deployment.manifest.seen_from(entry)
    return read(seen, seen.models[0]).total("ppipe_passed_on_total")


@contextmanager
def patient_load(deployment: ServedDeployment, rps: float = 40.0) -> Iterator[Client]:
    """Frames to the first entry while the body runs, by callers who can wait, so that none is too late."""
    client, ended = Client(deployment.manifest), threading.Event()

    def send() -> None:
        while not ended.wait(1 / rps):
            client.send(timeout=PATIENT_US)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield client
    finally:
        ended.set()
        thread.join()
        unanswered = client.wait(PATIENCE_S)
        client.close()
    assert unanswered == 0


def test_an_entry_that_is_killed_is_stood_in_for(tmp_path: Path) -> None:
    with served(tmp_path, two_stage_model(slo_us=300_000), shards={"tiny": SHARDS}) as deployment:
        wait_for(lambda: owned(deployment, "entry-0") == {"0"} and owned(deployment, "entry-1") == {"1"})
        with patient_load(deployment) as client:
            time.sleep(0.5)
            os.kill(pid_of(deployment, "entry-1"), signal.SIGKILL)
            wait_for(lambda: owned(deployment, "entry-0") == {"0", "1"})
            wait_for(lambda: owned(deployment, "entry-1") == {"1"} and owned(deployment, "entry-0") == {"0"})
        assert client.errors == {}
        assert client.wrong == 0
        assert set(client.answers.values()) == {1}
        back = Client(deployment.manifest.seen_from("entry-1"))
        assert tag_of(back.infer(5, timeout=PATIENT_US)["scores"]) == 5
        back.close()


def test_a_camera_behind_a_load_balancer_has_its_order_and_its_newest_frame(tmp_path: Path) -> None:
    """Its frames go to both entries in turn, and yet one of them decides about all of them."""
    slow = two_stage_model(slo_us=1_000_000, streams=StreamPolicy(order="stream", keep="newest"))
    cameras = ("north", "east", "south", "west", "yard", "gate")
    with served(tmp_path, slow, shards={"tiny": SHARDS}) as deployment:
        wait_for(lambda: owned(deployment, "entry-0") == {"0"} and owned(deployment, "entry-1") == {"1"})
        entries = [Client(deployment.manifest.seen_from(name)) for name in ("entry-0", "entry-1")]
        for place in range(8):
            for number, camera in enumerate(cameras):
                given = {"ppipe_stream": camera, "ppipe_place": place}
                tag = 10 * place + number
                answer = entries[place % 2].infer(tag, timeout=PATIENT_US, parameters=given)
                assert tag_of(answer["scores"]) == tag
        # A place that the camera has been at already is known at either entry: both ask its home.
        for entry in entries:
            with pytest.raises(InferenceServerException, match="place 3 of stream 'north' is not after"):
                entry.infer(1, timeout=PATIENT_US, parameters={"ppipe_stream": "north", "ppipe_place": 3})
        passed = [passed_on(deployment, name) for name in ("entry-0", "entry-1")]
        assert sum(passed) >= 4 * len(cameras), "each camera has one home, and half of its frames come there"
        for entry in entries:
            entry.close()
