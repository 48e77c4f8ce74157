"""Processor time for each frame with one entry and with two: entry servers, their dispatchers and stages.

Both deployments are loaded in turns; what counts is the middle one of the turns' ratios.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

from benchmarks.helpers.entries.deployed import ENTRIES, deployed, in_turns
from benchmarks.helpers.loads.tagged import TaggedLoad
from benchmarks.helpers.machines.cpu_time import cpu_time_of
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage
from planner.manifest import ModelEntry
from planner.profile import TensorSpec
from planner.shards import Shard
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.live_metrics import read

SIZES = {"64B": 16, "100KB": 25_000}
"""FP32 numbers of a frame."""
RPS = 200.0
_LATENCY_US = (4_000, 5_000, 6_000, 7_000)
_SLO_US = 400_000
_TURNS = 5
_SHARDS = tuple(
    Shard((home, *(name for name in ENTRIES if name != home)), RPS, (((number,), (number,)),))
    for number, home in enumerate(ENTRIES)
)


def cpu_of_entries(seconds: float) -> dict[str, Any]:
    """us of each frame, by size and entries; two over one; the share of frames that were passed on. seconds:
    of load for each turn of each.
    """
    models = [_model(name, numbers) for name, numbers in SIZES.items()]
    with deployed("cpu", models, {}) as one, deployed("cpu", models, dict.fromkeys(SIZES, _SHARDS)) as two:
        turns = {
            model.model: in_turns(one, two, _TURNS, functools.partial(_us_of, entry=model, seconds=seconds))
            for model in one.manifest.models
        }
        passed_on = _passed_on(two)
    over = {name: [of_two / of_one for of_one, of_two in pairs] for name, pairs in turns.items()}
    middle = {name: round(statistics.median(ratios), 3) for name, ratios in over.items()}
    return {
        "cpu_two_over_one": max(middle.values()),
        "cpu_two_over_one_by_size": middle,
        "cpu_two_over_one_turns": {
            name: [round(ratio, 3) for ratio in ratios] for name, ratios in over.items()
        },
        "cpu_us_one": {
            name: round(statistics.median(us for us, _ in pairs)) for name, pairs in turns.items()
        },
        "cpu_us_two": {
            name: round(statistics.median(us for _, us in pairs)) for name, pairs in turns.items()
        },
        "cpu_passed_on": round(passed_on, 4),
    }


def _us_of(deployment: ServedDeployment, entry: ModelEntry, seconds: float) -> float:
    targets = [(server.grpc_address, entry.dispatcher) for server in deployment.manifest.entries]
    load = TaggedLoad(targets, entry.input, entry.outputs[0].name, _SLO_US)
    try:
        load.run([round(number * 1e6 / RPS) for number in range(round(RPS))])
        before = cpu_time_of(deployment)
        frames = load.run([round(number * 1e6 / RPS) for number in range(round(RPS * seconds))])
        used_us = sum(cpu_time_of(deployment).since(before).values())
    finally:
        load.close()
    return used_us / max(1, sum(frame.answers and not frame.error for frame in frames))


def _passed_on(deployment: ServedDeployment) -> float:
    passed = arrived = 0.0
    for server in deployment.manifest.entries:
        seen = deployment.manifest.seen_from(server.name)
        for entry in seen.models:
            page = read(seen, entry)
            passed += page.total("ppipe_passed_on_total")
            arrived += page.total("ppipe_frames_total") - page.total("ppipe_passed_here_total")
    return passed / max(1.0, arrived)


def _model(name: str, numbers: int) -> EmulatedModel:
    """Two stages of two workers, each pool over two servers."""
    stages = (
        EmulatedStage(_LATENCY_US, ("a0", "b0"), (TensorSpec("cut", "FP32", (16,)),)),
        EmulatedStage(_LATENCY_US, ("a1", "b1"), (TensorSpec("scores", "FP32", (16,)),)),
    )
    return EmulatedModel(
        name=name,
        slo_us=_SLO_US,
        planned_rps=2 * RPS,
        input=TensorSpec("frame", "FP32", (numbers,)),
        pipelines=(EmulatedPipeline(batch_size=1, stages=stages),),
    )
