"""What a dispatcher costs: its frames/s and latency against a bare Python model on the same server.

bare: a default-mode model that answers each request from a background thread. null: our dispatcher with a
transport to nowhere. hop: our dispatcher with a real stage server behind it, whose workers are held for a
time and compute nothing. That time is chosen, after a first look at the bare model, so that the pool could
serve what the bare model does: workers are then busy, as a plan wants them, and batches come near to the
planned size. All three are measured in turn, several times, and ratios are taken within a turn: the
host's speed drifts. Added latency: one frame at a time through the dispatcher, less the same frame sent to
the stage model directly.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from benchmarks.helpers.loads.bare import bare_model
from benchmarks.helpers.loads.perf import run_perf
from benchmarks.helpers.machines.cpu_time import cpu_time_of, frames_of
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
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.wire import ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.signing.keys import Keys

BATCH = 8
SIZES = {"64b": (16, 64, 8_000), "600kb": (153_600, 48, 1_200)}
"""Per size: FP32 numbers per frame, requests outstanding, requests per window."""
OUTPUT = (TensorSpec("scores", "FP32", (16,)),)
_SLO_US = {"64b": 100_000, "600kb": 300_000}
"""Short: the last frames of a window are held for a fuller batch as long as this allows."""
_LONE_FRAMES = 150
_WORKERS = 2
_LATENCY_US = 1_000
"""Of a stage where it is to be no bottleneck; it holds no processor. A core that believes in no latency at
all would take every batch to be overdue."""


@dataclass(frozen=True)
class Kind:
    """A way to serve a frame, by the name of its model."""

    name: str
    model: str


def run(turns: int = 5) -> Mapping[str, Any]:
    """The figures of this benchmark."""
    figures: dict[str, Any] = {"batch": BATCH, "turns": turns}
    with tempfile.TemporaryDirectory(prefix="ppipe-dispatch-") as folder:
        root = Path(folder)
        pool_us = look_at_bare(root / "first")
        _write(root / "repository", pool_us)
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            keys = Keys(root / "logs" / "ticket.key")
            for size in SIZES:
                figures[f"pool_rps_{size}"] = round(_pool_rps(pool_us[size]))
                figures |= _throughput(deployment, size, turns)
                figures |= _added_latency(deployment.manifest, size, keys)
    return figures


def look_at_bare(root: Path) -> dict[str, int]:
    """Per size, the latency of a batch with which the pool can serve what the bare model does."""
    _write(root / "repository", dict.fromkeys(SIZES, _LATENCY_US))
    latency_us = {}
    with ServedDeployment(root / "repository", root / "logs") as deployment:
        deployment.start()
        entry = deployment.manifest.entry
        for size, (_, concurrency, requests) in SIZES.items():
            measured = [run_perf(entry.grpc_address, f"bare_{size}", concurrency, requests) for _ in range(3)]
            rate_rps = statistics.median(each.rps for each in measured)
            latency_us[size] = round(_WORKERS * BATCH / rate_rps * 1e6)
    return latency_us


def _pool_rps(latency_us: int) -> float:
    return _WORKERS * BATCH / latency_us * 1e6


def _write(root: Path, pool_us: Mapping[str, int]) -> None:
    models = [
        _model(kind, size, batch_size, workers, latency_us)
        for size in SIZES
        for kind, batch_size, workers, latency_us in (
            ("null", BATCH, _WORKERS, _LATENCY_US),
            ("hop", BATCH, _WORKERS, pool_us[size]),
            ("hop1", 1, 1, _LATENCY_US),
        )
    ]
    extras = {f"bare_{size}": bare_model(f"bare_{size}", _frame(size), OUTPUT[0]) for size in SIZES}
    ports = free_base(33_000, 3 * 10 + 2 * len(models))
    write_deployment(root, models, ports, entry_extras=extras)
    for size in SIZES:
        text = root / "groups" / "entry" / f"null_{size}" / "config.pbtxt"
        text.write_text(text.read_text() + 'parameters { key: "transport" value { string_value: "null" } }\n')


def _frame(size: str) -> TensorSpec:
    return TensorSpec("frame", "FP32", (SIZES[size][0],))


def _model(kind: str, size: str, batch_size: int, workers: int, latency_us: int) -> EmulatedModel:
    stage = EmulatedStage((latency_us,) * BATCH, ("stage",) * workers, OUTPUT)
    return EmulatedModel(
        name=f"{kind}_{size}",
        slo_us=_SLO_US[size],
        planned_rps=10_000.0,
        input=_frame(size),
        pipelines=(EmulatedPipeline(batch_size=batch_size, stages=(stage,)),),
        late="serve",
    )


def _throughput(deployment: ServedDeployment, size: str, turns: int) -> dict[str, Any]:
    entry = deployment.manifest.entry
    address = entry.grpc_address
    kinds = [
        Kind("bare", f"bare_{size}"),
        Kind("null", f"null_{size}"),
        Kind("hop", f"hop_{size}"),
    ]
    _, concurrency, requests = SIZES[size]
    rates: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    cpu: dict[str, dict[str, list[float]]] = {kind.name: {} for kind in kinds}
    batches: list[float] = []
    for turn in range(turns):
        for kind in kinds if turn % 2 else kinds[::-1]:
            before, frames = cpu_time_of(deployment), frames_of(address, kind.model)
            served = _served_by_stages(deployment, size)
            measured = run_perf(address, kind.model, concurrency, requests)
            if kind.name == "hop":
                frames_served, batches_served = _served_by_stages(deployment, size)
                batches.append((frames_served - served[0]) / (batches_served - served[1]))
            rates[kind.name].append(measured.rps)
            frames = frames_of(address, kind.model) - frames
            for part, used_us in _by_role(cpu_time_of(deployment).since(before), kind).items():
                cpu[kind.name].setdefault(part, []).append(used_us / frames)
    return {
        f"null_ratio_{size}": _ratio(rates["null"], rates["bare"]),
        f"hop_ratio_{size}": _ratio(rates["hop"], rates["bare"]),
        f"mean_batch_{size}": round(statistics.median(batches), 1),
        f"rps_{size}": {name: round(statistics.median(values)) for name, values in rates.items()},
        f"cpu_us_per_frame_{size}": {
            name: {part: round(statistics.median(values)) for part, values in parts.items()}
            for name, parts in cpu.items()
        },
    }


def _served_by_stages(deployment: ServedDeployment, size: str) -> tuple[int, int]:
    """(frames, batches) that the stage of `hop` has had so far."""
    stage = deployment.manifest.servers[0]
    with triton.InferenceServerClient(stage.grpc_address) as client:
        statistics = [
            client.get_inference_statistics(f"hop_{size}.p0.s0.w{worker}").model_stats[0]
            for worker in range(_WORKERS)
        ]
    return sum(each.inference_count for each in statistics), sum(each.execution_count for each in statistics)


def _by_role(used_us: Mapping[str, int], kind: Kind) -> dict[str, int]:
    """Of the processes that take part: entry server, its stub, stage server, its stubs."""
    roles: dict[str, int] = {}
    for name, used in used_us.items():
        server, _, model = name.partition("/")
        if not model:
            role = f"{server} server"
        elif model == kind.model or model.startswith(kind.model + ".p"):
            role = f"{server} stub"
        else:
            continue
        roles[role] = roles.get(role, 0) + used
    return roles


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(statistics.median(mine / bare for mine, bare in zip(ours, theirs, strict=True)), 3)


def _added_latency(manifest: DeploymentManifest, size: str, keys: Keys) -> dict[str, float]:
    """Median of (through the dispatcher - directly to the stage), frames sent in turn, one at a time."""
    entry, stage = manifest.entry, manifest.servers[0]
    spec = _frame(size)
    tensor = triton.InferInput(spec.name, [1, *spec.shape], spec.dtype)
    tensor.set_data_from_numpy(np.zeros((1, *spec.shape), np.float32))
    through, direct = [], []
    with (
        triton.InferenceServerClient(entry.grpc_address) as dispatcher,
        triton.InferenceServerClient(stage.grpc_address) as worker,
    ):
        for _ in range(_LONE_FRAMES):
            through.append(_time(dispatcher, f"hop1_{size}", tensor, {}))
            direct.append(_time(worker, f"hop1_{size}.p0.s0.w0", tensor, _ticket(manifest, size, keys)))
    return {
        f"added_ms_p50_{size}": round((statistics.median(through) - statistics.median(direct)) * 1e3, 3),
        f"direct_ms_p50_{size}": round(statistics.median(direct) * 1e3, 3),
    }


def _ticket(manifest: DeploymentManifest, size: str, keys: Keys) -> dict[str, str]:
    """What a dispatcher would send along, for one frame now."""
    at_us = now_us()
    hop = tensor_hop(f"hop1_{size}.p0.s0.w0", at_us, at_us, at_us, at_us)
    ticket = plain_ticket(batch_id=at_us, attempt=0, pipeline=0, deadline_us=at_us + 1_000_000, hops=(hop,))
    wire = ticket_codec.WireTicket(manifest.deployment, manifest.epoch, hop=0, ticket=ticket)
    return {ticket_codec.PARAMETER: ticket_codec.encode(wire, keys)}


def _time(client: Any, model: str, tensor: Any, parameters: Mapping[str, str]) -> float:
    began_s = time.perf_counter()
    client.infer(model, [tensor], parameters=dict(parameters))
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main("What a dispatcher costs, against a bare Python model on the same server.", run, turns=5)
