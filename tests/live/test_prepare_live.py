"""Clients' frames on real servers: prepared by the server's pool, whose processes may die; bad ones alone at
fault.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from python_backend.stage.executors.emulated import frame_tag
from tests.ensembles.recipes import recipe
from tests.live.data_plane_client import served

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

LATENCY_US = (2_000, 2_500, 3_000, 3_500, 4_000, 4_500, 5_000, 5_500)
SCORES = (TensorSpec("scores", "FP32", (16,)),)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDeployment]:
    """Two workers of a first and only stage on one server."""
    stage = EmulatedStage(LATENCY_US, ("a", "a"), SCORES)
    model = EmulatedModel(
        name="net",
        slo_us=5_000_000,
        planned_rps=100.0,
        input=TensorSpec("image", "FP32", (3, 64, 64)),
        pipelines=(EmulatedPipeline(8, (stage,)),),
        prepare=recipe((3, 64, 64), frame={"width": 320, "height": 240, "bytes": 40_000}),
    )
    with served(tmp_path_factory.mktemp("prepare"), model) as deployment:
        yield deployment


def picture(number: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def lying() -> bytes:
    """Its header swaps the sides, with a right checksum."""
    data = bytearray(picture(1, "PNG"))
    data[16:24] = struct.pack(">II", 240, 320)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def answers(deployment: ServedDeployment, frames: Sequence[bytes]) -> list[bytes | str]:
    """Of frames sent at once: the tag, or what was wrong."""
    address = deployment.manifest.entry.grpc_address

    with triton.InferenceServerClient(address) as client:

        def ask(data: bytes) -> bytes | str:
            tensor = triton.InferInput("jpeg", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[data]], dtype=np.object_))
            try:
                found = client.infer("net", [tensor], client_timeout=20).as_numpy("scores")
            except InferenceServerException as error:
                return f"{error.status()} {error.message()}"
            return bytes(found.tobytes()[:8])

        with ThreadPoolExecutor(len(frames)) as pool:
            return list(pool.map(ask, frames))


def pool_processes(deployment: ServedDeployment) -> list[int]:
    """Of the pool of server `a`, its parent first."""
    (server,) = (status.pid for status in deployment.statuses if status.name == "a")
    (prefix,) = (part for part in _environment(server) if part.startswith(b"PPIPE_SHM_PREFIX="))
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"stage.pool.server" in (folder / "cmdline").read_bytes():
                found += [int(folder.name)] if prefix in _environment(folder.name) else []
        except OSError:
            continue  # it has just ended
    # By who started whom: the numbers of processes begin again after some ten thousand.
    return sorted(found, key=lambda pid: _started_by(pid) in found)


def _started_by(pid: int) -> int:
    """0 where it has just ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _environment(pid: object) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_one_good_and_seven_bad_frames_each_get_their_own_answer(deployment: ServedDeployment) -> None:
    good = picture(3)
    frames = [good, b"", b"no image", good[:-700], lying(), bytes(500_000), good + bytes(400_000),
              picture(4)[:200]]  # fmt: skip
    found = answers(deployment, frames)
    assert found[0] == frame_tag(good)
    assert all(str(said).startswith("StatusCode.INVALID_ARGUMENT") for said in found[1:])
    assert "0 bytes that are no complete JPEG or PNG image" in str(found[1])
    assert "at most 295936 are taken" in str(found[6]), "3 bytes per planned pixel and room for headers"


def test_processes_of_the_pool_that_are_killed_lose_no_frame(deployment: ServedDeployment) -> None:
    frames = [picture(number) for number in range(8)]
    pool = pool_processes(deployment)
    assert len(pool) == 1 + len(os.sched_getaffinity(0)), "one pool for both workers"
    ending = threading.Event()

    def strike() -> None:
        while not ending.wait(0.3):
            for pid in set(pool_processes(deployment)) - {pool[0]}:
                with contextlib.suppress(ProcessLookupError):  # it has ended since
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=strike)
    killer.start()
    try:
        wrong, served_frames, end_s = [], 0, time.monotonic() + 4
        while time.monotonic() < end_s:
            found = answers(deployment, frames)
            served_frames += len(found)
            wrong += [said for said, frame in zip(found, frames, strict=True) if said != frame_tag(frame)]
    finally:
        ending.set()
        killer.join()
    # A frame that is under way at two strikes looks like one that kills its decoder.
    assert len(wrong) <= served_frames / 20, wrong[:3]
    assert all("ended its decoder twice" in str(said) for said in wrong)
    os.kill(pool[0], signal.SIGKILL)
    assert answers(deployment, frames) == [frame_tag(frame) for frame in frames]
