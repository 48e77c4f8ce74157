"""What dispatchers carry that get little of a core, one and two beside each other: so that it is they who
end, and not the machine. Each dispatcher's process is stopped for all but a short part of every period.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from benchmarks.helpers.entry_kills import ENTRIES, owns, wait_until
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, write_deployment
from planner.profile import TensorSpec
from planner.shards import Shard
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from ppipe.serving.processes import stubs_of
from python_backend.wire import kserve
from python_backend.wire.transport import CHANNEL_OPTIONS

PERIOD_S, SHARE = 0.02, 0.1
"""Of a core, for each dispatcher."""
_CALLERS = 16
"""For each entry: each sends its next frame when the last one is answered."""
_SLO_US = 1_000_000
_WARM_UP_S = 1.0
_LATENCY_US = (2_000,) * 16
_INPUT = TensorSpec("frame", "FP32", (16,))
_SHARDS = tuple(
    Shard((home, *(name for name in ENTRIES if name != home)), 4_000.0, (((number,),),))
    for number, home in enumerate(ENTRIES)
)


def limited_entries(seconds: float) -> dict[str, Any]:
    """Frames/s of one dispatcher and of two, and two over one."""
    one, two = _carried({}, seconds), _carried({"net": _SHARDS}, seconds)
    return {
        "limited_share_of_a_core": SHARE,
        "limited_one_rps": round(one, 1),
        "limited_two_rps": round(two, 1),
        "two_limited_over_one_rps": round(two / one, 3),
    }


def _carried(shards: Mapping[str, Sequence[Shard]], seconds: float) -> float:
    stage = EmulatedStage(_LATENCY_US, ("a", "b"), (TensorSpec("scores", "FP32", (16,)),))
    model = EmulatedModel("net", _SLO_US, 8_000.0, _INPUT, (EmulatedPipeline(16, (stage,)),))
    with tempfile.TemporaryDirectory(prefix="ppipe-entry-limited-") as folder:
        root = Path(folder)
        write_deployment(root / "repository", [model], free_base(38_000, 40), "limited", shards=shards)
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            if shards:
                wait_until(lambda: all(owns(deployment, number) == {str(number)} for number in range(2)))
            with _limited(deployment), _callers(deployment) as answered:
                time.sleep(_WARM_UP_S)
                before, began_s = sum(answered), time.monotonic()
                time.sleep(seconds)
                return (sum(answered) - before) / (time.monotonic() - began_s)


@contextlib.contextmanager
def _limited(deployment: ServedDeployment) -> Iterator[None]:
    """Every dispatcher's process runs for its share alone."""
    names = {entry.name for entry in deployment.manifest.entries}
    servers = [status.pid for status in deployment.statuses if status.name in names and status.pid]
    stubs = [stub.pid for server in servers for stub in stubs_of(server).values()]
    ended = threading.Event()

    def limit(pid: int) -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            ended.wait(PERIOD_S * (1 - SHARE))
            os.kill(pid, signal.SIGCONT)
            time.sleep(PERIOD_S * SHARE)

    threads = [threading.Thread(target=limit, args=(pid,)) for pid in stubs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def _callers(deployment: ServedDeployment) -> Iterator[list[int]]:
    """Frames that were answered so far, by entry."""
    (entry,) = deployment.manifest.models
    answered = [0] * len(deployment.manifest.entries)
    ended = threading.Event()
    parameter = kserve.int_parameter("timeout", _SLO_US)
    head = kserve.request_head(entry.dispatcher, (_INPUT,), 1)
    request = kserve.request_bytes(head, parameter, [[bytes(_INPUT.bytes_per_frame)]])
    with contextlib.ExitStack() as stack:
        for number, server in enumerate(deployment.manifest.entries):
            channel = stack.enter_context(grpc.insecure_channel(server.grpc_address, options=CHANNEL_OPTIONS))
            call: Any = channel.unary_unary(kserve.INFER_METHOD)

            def send(number: int = number, call: Any = call) -> None:
                def took(done: Any) -> None:
                    answered[number] += int(not done.cancelled() and done.exception() is None)
                    if not ended.is_set():
                        send(number, call)

                call.future(request, timeout=10).add_done_callback(took)

            for _ in range(_CALLERS):
                send()
        try:
            yield answered
        finally:
            ended.set()
            time.sleep(_WARM_UP_S)
