"""Cameras that together send more than is served: who gets what, in which order, and how old results are.

Simulated: 200 cameras of weights 1, 2 and 4 at 1.5 times what a mixed fleet serves; each sends at least its
share, some up to twice that. On real servers: 24 such cameras, a dispatcher in this process, and
tritonservers with emulated workers; what the core was told and decided is read from its event log. Order is
that in which the dispatcher sends. Added latency: the median at half load with the policy less that without
it, in turns. Decision time: 10,000 streams against frames that name none, the same arrivals, in simulation.
"""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.helpers.report import main
from benchmarks.simulator import two_stages
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, write_deployment
from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.profile import TensorSpec
from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from planner.streams import StreamPolicy, StreamWeight
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from python_backend.dispatcher.factory import make_dispatcher
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.recording import FOLDER_VARIABLE
from python_backend.scheduler.actions import Dispatch
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.event_log import read_logs
from python_backend.scheduler.events import RequestArrived
from python_backend.simulator.action_text import action_of
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.streams import Camera, CameraFrame, CameraTotals, camera_frames
from python_backend.wire.clock import now_us
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE

WEIGHTS = (StreamWeight("w4-*", 4.0), StreamWeight("w2-*", 2.0))
POLICY = StreamPolicy("stream", "newest", "weighted", None, WEIGHTS)
OVERLOAD = 1.5
SIMULATED_CAMERAS, LIVE_CAMERAS = 200, 24
MANY_STREAMS = 10_000
_INPUT = TensorSpec("frame", "FP32", (256,))
_OUTPUT = (TensorSpec("scores", "FP32", (16,)),)
_LATENCY_US = (20_000, 24_000, 28_000, 32_000)
_LIVE_SLO_US = 200_000
_LIVE_RPS = 2 * len(_LATENCY_US) / _LATENCY_US[-1] * 1e6


def run(seconds: float = 20.0, live_seconds: float = 10.0, turns: int = 3) -> Mapping[str, Any]:
    """The figures of this benchmark; the worse of simulated and live counts."""
    simulated = _simulated(seconds)
    live = _live(live_seconds, turns)
    added_ms = live.pop("added_ms_p50")
    return {
        "simulated": simulated,
        "live": live,
        "decision_us": _decisions(),
        "jain": min(simulated["jain"], live["jain"]),
        "out_of_order": simulated["out_of_order"] + live["out_of_order"],
        "superseded_computed": simulated["superseded_computed"] + live["superseded_computed"],
        "age_p99_over_slo": max(simulated["age_p99_over_slo"], live["age_p99_over_slo"]),
        "added_ms_p50": added_ms,
    }


def cameras(number: int, rate_rps: float) -> list[Camera]:
    """So many, of three weights in turn, which together send `rate_rps`. By weight, the loudest send twice as
    much as the quietest, and at OVERLOAD these send their share.
    """
    weights = [(1, 2, 4)[index % 3] for index in range(number)]
    wanted = [(weight, weight * (1 + (index // 3) % 5 / 4)) for index, weight in enumerate(weights)]
    total = sum(fps for _, fps in wanted)
    return [
        Camera(f"w{weight}-{index}", rate_rps * fps / total) for index, (weight, fps) in enumerate(wanted)
    ]


# In simulation


def mixed_fleet() -> ServedModel:
    """Fast workers with batches of 8, and a slow pipeline of two stages with batches of 4."""
    fast = ServedPipeline(batch_size=8, stages=(pool("f", 8_000, 1_500, 8, 12),), transfer_us=())
    stages = (pool("s0", 18_000, 3_000, 4, 6), pool("s1", 15_000, 3_000, 4, 6))
    slow = ServedPipeline(batch_size=4, stages=stages, transfer_us=((500, 800, 1_000, 1_500),))
    planned_rps = 12 * 8 / 0.0185 + 6 * 4 / 0.027
    return ServedModel("mixed", 100_000, planned_rps, (fast, slow), streams=POLICY)


def pool(name: str, first_us: int, more_us: int, largest: int, workers: int) -> ServedStage:
    """Workers that take first_us for one frame and more_us for each further one, up to `largest`."""
    return ServedStage(
        gpu=name,
        slices_per_gpu=1,
        latency_us=tuple(first_us + more_us * size for size in range(largest)),
        workers=tuple(
            ServedWorker(f"{name}.w{w}", f"{name}{w}", f"{name}.up{w}", f"{name}.down{w}")
            for w in range(workers)
        ),
    )


def _simulated(seconds: float) -> dict[str, Any]:
    served = mixed_fleet()
    sent = cameras(SIMULATED_CAMERAS, OVERLOAD * served.planned_rps)
    times, places = itertools.tee(camera_frames(sent, seconds, seed=1))
    driver = SimulatedDriver(
        served, SchedulerCore(served), places=((frame.stream, frame.place) for frame in places)
    )
    counts = driver.run(frame.time_us for frame in times)
    totals = driver.streams
    assert totals is not None
    return {
        "cameras": len(sent),
        "jain": round(totals.jain(POLICY), 4),
        "out_of_order": totals.out_of_order,
        "superseded_computed": totals.wasted,
        "age_p99_over_slo": round(counts.latency_us(0.99) / served.slo_us, 3),
        "goodput_of_planned": round(counts.in_time / seconds / served.planned_rps, 3),
    }


def _decisions(frames: int = 60_000, turns: int = 3) -> dict[str, Any]:
    """CPU time of the core per frame, microseconds: frames that name no stream, and MANY_STREAMS of them."""
    plain = two_stages(75, 25)
    named = replace(plain, streams=POLICY)
    rate_rps = OVERLOAD * plain.planned_rps
    cost: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(turns):
        cost["without"].append(_cost_us(plain, frames, rate_rps, 0))
        cost["with"].append(_cost_us(named, frames, rate_rps, MANY_STREAMS))
    found = {name: min(times) for name, times in cost.items()}
    return {
        "streams": MANY_STREAMS,
        "without": round(found["without"], 2),
        "with": round(found["with"], 2),
        "ratio": round(found["with"] / found["without"], 2),
    }


def _cost_us(served: ServedModel, frames: int, rate_rps: float, streams: int) -> float:
    places: Iterator[tuple[str, int]] = (
        (f"camera-{n % streams}" if streams else "", n) for n in itertools.count()
    )
    events: list[tuple[Any, int]] = []
    driver = SimulatedDriver(
        served,
        SchedulerCore(served),
        observe=lambda event, now_us, actions: events.append((event, now_us)),
        places=places,
    )
    driver.run(round(n * 1e6 / rate_rps) for n in range(frames))
    core = SchedulerCore(served)
    gc.collect()  # what the simulation left is not the core's
    began_s = time.process_time()
    for event, at_us in events:
        core.handle(event, at_us)
    return (time.process_time() - began_s) * 1e6 / frames


# On real servers


@dataclass
class _Seen:
    """What the callers of a dispatcher saw. Written by several threads."""

    totals: CameraTotals = field(default_factory=CameraTotals)
    latency_us: list[int] = field(default_factory=list)
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, request_id: int, latency_us: int) -> None:
        with self.lock:
            self.latency_us.append(latency_us)
            self.totals.answered(request_id, latency_us <= _LIVE_SLO_US)
            self.left -= 1

    def refused(self, request_id: int, text: str) -> None:
        with self.lock:
            self.totals.dropped(request_id, "reason=superseded" in text)
            self.left -= 1


def _live(seconds: float, turns: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ppipe-streams-") as folder:
        root = Path(folder)
        manifest = _write(root / "repository")
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            os.environ[KEY_FILE_VARIABLE] = str(root / "logs" / "ticket.key")
            os.environ[FOLDER_VARIABLE] = str(root / "events")
            (root / "events").mkdir()
            loud = cameras(LIVE_CAMERAS, OVERLOAD * _LIVE_RPS)
            seen = _serve(manifest, POLICY, loud, seconds, {"event_log_mb": "64"})
            quiet = cameras(LIVE_CAMERAS, 0.5 * _LIVE_RPS)
            medians: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(turns):
                for policy in (None, POLICY):
                    told = _serve(manifest, policy, quiet, seconds / 2, {})
                    medians[policy is not None].append(statistics.median(told.latency_us))
            ages_us = sorted(seen.latency_us)
            return {
                "emulated": True,
                "cameras": LIVE_CAMERAS,
                "jain": round(seen.totals.jain(POLICY), 4),
                "out_of_order": seen.totals.out_of_order,
                "superseded_computed": _computed_though_superseded(root / "events"),
                "age_p99_over_slo": round(ages_us[len(ages_us) * 99 // 100] / _LIVE_SLO_US, 3),
                "goodput_of_planned": round(
                    sum(one.in_time for one in seen.totals.streams.values()) / seconds / _LIVE_RPS, 3
                ),
                "added_ms_p50": round(
                    (statistics.median(medians[True]) - statistics.median(medians[False])) / 1e3, 3
                ),
            }


def _write(root: Path) -> DeploymentManifest:
    """A deployment whose entry is this process: no entry server is started."""
    stage = EmulatedStage(_LATENCY_US, ("stage", "stage"), _OUTPUT)
    model = EmulatedModel(
        name="cameras",
        slo_us=_LIVE_SLO_US,
        planned_rps=_LIVE_RPS,
        input=_INPUT,
        pipelines=(EmulatedPipeline(batch_size=len(_LATENCY_US), stages=(stage,)),),
        streams=POLICY,
    )
    manifest = write_deployment(root, [model], free_base(36_500, 12))
    manifest = replace(manifest, entry=replace(manifest.entry, models=()))
    (root / MANIFEST_NAME).write_text(serial.dumps(manifest))
    return manifest


def _serve(
    manifest: DeploymentManifest,
    policy: StreamPolicy | None,
    sent: Sequence[Camera],
    seconds: float,
    parameters: Mapping[str, str],
) -> _Seen:
    """Send the cameras' frames, each when it is due, and wait for every end."""
    entry = manifest.models[0]
    entry = replace(entry, served=replace(entry.served, streams=policy))
    dispatcher = make_dispatcher(manifest, entry, parameters, lambda text: None)
    seen = _Seen()
    try:
        start_us = now_us() + 50_000
        for request_id, frame in enumerate(camera_frames(sent, seconds, seed=2)):
            wait_us = start_us + frame.time_us - now_us()
            if wait_us > 0:
                time.sleep(wait_us / 1e6)
            dispatcher.driver.arrive([_frame(seen, request_id, frame)])
        give_up_s = time.monotonic() + 10.0
        while seen.left and time.monotonic() < give_up_s:
            time.sleep(0.01)
    finally:
        dispatcher.close()
    return seen


def _frame(seen: _Seen, request_id: int, frame: CameraFrame) -> Frame:
    at_us = now_us()
    with seen.lock:
        seen.left += 1
        seen.totals.came(request_id, frame.stream, frame.place)

    def answer(outputs: object) -> None:
        del outputs
        seen.answered(request_id, now_us() - at_us)

    def refuse(code: ErrorCode, text: str) -> None:
        del code
        seen.refused(request_id, text)

    data = memoryview(request_id.to_bytes(8, "little") + bytes(_INPUT.bytes_per_frame - 8))
    return Frame(
        request_id,
        data,
        at_us,
        at_us + _LIVE_SLO_US,
        answer,
        refuse,
        stream=frame.stream,
        place=frame.place,
    )


def _computed_though_superseded(folder: Path) -> int:
    """Frames that a core sent after it was told of a newer one of their stream, by its event log."""
    totals = CameraTotals()
    (path,) = folder.iterdir()
    with path.open(encoding="utf-8") as lines:
        for _, body in read_logs(lines, path.name):
            for line in body:
                for event in line.events:
                    if isinstance(event, RequestArrived) and not event.again:
                        totals.came(event.request_id, event.stream, event.place)
                for text in line.actions:
                    action = action_of(text)
                    if isinstance(action, Dispatch):
                        totals.sent(action.request_ids)
    return totals.wasted


if __name__ == "__main__":
    main(__doc__, run, seconds=20.0, live_seconds=10.0, turns=3)
