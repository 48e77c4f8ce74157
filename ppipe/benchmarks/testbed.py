"""A testbed of 16 emulated GPUs (4 fast, 12 slow) on 4 real tritonservers: measured beside simulated.

One Poisson trace per load is replayed through PPipe's plan (live and simulated), through NP's plan with the
same dispatcher, and through plain Triton (the whole model on every fast GPU, dynamic batching, round-robin
client). The simulator knows no host: what frames lose outside of stages and planned hops is fitted on a
separate run at low load, as the median of measured less simulated latency, and taken off the simulated SLO.
Everything here is emulated: workers are held for profiled times and compute nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from model_repo_generator import config, naming
from model_repo_generator.render import MANIFEST_FROM_MODEL
from model_repo_generator.shims import VERSION_FOLDER, model_py
from planner.cluster import Executor
from planner.manifest import DeploymentManifest, ModelEntry
from planner.serving import ServedModel
from ppipe.benchmarks.cpu_time import cpu_time_of, host_busy_us
from ppipe.benchmarks.emulated_deployment import write_entries
from ppipe.benchmarks.report import main
from ppipe.benchmarks.tagged_load import TaggedFrame, TaggedLoad
from ppipe.benchmarks.testbed_plan import MODEL, make_entry, make_plan, make_problem
from ppipe.launcher import ServedDeployment
from ppipe.ports import free_base
from python_backend.scheduler.core import SchedulerCore
from python_backend.simulator.arrivals import Poisson
from python_backend.simulator.capacity import Workload, find_capacity
from python_backend.simulator.driver import Driver

_FIT_LOAD = 0.3
_FIT_FRAMES = 300
_TARGET = 0.99
_BOOTSTRAPS = 1_000


def run(
    loads: tuple[float, ...] = (0.5, 0.7, 0.9),
    frames: int = 10_000,
    slowdown: float = 2.0,
    slo_margin: float = 0.4,
    seed: int = 1,
) -> Mapping[str, Any]:
    """The figures of this benchmark. `loads`: shares of the simulated capacity."""
    problem = make_problem(slowdown, slo_margin)
    plan, served = make_plan(problem, "ppipe")
    np_plan, np_served = make_plan(problem, "np")
    systems = {
        "ppipe": make_entry(problem, plan, served, feedback_port=0),
        "np": make_entry(problem, np_plan, np_served, feedback_port=0),
        "plain": _plain_entry(make_entry(problem, np_plan, np_served, feedback_port=0)),
    }
    capacity_rps = _simulated_capacity(served)
    traces = {load: _trace(load * capacity_rps, frames, seed) for load in loads}
    results: dict[str, Any] = {}
    for name, entry in systems.items():
        with _Served(name, entry) as system:
            fit = _trace(_FIT_LOAD * entry.served.planned_rps, _FIT_FRAMES, seed + 1)
            overhead_us = 0 if name == "plain" else _fitted_overhead_us(system.replay(fit)[0], entry, fit)
            results[name] = {"overhead_us": overhead_us}
            for load, trace in traces.items():
                measured, host = system.replay(trace)
                results[name][load] = (measured, host)
    overhead_us = results["ppipe"]["overhead_us"]
    simulated_rps = _simulated_capacity(_with_less_time(served, overhead_us))
    points = [_point(load, traces[load], results, served, overhead_us) for load in loads]
    return {
        "emulated": True,
        "workers": sum(len(stage.workers) for pipe in served.pipelines for stage in pipe.stages),
        "planned_rps": round(served.planned_rps, 1),
        "np_planned_rps": round(np_served.planned_rps, 1),
        "slo_ms": served.slo_us / 1000,
        "fitted_overhead_ms": round(overhead_us / 1000, 2),
        "frames_per_point": frames,
        "points": points,
        "simulated_capacity_rps": round(simulated_rps, 1),
        "measured_capacity_rps": _measured_capacity(points),
    }


class _Served:
    """One system's servers, and a client for them. A context manager."""

    def __init__(self, name: str, entry: ModelEntry) -> None:
        self._plain = name == "plain"
        self._entry = entry
        self._stack = ExitStack()

    def __enter__(self) -> _Served:
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ppipe-testbed-")))
        base = free_base(36_000, 40)
        entry = dataclasses.replace(self._entry, feedback_port=base)
        manifest = (_write_plain if self._plain else _write)(root / "repository", entry, base + 1)
        self._deployment = self._stack.enter_context(ServedDeployment(root / "repository", root / "logs"))
        self._deployment.start()
        self._load = TaggedLoad(
            _targets(manifest, self._plain), entry.input, entry.outputs[0].name, entry.served.slo_us
        )
        self._stack.callback(self._load.close)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def replay(self, arrivals_us: Sequence[int]) -> tuple[list[TaggedFrame], dict[str, float]]:
        """Every frame's end, and what the host did meanwhile."""
        before, busy = cpu_time_of(self._deployment), host_busy_us()
        frames = self._load.run(arrivals_us)
        host = host_busy_us().since(busy)
        ours_us = sum(cpu_time_of(self._deployment).since(before).values())
        return frames, {"busy_share": host.share, "servers_share": ours_us / host.available_us}


def _write(root: Path, entry: ModelEntry, base: int) -> DeploymentManifest:
    return write_entries(root, (entry,), base, name="testbed")


def _write_plain(root: Path, entry: ModelEntry, base: int) -> DeploymentManifest:
    """As NP's deployment, but Triton batches, and no entry server is started."""
    manifest = write_entries(root, (entry,), base, name="testbed")
    (stage,), (program,) = entry.served.pipelines[0].stages, entry.programs[0]
    for worker in stage.workers:
        text = config.plain_config(
            worker.name,
            program.inputs,
            entry.outputs,
            _plain_batch(entry),
            Executor.EMULATED,
            gpu_id=0,
            parameters={"manifest": MANIFEST_FROM_MODEL, "model": entry.model},
            queue_delay_us=0,
            queue_timeout_us=entry.served.slo_us - stage.latency_us[_plain_batch(entry) - 1],
        )
        folder = root / naming.group_folder(manifest.server(worker.server).group) / worker.name
        (folder / "config.pbtxt").write_text(text)
        (folder / VERSION_FOLDER / "model.py").write_text(model_py("plain"))
    return manifest


def _plain_entry(entry: ModelEntry) -> ModelEntry:
    """One-stage workers only: the first pipeline that NP chose has the whole model."""
    served = dataclasses.replace(entry.served, pipelines=entry.served.pipelines[:1])
    return dataclasses.replace(entry, served=served, programs=entry.programs[:1])


def _plain_batch(entry: ModelEntry) -> int:
    """The largest batch whose latency fits half of the SLO: the other half is for waiting."""
    latency_us = entry.served.pipelines[0].stages[0].latency_us
    return max([size for size, us in enumerate(latency_us, 1) if 2 * us <= entry.served.slo_us], default=1)


def _targets(manifest: DeploymentManifest, plain: bool) -> list[tuple[str, str]]:
    if not plain:
        return [(f"{manifest.entry.host}:{manifest.entry.grpc_port}", manifest.models[0].dispatcher)]
    workers = manifest.models[0].served.pipelines[0].stages[0].workers
    servers = {worker.name: manifest.server(worker.server) for worker in workers}
    return [(f"{server.host}:{server.grpc_port}", name) for name, server in servers.items()]


def _trace(rate_rps: float, frames: int, seed: int) -> list[int]:
    times = Poisson(rate_rps).times_us(1.2 * frames / rate_rps + 10, seed, MODEL)
    return [time_us for _, time_us in zip(range(frames), times, strict=False)]


def _fitted_overhead_us(frames: Sequence[TaggedFrame], entry: ModelEntry, trace: Sequence[int]) -> int:
    """Median of measured less simulated latency, frame by frame."""
    simulated = _simulate(entry.served, trace)
    extra = [
        (frame.ended_s - frame.sent_s) * 1e6 - latency_us
        for frame, latency_us in zip(frames, simulated, strict=True)
        if frame.ended_s is not None and not frame.error and latency_us is not None
    ]
    return max(0, round(statistics.median(extra)))


def _simulate(served: ServedModel, trace: Sequence[int]) -> list[int | None]:
    """Latency of each frame on virtual time; None for a dropped one."""
    latencies: list[int | None] = [None] * len(trace)
    batches: dict[int, tuple[int, ...]] = {}

    def observe(event: Any, now_us: int, actions: Sequence[Any]) -> None:
        for action in actions:
            if hasattr(action, "ticket"):
                batches[action.ticket.batch_id] = action.request_ids
                last = len(action.ticket.hops) - 1
                lasts[action.ticket.batch_id] = last
        if getattr(event, "stage", None) is not None and lasts.get(event.batch_id) == event.stage:
            for request_id in batches.pop(event.batch_id, ()):
                latencies[request_id] = event.ended_us - trace[request_id]

    lasts: dict[int, int] = {}
    Driver(served, SchedulerCore(served), observe=observe).run(iter(trace))
    return latencies


def _with_less_time(served: ServedModel, overhead_us: int) -> ServedModel:
    return dataclasses.replace(served, slo_us=served.slo_us - overhead_us)


def _simulated_capacity(served: ServedModel) -> float:
    rates = [served.planned_rps * share / 50 for share in range(10, 75)]
    workload = Workload(seconds=60.0, seeds=(1, 2))
    return find_capacity(served, "adaptive", rates, workload, guess_rps=served.planned_rps).load_rps


def _point(
    load: float,
    trace: Sequence[int],
    results: Mapping[str, Any],
    served: ServedModel,
    overhead_us: int,
) -> dict[str, Any]:
    frames, host = results["ppipe"][load]
    measured = [frame.in_time(served.slo_us / 1e6) for frame in frames]
    simulated_us = _simulate(_with_less_time(served, overhead_us), trace)
    simulated = [us is not None and us <= served.slo_us - overhead_us for us in simulated_us]
    low, high = _paired_interval(measured, simulated)
    return {
        "load_factor": load,
        "rate_rps": round(len(trace) / (trace[-1] / 1e6), 1),
        "simulated_attainment": round(statistics.mean(simulated), 4),
        "measured_attainment": round(statistics.mean(measured), 4),
        "difference_95": [round(low, 4), round(high, 4)],
        "np_attainment": _attainment(results["np"][load][0], served.slo_us),
        "plain_attainment": _attainment(results["plain"][load][0], served.slo_us),
        "unanswered": sum(frame.answers == 0 for frame in frames),
        "wrong": sum(frame.wrong for frame in frames),
        "host_busy_share": round(host["busy_share"], 3),
        "servers_cpu_share": round(host["servers_share"], 3),
    }


def _attainment(frames: Sequence[TaggedFrame], slo_us: int) -> float:
    return round(statistics.mean(frame.in_time(slo_us / 1e6) for frame in frames), 4)


def _paired_interval(measured: Sequence[bool], simulated: Sequence[bool]) -> tuple[float, float]:
    """95 % bootstrap interval of measured less simulated attainment, over blocks of neighbouring frames."""
    difference = np.array(measured, float) - np.array(simulated, float)
    blocks = np.array([part.mean() for part in np.array_split(difference, min(50, len(difference)))])
    rng = np.random.default_rng(0)
    means = rng.choice(blocks, (_BOOTSTRAPS, len(blocks))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _measured_capacity(points: Sequence[Mapping[str, Any]]) -> float:
    """The highest swept rate up to which every measured point reaches 99 %; 0 when none does."""
    best = 0.0
    for point in sorted(points, key=lambda each: float(each["load_factor"])):
        if point["measured_attainment"] < _TARGET:
            break
        best = float(point["rate_rps"])
    return best


if __name__ == "__main__":
    main(
        __doc__,
        run,
        loads=(0.5, 0.7, 0.9),
        frames=10_000,
        slowdown=2.0,
        slo_margin=0.4,
        seed=1,
    )
