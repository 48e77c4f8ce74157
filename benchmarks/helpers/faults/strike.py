"""One fault under load: the deployment it strikes, and how it is struck. fault_score says what came of it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

from benchmarks.helpers.faults.kinds import Fault
from benchmarks.helpers.faults.score import Strike
from benchmarks.helpers.loads.tagged import TaggedLoad
from benchmarks.helpers.machines.cpu_time import host_busy_us
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage
from planner.manifest import DeploymentManifest
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from python_backend.simulator.arrivals import Poisson

LOAD = 0.7
SLO_US = 400_000
_BEFORE_S = 1.5
_AFTER_S = 4.0
_LONGEST_S = 60.0
_LATENCY_US = (20_000, 32_000, 44_000, 56_000)
_WORKERS = ("a", "a", "b", "b")


def emulated_model() -> EmulatedModel:
    """Two stages of four workers, every pool over two servers."""
    cut = (TensorSpec("cut", "FP32", (40_000,)),)
    stages = (
        EmulatedStage(_LATENCY_US, tuple(f"{server}0" for server in _WORKERS), cut),
        EmulatedStage(
            _LATENCY_US,
            tuple(f"{server}1" for server in _WORKERS),
            (TensorSpec("scores", "FP32", (16,)),),
        ),
    )
    return EmulatedModel(
        name="net",
        slo_us=SLO_US,
        planned_rps=capacity_rps(),
        input=TensorSpec("frame", "FP32", (10_000,)),
        pipelines=(EmulatedPipeline(batch_size=2, stages=stages, transfer_us=((1_500,) * 4,)),),
    )


def capacity_rps() -> float:
    """At the planned batch size of 2."""
    return len(_WORKERS) * 2 / (_LATENCY_US[1] / 1e6)


def load_on(manifest: DeploymentManifest) -> TaggedLoad:
    """A client of the deployment's one model."""
    entry = manifest.models[0]
    address = manifest.entry.grpc_address
    return TaggedLoad([(address, entry.dispatcher)], entry.input, entry.outputs[0].name, SLO_US)


def strike(
    deployment: ServedDeployment,
    fault: Fault,
    seed: int,
    load_factor: float = LOAD,
    before_s: float = _BEFORE_S,
    after_s: float = _AFTER_S,
) -> Strike:
    """Load, break, wait until it is back, load a little longer."""
    load = load_on(deployment.manifest)
    arrivals = list(Poisson(load_factor * capacity_rps()).times_us(_LONGEST_S, seed, "net"))
    thread = threading.Thread(target=load.run, args=(arrivals,))
    began = datetime.now(UTC).isoformat(timespec="milliseconds")
    began_s, host = time.monotonic() + 0.05, host_busy_us()
    thread.start()
    try:
        time.sleep(before_s)
        struck_s = time.monotonic() - began_s
        fault.strike(deployment)
        fault.wait_until_back(deployment)
        back_s = time.monotonic() - began_s
        time.sleep(after_s)
    finally:
        load.stop()
        thread.join()
        load.close()
    return Strike(
        fault=fault.name,
        lost_share=fault.lost_share,
        load=load_factor,
        slo_s=SLO_US / 1e6,
        struck_s=struck_s,
        back_s=back_s,
        frames=load.frames,
        host_busy_share=host_busy_us().since(host).share,
        began=began,
    )
