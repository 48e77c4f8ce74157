"""What it costs to get frames in: 1080p JPEGs through the public model of a 640 x 640 emulated network.

Closed loop, frames prepared for real. Measured on one host and across network namespaces, and beside it, in
turns, the same on main as it was before frames travelled as they came (an ensemble that decoded them at the
entry). The floor is what nothing can avoid: decoding the same frames at full size (simplejpeg) and resizing
them (OpenCV, bilinear) on one thread, in the same run. What of the entry is not ours is measured too:
the same frames to a Python model in the same server that answers at once, while the cores decode. Floor, that
model and the client together are `speedup_of_floor`: how many times the old frames/s these cores could have
for whoever did nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import simplejpeg

from benchmarks.helpers.loads.bare import bare_model
from benchmarks.helpers.loads.jpegs import camera_jpegs
from benchmarks.helpers.loads.perf import PerfResult, run_perf
from benchmarks.helpers.machines import before
from benchmarks.helpers.machines.cpu_time import frames_of, tree_us
from benchmarks.helpers.machines.hosts import Host, hosts, why_not
from benchmarks.helpers.machines.links import Link
from benchmarks.helpers.machines.served_hosts import HostsServed, serve_on_hosts
from benchmarks.helpers.report import main
from ensembles.graphs import frame_input
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    write_deployment,
)
from planner.frames import FrameSize
from planner.ingress import PrepareRecipe
from planner.manifest import ModelEntry
from planner.profile import TensorSpec
from ppipe.bench.perf_analyzer import input_data
from ppipe.bench.target import frame_request
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from ppipe.serving.probe import text_element

WIDTH, HEIGHT, FRAME_BYTES = 1920, 1080, 360_000
SIZE = 640
PICTURES = 8
CONCURRENCY = 8
BATCH_US = (1_000, 1_500, 2_000, 2_500)
"""Of an emulated worker: it is to be no bottleneck."""
WORKERS = 2
SLO_US = 3_000_000
"""Long: a closed loop drops nothing."""
_MODEL = "net"
_OUTPUT = TensorSpec("scores", "FP32", (16,))
_BARE = "bare"
_SETTLE_S = 0.5
_FLOOR_PASSES = 5
_LINK = Link(1_000, burst_kbit=1_024)
"""A real card cuts large segments up itself; here the entry would be charged with it."""


@dataclass(frozen=True)
class Way:
    """A deployment under load: its entry's address, and the processes of the entry and of all servers."""

    address: str
    entry_pids: Sequence[int]
    pids: Sequence[int]


@dataclass(frozen=True)
class Look:
    """One run of load."""

    rps: float
    entry_ms: float
    total_ms: float
    client_ms: float


def run(turns: int = 3, frames: int = 400, before_frames: int = 120) -> Mapping[str, Any]:
    """The figures of this benchmark."""
    jpegs = camera_jpegs(PICTURES, WIDTH, HEIGHT, FRAME_BYTES)
    figures: dict[str, Any] = {
        "frame_bytes": round(statistics.mean(len(jpeg) for jpeg in jpegs)),
        "emulated": True,
        "prepare": "real",
    }
    with tempfile.TemporaryDirectory(prefix="ppipe-front-") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        data = root / "frames.json"
        spec = frame_input("jpeg")
        requests = [frame_request(spec, spec.shape, text_element(jpeg)) for jpeg in jpegs]
        data.write_text(json.dumps(input_data(requests)), encoding="utf-8")
        today = stack.enter_context(_served(root / "today"))
        older: Way | None = None
        try:
            checked_out = stack.enter_context(before.checkout(before.FRONT_REVISION, root / "checkout"))
            older = stack.enter_context(_served_before(checked_out, root))
        except before.NoCheckout as error:
            figures["before"] = str(error)
        figures |= _side_by_side(today, older, data, jpegs, turns, frames, before_frames)
    figures |= _across_hosts(jpegs, frames)
    return figures


def _side_by_side(
    today: Way, older: Way | None, data: Path, jpegs: Sequence[bytes], turns: int, frames: int, fewer: int
) -> dict[str, Any]:
    looks, looks_before, floors, bare = [], [], [], []
    for _ in range(turns):
        floors.append(floor_ms(jpegs))
        looks.append(_look(today, data, frames))
        with cores_decoding(jpegs):
            bare.append(_look(today, data, frames, _BARE))
        if older is not None:
            looks_before.append(_look(older, data, fewer))
    floor = statistics.median(floors)
    figures: dict[str, Any] = {
        "floor_ms_per_frame": round(floor, 3),
        "entry_cpu_ms_per_frame": _median(look.entry_ms for look in looks),
        "entry_cpu_ms_per_frame_bare": _median(look.entry_ms for look in bare),
        "client_cpu_ms_per_frame": _median(look.client_ms for look in looks),
        "cpu_ms_per_frame": _median(look.total_ms for look in looks),
        "cpu_over_floor": _median(look.total_ms / own for look, own in zip(looks, floors, strict=True)),
        "rps": _median(look.rps for look in looks),
    }
    if looks_before:
        ratios = [now.rps / then.rps for now, then in zip(looks, looks_before, strict=True)]
        possible = [
            _most_rps(own + alone.entry_ms + alone.client_ms) / then.rps
            for own, alone, then in zip(floors, bare, looks_before, strict=True)
        ]
        figures |= {
            "speedup_of_floor": _median(possible),
            "rps_before": _median(look.rps for look in looks_before),
            "entry_cpu_ms_per_frame_before": _median(look.entry_ms for look in looks_before),
            "speedup_over_before": _median(ratios),
            "entry_cpu_before_over_now": _median(
                then.entry_ms / now.entry_ms for now, then in zip(looks, looks_before, strict=True)
            ),
        }
    return figures


def floor_ms(jpegs: Sequence[bytes]) -> float:
    """Processor time per frame of decoding and resizing alone, on this thread."""
    cv2.setNumThreads(1)
    began_s = time.thread_time()
    for _ in range(_FLOOR_PASSES):
        for jpeg in jpegs:
            _prepare(jpeg)
    return (time.thread_time() - began_s) * 1e3 / (_FLOOR_PASSES * len(jpegs))


@contextlib.contextmanager
def cores_decoding(jpegs: Sequence[bytes]) -> Iterator[None]:
    """Every core busy with what the floor is of, as they are where frames are prepared."""
    end = threading.Event()

    def decode() -> None:
        while not end.is_set():
            for jpeg in jpegs:
                _prepare(jpeg)

    threads = [threading.Thread(target=decode) for _ in range(os.cpu_count() or 1)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def _prepare(jpeg: bytes) -> None:
    pixels = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def _look(way: Way, data: Path, frames: int, model: str = _MODEL) -> Look:
    _load(way, data, CONCURRENCY * 6, model)  # warm
    time.sleep(_SETTLE_S)
    entry_us, total_us = tree_us(way.entry_pids), tree_us(way.pids)
    answered, client_s = frames_of(way.address, model), _children_s()
    result = _load(way, data, frames, model)
    client_s = _children_s() - client_s
    number = max(1, frames_of(way.address, model) - answered)
    return Look(
        rps=result.rps,
        entry_ms=(tree_us(way.entry_pids) - entry_us) / 1e3 / number,
        total_ms=(tree_us(way.pids) - total_us) / 1e3 / number,
        client_ms=client_s * 1e3 / number,
    )


def _children_s() -> float:
    """Processor time of this process's children that have ended: clients, where servers go on."""
    times = os.times()
    return times.children_user + times.children_system


def _most_rps(ms: float) -> float:
    """Frames/s of all cores, where each takes so much of one."""
    return (os.cpu_count() or 1) * 1e3 / ms


def _load(way: Way, data: Path, frames: int, model: str = _MODEL) -> PerfResult:
    extra = ["--input-data", str(data), "--shape", "jpeg:1"]
    return run_perf(way.address, model, CONCURRENCY, frames, extra=extra)


def front_model() -> EmulatedModel:
    """The network of this benchmark."""
    stage = EmulatedStage(BATCH_US, ("a",) * WORKERS, (_OUTPUT,))
    return EmulatedModel(
        name=_MODEL,
        slo_us=SLO_US,
        planned_rps=100.0,
        input=TensorSpec("image", "FP32", (3, SIZE, SIZE)),
        pipelines=(EmulatedPipeline(len(BATCH_US), (stage,)),),
        prepare=PrepareRecipe(
            kind="jpeg",
            frame=frame_input("jpeg"),
            channels=3,
            height=SIZE,
            width=SIZE,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            planned=FrameSize(WIDTH, HEIGHT, FRAME_BYTES),
        ),
    )


@contextlib.contextmanager
def _served(root: Path) -> Iterator[Way]:
    extras = {_BARE: bare_model(_BARE, frame_input("jpeg"), _OUTPUT)}
    ports = free_base(33_000, 20)
    manifest = write_deployment(root / "repository", [front_model()], ports, entry_extras=extras)
    with ServedDeployment(root / "repository", root / "logs") as deployment:
        deployment.start()
        pids = {status.name: status.pid for status in deployment.statuses if status.pid is not None}
        address = manifest.entry.grpc_address
        yield Way(address, [pids["entry"]], list(pids.values()))


@contextlib.contextmanager
def _served_before(checked_out: Path, root: Path) -> Iterator[Way]:
    arguments = [str(root / "before"), str(free_base(34_000, 20)), str(SIZE), str(WORKERS)]
    arguments += [json.dumps(BATCH_US), str(SLO_US)]
    log = root / "before.log"
    with before.serving(checked_out, before.FRONT_SCRIPT, arguments, log) as running:
        yield Way(running.address, [running.pids["entry"]], list(running.pids.values()))


def _across_hosts(jpegs: Sequence[bytes], frames: int) -> dict[str, Any]:
    """The same with the stages on a host of their own."""
    if reason := why_not():
        return {"hosts": f"skipped: {reason}"}
    with (
        tempfile.TemporaryDirectory(prefix="ppipe-front-") as folder,
        hosts({"entry": _LINK, "a": _LINK}, ("entry", _LINK)) as made,
        serve_on_hosts(Path(folder), [front_model()], made) as served,
    ):
        data = Path(folder) / "frames.json"
        spec = frame_input("jpeg")
        requests = [frame_request(spec, spec.shape, text_element(jpeg)) for jpeg in jpegs]
        data.write_text(json.dumps(input_data(requests)), encoding="utf-8")
        return _look_at_hosts(served, made["entry"], data, frames)


def _look_at_hosts(served: HostsServed, entry: Host, data: Path, frames: int) -> dict[str, Any]:
    way = Way(served.address, served.pids("entry"), [*served.pids("entry"), *served.pids("a")])
    _load(way, data, CONCURRENCY * 6)
    answered, wire, payload = frames_of(way.address, _MODEL), entry.sent_bytes(), entry.sent_payload()
    taken = entered_bytes(served, served.manifest.models[0])
    look = _look(way, data, frames)
    number = frames_of(way.address, _MODEL) - answered
    came_in = entered_bytes(served, served.manifest.models[0]) - taken
    return {
        "hosts_rps": round(look.rps, 1),
        "hosts_entry_cpu_ms_per_frame": round(look.entry_ms, 3),
        "hosts_frames": number,
        "bytes_out_over_in": round((entry.sent_payload() - payload) / came_in, 4),
        "wire_out_over_in": round((entry.sent_bytes() - wire) / came_in, 4),
    }


def entered_bytes(served: HostsServed, entry: ModelEntry) -> int:
    """Bytes of all frames that a model's clients have sent so far, by its own count."""
    return int(served.metric(entry, "frame_bytes_total"))


def _median(values: Iterable[float]) -> float:
    return round(float(statistics.median(values)), 3)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], run, turns=3, frames=400, before_frames=120)
