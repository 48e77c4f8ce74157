"""Wrong requests by the thousand, to the dispatcher and straight to stages, while a good client goes on.

Each must get an error that says something, under a gRPC code that blames the request; nothing may crash; the
good client must be served meanwhile. Odd requests that are right (frames of any bits at all) are answered.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from benchmarks.helpers.loads.tagged import TaggedLoad
from benchmarks.helpers.loads.wrong_requests import Draft, odd_request, wrong_request
from benchmarks.helpers.report import main
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    write_deployment,
)
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

CLEAR = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # Triton's, for a name that does not fit its error's header
    }
)
TRITONS_INTERNAL = ("batch size", "exceed")
"""In texts of Triton's own errors that are clear, though their code is INTERNAL."""
_DRAGGED = "max allowed is"
"""Triton 2.51 takes a first dimension of 2**40 for 0, puts the request into a batch with others, and then
refuses that batch as a whole; a right request in it goes down with the wrong one."""
_TIMEOUT_S = 10.0
_AT_ONCE = 8
_SLO_US = 500_000
_GOOD_RPS = 20.0
_INPUT = TensorSpec("frame", "FP32", (1_000,))
_STAGE_SHARE = 0.5
_ODD_SHARE = 0.02


class Answers:
    """What became of wrong requests. Thread-safe."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.unclear: list[str] = []
        self.accepted: list[str] = []
        self.odd_answered = 0
        self.dragged_down = 0
        self._lock = threading.Lock()

    def take(self, draft: Draft, call: Any) -> None:
        """One request has ended."""
        error = call.exception()
        with self._lock:
            if draft.right:
                self.odd_answered += int(error is None)
                if error is not None and _DRAGGED in (error.details() or ""):
                    self.dragged_down += 1
                elif error is not None:
                    self.unclear.append(f"{error.code().name}: {error.details()}: {_said(draft)}")
                return
            if error is None:
                self.accepted.append(_said(draft))
                return
            code, text = error.code(), error.details() or ""
            self.codes[code.name] += 1
            clear = code in CLEAR or any(part in text for part in TRITONS_INTERNAL)
            if not text or not clear:
                self.unclear.append(f"{code.name}: {text[:200]}: {_said(draft)}")


def run(requests: int = 10_000, seed: int = 1) -> Mapping[str, Any]:
    """The figures of this benchmark."""
    with tempfile.TemporaryDirectory(prefix="ppipe-badinput-") as folder:
        root = Path(folder)
        manifest = write_deployment(root / "repository", [_model()], free_base(39_000, 20), name="bad")
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            pids = {status.name: status.pid for status in deployment.statuses}
            load = _good_load(manifest)
            thread = threading.Thread(target=load.run, args=(_steady(3_600.0),))
            thread.start()
            try:
                answers = send_wrong(manifest, requests, seed)
            finally:
                load.stop()
                thread.join()
                load.close()
            ended = [status.name for status in deployment.statuses if status.pid != pids[status.name]]
    good = load.frames
    return {
        "requests": requests,
        "errors": sum(answers.codes.values()),
        "codes": dict(answers.codes),
        "unclear": len(answers.unclear),
        "unclear_examples": answers.unclear[:5],
        "odd_but_right_answered": answers.odd_answered,
        "dragged_down": answers.dragged_down,
        "accepted": len(answers.accepted),
        "accepted_examples": answers.accepted[:5],
        "servers_ended": ended,
        "good_frames": len(good),
        "good_frames_served": sum(frame.in_time(_SLO_US / 1e6) and not frame.wrong for frame in good),
    }


def send_wrong(manifest: DeploymentManifest, requests: int, seed: int) -> Answers:
    """Send them, some at once, half of them to stages of the first stage server."""
    rng = random.Random(seed)
    answers = Answers()
    free = threading.Semaphore(_AT_ONCE)
    stage_server = manifest.servers[0]
    channels = {
        server.name: _channel(server.host, server.grpc_port) for server in (manifest.entry, stage_server)
    }
    calls = {
        name: service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for name, channel in channels.items()
    }
    for _ in range(requests):
        stage = rng.random() < _STAGE_SHARE
        server = stage_server if stage else manifest.entry
        entry = manifest.models[0]
        if rng.random() < _ODD_SHARE and not stage:
            draft = odd_request(rng, entry.dispatcher, entry.input)
        else:
            draft = wrong_request(rng, server.models, entry.input, stage)
        free.acquire()
        call = calls[server.name].future(draft.message(), timeout=_TIMEOUT_S)

        def ended(call: Any, draft: Draft = draft) -> None:
            answers.take(draft, call)
            free.release()

        call.add_done_callback(ended)
    for _ in range(_AT_ONCE):
        free.acquire()
    for channel in channels.values():
        channel.close()
    return answers


def _model() -> EmulatedModel:
    latency_us = (3_000, 4_000, 5_000, 6_000)
    stages = (
        EmulatedStage(latency_us, ("slow-0", "slow-1"), (TensorSpec("cut", "FP32", (300,)),)),
        EmulatedStage(latency_us, ("fast-0", "fast-1"), (TensorSpec("scores", "FP32", (10,)),)),
    )
    pipeline = EmulatedPipeline(batch_size=4, stages=stages, transfer_us=((500,) * 4,))
    return EmulatedModel("tiny", _SLO_US, 300.0, _INPUT, (pipeline,))


def _good_load(manifest: DeploymentManifest) -> TaggedLoad:
    entry = manifest.models[0]
    address = manifest.entry.grpc_address
    return TaggedLoad([(address, entry.dispatcher)], entry.input, entry.outputs[0].name, _SLO_US)


def _steady(seconds: float) -> list[int]:
    return [round(1e6 * number / _GOOD_RPS) for number in range(int(seconds * _GOOD_RPS))]


def _channel(host: str, port: int) -> grpc.Channel:
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    return grpc.insecure_channel(f"{host}:{port}", options=unlimited)


def _said(draft: Draft) -> str:
    return (
        f"{draft.model[:30]!r} {draft.version!r} {draft.name[:20]!r} {draft.datatype!r} {draft.shape} "
        f"x{draft.copies}, {len(draft.content)} bytes, {str(draft.parameters)[:120]}"
    )


if __name__ == "__main__":
    main("Wrong requests by the thousand, beside good ones.", run, requests=10_000, seed=1)
