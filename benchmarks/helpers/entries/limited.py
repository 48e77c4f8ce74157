"""What dispatchers carry whose processes have little: one of one entry, and two of two.

A dispatcher's process is a model's ceiling long before a machine is: but on two cores the load, the servers
and the stages end first. So each dispatcher's process is bound to a small share of a core by the kernel, and
nothing else is: what all of it takes of the machine is then far from the machine's end, and is shown beside
what is busy in all. Both deployments are loaded in turns.
Callers wait for an answer before they send the next frame; what is counted are answers.
"""

from __future__ import annotations

import functools
import os
import statistics
import threading
import time
from typing import Any

import grpc
import numpy as np

from benchmarks.helpers.entries.deployed import ENTRIES, deployed, in_turns
from benchmarks.helpers.machines.cpu_quota import NoQuota, quota
from benchmarks.helpers.machines.cpu_time import cpu_time_of, host_busy_us
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage
from planner.profile import TensorSpec
from planner.shards import Shard
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.processes import stubs_of
from python_backend.wire import kserve
from python_backend.wire.grpc.channels import CHANNEL_OPTIONS

SHARES = (0.08, 0.16)
"""Of a core, for each dispatcher's process: half of the last, and the most that leaves two cores half idle.
What a dispatcher takes without any frame, more where there are others, weighs twice as much with half of it.
"""
CALLERS = 16
"""Of each entry, each with one frame under way."""
_LATENCY_US = (2_000, 2_200, 2_400, 2_600, 2_800, 3_000, 3_200, 3_400)
_RPS = 2_000.0
_SLO_US = 2_000_000
_WARM_S = 2.0
_TURNS = 4
_SHARDS = (
    Shard(ENTRIES, _RPS / 2, (((0, 1),),)),
    Shard(ENTRIES[::-1], _RPS / 2, (((2, 3),),)),
)


def limited(seconds: float) -> dict[str, Any]:
    """two_limited_over_one_rps, the middle one of the turns' ratios at the larger share, and at each; by
    share the rates of one and of two, what part of all cores that took, and was busy. seconds: of a turn.
    """
    try:
        with (
            deployed("limited", [_model()], {}) as one,
            deployed("limited", [_model()], {"net": _SHARDS}) as two,
        ):
            found = {}
            for share in SHARES:
                with quota([*_dispatchers(one), *_dispatchers(two)], share):
                    found[share] = in_turns(one, two, _TURNS, functools.partial(_load, seconds=seconds))
    except NoQuota as error:
        return {"limited": f"not measured: {error}"}
    ratios = {share: [of_two["rps"] / of_one["rps"] for of_one, of_two in found[share]] for share in SHARES}

    def middle(figure: str, digits: int) -> dict[str, list[float]]:
        return {
            f"{share:g}": [
                round(statistics.median(turn[at][figure] for turn in turns), digits) for at in range(2)
            ]
            for share, turns in found.items()
        }

    return {
        "two_limited_over_one_rps": round(statistics.median(ratios[SHARES[-1]]), 3),
        "two_limited_over_one_by_share": {
            f"{share:g}": round(statistics.median(each), 3) for share, each in ratios.items()
        },
        "two_limited_over_one_turns": {
            f"{share:g}": [round(ratio, 3) for ratio in each] for share, each in ratios.items()
        },
        "limited_rps": middle("rps", 1),
        "limited_took": middle("took", 3),
        "limited_machine_busy": middle("busy", 3),
        "limited_failed": int(
            sum(load["failed"] for turns in found.values() for turn in turns for load in turn)
        ),
    }


def _dispatchers(deployment: ServedDeployment) -> list[int]:
    """Their processes."""
    entries = {server.name for server in deployment.manifest.entries}
    door = deployment.manifest.models[0].dispatcher
    pids = [status.pid for status in deployment.statuses if status.name in entries]
    return [stubs_of(pid)[door].pid for pid in pids if pid is not None]


def _load(deployment: ServedDeployment, seconds: float) -> dict[str, float]:
    model = deployment.manifest.models[0]
    channels = [
        grpc.insecure_channel(server.grpc_address, options=CHANNEL_OPTIONS)
        for server in deployment.manifest.entries
    ]
    head = kserve.request_head(model.dispatcher, (model.input,), 1)
    frame = np.zeros(model.input.bytes_per_frame, np.uint8)
    request = kserve.request_bytes(head, kserve.int_parameter("timeout", _SLO_US), [[frame.data]])
    ended, failed = [0], [0]
    over = threading.Event()
    lock = threading.Lock()

    def call(channel: grpc.Channel) -> None:
        infer: Any = channel.unary_unary(kserve.INFER_METHOD)
        while not over.is_set():
            try:
                infer(request, timeout=10)
            except grpc.RpcError:
                with lock:
                    failed[0] += 1
            else:
                with lock:
                    ended[0] += 1

    threads = [threading.Thread(target=call, args=(channel,)) for channel in channels for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(_WARM_S)
        before, began_s, busy = ended[0], time.monotonic(), host_busy_us()
        used, ours_s = cpu_time_of(deployment), time.process_time()
        time.sleep(seconds)
        passed_s = time.monotonic() - began_s
        took_s = sum(cpu_time_of(deployment).since(used).values()) / 1e6 + time.process_time() - ours_s
        return {
            "rps": (ended[0] - before) / passed_s,
            "took": took_s / passed_s / (os.cpu_count() or 1),
            "busy": host_busy_us().since(busy).share,
            "failed": float(failed[0]),
        }
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for channel in channels:
            channel.close()


def _model() -> EmulatedModel:
    """One stage of four workers: what it takes is little beside the dispatcher."""
    stage = EmulatedStage(_LATENCY_US, ("a", "a", "b", "b"), (TensorSpec("scores", "FP32", (16,)),))
    return EmulatedModel(
        name="net",
        slo_us=_SLO_US,
        planned_rps=_RPS,
        input=TensorSpec("frame", "FP32", (16,)),
        pipelines=(EmulatedPipeline(batch_size=4, stages=(stage,)),),
    )
