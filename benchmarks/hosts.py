"""Three hosts with links of their own: what the plan says, the simulator, and real servers.

An entry and two classes of emulated workers in network namespaces; frames cross real TCP on links that are
shaped both ways and bind before anything else does. Preparing is emulated at the hosts' stated cores (and
once done for real). Clients have a link of their own to the entry. Capacity: the highest load of a grid at
which 99 % of the frames are answered within the SLO.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.helpers.loads.jpeg import JpegLoad, Sent, reasons
from benchmarks.helpers.loads.jpegs import camera_jpegs
from benchmarks.helpers.machines.hosts import Host, Link, has_clocks, has_netem, hosts, why_not
from benchmarks.helpers.machines.served_hosts import HostsServed, serve_repository
from benchmarks.helpers.report import main
from model_repo_generator.generate import generate, serving_tables
from planner.deployment import Deployment, parse_deployment
from planner.frames import FrameCost
from planner.plan import Plan
from planner.planning import plan
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec
from planner.serving import ServedModel
from python_backend.scheduler.core import SchedulerCore
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.together import run_together

SIZE = 320
SLO_MS = 400.0
BATCHES = (1, 2, 4, 8)
TARGET = 0.99
CLIENT_LINK = Link(1_000)
PREPARE = FrameCost(fixed_us=300, us_per_pixel=0.0012, us_per_byte=0.006)
"""About what simplejpeg and OpenCV take on a fast core: 5 ms for a 1080p JPEG."""
REAL_PREPARE = FrameCost(fixed_us=830, us_per_pixel=0.0014, us_per_byte=0.0078)
"""What they take on a core of the machine that docs/measurements.md is of (scripts/benchmarks prepare)."""
CORES = 8
_PICTURES = 8
_FIRST_PORT = 24_000


@dataclass(frozen=True)
class Case:
    """Frames of one size, and the entry's link."""

    name: str
    width: int
    height: int
    frame_bytes: int
    entry_mbit: float
    block_us: float
    """Of one block on the fast class, batch 1: chosen so that the fast class alone cannot carry what the
    link can.
    """
    stage_mbit: float = 200.0
    prepare: FrameCost = PREPARE
    cores: int = CORES
    """Of each stage host."""


CASES = (
    Case("350kb", 1920, 1080, 350_000, entry_mbit=200.0, block_us=24_000),
    Case("50kb", 640, 480, 50_000, entry_mbit=100.0, block_us=7_000),
)


def run(
    seconds: float = 10.0,
    loads: tuple[float, ...] = (0.7, 0.9),
    over: float = 2.0,
    cases: int = len(CASES),
    shared: tuple[float, ...] = (1, 6, 20),
) -> Mapping[str, Any]:
    """The figures of this benchmark. shared: numbers of models on one entry."""
    if reason := why_not():
        return {"skipped": reason}
    figures: dict[str, Any] = {
        "emulated": True,
        "prepare": "emulated",
        "slo_ms": SLO_MS,
        "netem": has_netem(),
        "clocks_apart": has_clocks(),
    }
    for case in CASES[:cases]:
        found = _measure(case, seconds, loads, over)
        figures |= found if case is CASES[0] else {case.name: found}
    if shared:
        figures["shared"] = [_measure_shared(CASES[0], int(models), seconds, loads) for models in shared]
    if cases:
        figures["real_prepare"] = _measure_real(CASES[0], seconds, figures["points"])
    if has_netem():
        bad = dataclasses.replace(CASES[0], name="loss")
        figures["loss"] = _measure(bad, seconds, loads[:1], over, jitter_ms=1.0, loss_percent=0.1)
    return figures


def _measure(
    case: Case,
    seconds: float,
    loads: Sequence[float],
    over: float,
    *,
    jitter_ms: float = 0.0,
    loss_percent: float = 0.0,
) -> dict[str, Any]:
    with _served(case, jitter_ms=jitter_ms, loss_percent=loss_percent) as (planned, served, fleet):
        jpegs = camera_jpegs(_PICTURES, case.width, case.height, case.frame_bytes)
        load = JpegLoad(fleet.address, served.model, jpegs, served.slo_us)
        with contextlib.closing(load):
            load.run(_arrivals(0.3 * planned.models[0].throughput_rps, seconds / 2, 9))
            capacity_rps, _ = _capacity(
                lambda times: _simulated(served, times), served.planned_rps, seconds, steps=12
            )
            measured_rps, tried = _capacity(
                lambda times: _attainment(load.run(times)), capacity_rps, seconds, steps=5
            )
            points = [_point(load, served, share * measured_rps, share, seconds) for share in loads]
            base = _goodput(load.run(_arrivals(measured_rps, seconds, 5)), seconds)
            flooded = load.run(_arrivals(over * measured_rps, seconds, 6))
        return {
            "case": dataclasses.asdict(case),
            "bound_by": list(planned.models[0].bound_by),
            "planned_rps": round(planned.models[0].throughput_rps, 1),
            "simulated_capacity_rps": round(capacity_rps, 1),
            "measured_capacity_rps": round(measured_rps, 1),
            "tried": tried,
            "points": points,
            "goodput_at_capacity_rps": round(base, 1),
            "goodput_at_200_over_capacity": round(_goodput(flooded, seconds) / max(base, 1e-9), 3),
            "refusals_at_200": reasons(flooded),
        }


def _measure_shared(case: Case, models: int, seconds: float, loads: Sequence[float]) -> dict[str, Any]:
    """Several models on one entry, whose dispatchers tell each other what they take of its uplink."""
    with fleet_of(case, models=models) as (planned, tables, fleet), contextlib.ExitStack() as stack:
        jpegs = camera_jpegs(_PICTURES, case.width, case.height, case.frame_bytes)
        clients = {name: JpegLoad(fleet.address, name, jpegs, table.slo_us) for name, table in tables.items()}
        for client in clients.values():
            stack.enter_context(contextlib.closing(client))
        _run_together(clients, {name: _arrivals(5.0, 2.0, 9) for name in clients})
        return {
            "models": models,
            "bound_by": sorted({resource for one in planned.models for resource in one.bound_by}),
            "planned_rps": round(sum(one.throughput_rps for one in planned.models), 1),
            "points": [_shared_point(planned, tables, clients, share, seconds) for share in loads],
        }


def _shared_point(
    planned: Plan,
    tables: Mapping[str, ServedModel],
    clients: Mapping[str, JpegLoad],
    share: float,
    seconds: float,
) -> dict[str, Any]:
    arrivals = {
        one.model: _arrivals(share * one.throughput_rps, seconds, seed)
        for seed, one in enumerate(planned.models, start=20)
    }
    runs = _run_together(clients, arrivals)
    frames = [frame for each in runs.values() for frame in each]
    return {
        "load_factor": share,
        "simulated_attainment": _together(tables, arrivals, ledger=True),
        "simulated_attainment_without_ledger": _together(tables, arrivals, ledger=False),
        "measured_attainment": round(_attainment(frames), 4),
        "least_of_a_model": round(min(map(_attainment, runs.values())), 4),
        "wrong": sum(frame.wrong for frame in frames),
        "refusals": reasons(frames),
    }


def _run_together(
    clients: Mapping[str, JpegLoad], arrivals: Mapping[str, Sequence[int]]
) -> dict[str, list[Sent]]:
    with ThreadPoolExecutor(len(clients)) as pool:
        runs = pool.map(lambda name: clients[name].run(arrivals[name]), clients)
        return dict(zip(clients, runs, strict=True))


def _together(tables: Mapping[str, ServedModel], arrivals: Mapping[str, list[int]], ledger: bool) -> float:
    counts = run_together(
        [tables[name] for name in arrivals], [iter(times) for times in arrivals.values()], ledger
    )
    return round(sum(one.in_time for one in counts) / sum(one.offered for one in counts), 4)


def _measure_real(case: Case, seconds: float, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attainment with frames that are decoded for real, by this machine's cores: half of them a host's.
    points: of the same case with frames that are not decoded; at their rates.
    """
    cores = max(1, (os.cpu_count() or 2) // 2)
    case = dataclasses.replace(case, prepare=REAL_PREPARE, cores=cores)
    with _served(case, prepare="real") as (planned, served, fleet):
        jpegs = camera_jpegs(_PICTURES, case.width, case.height, case.frame_bytes)
        load = JpegLoad(fleet.address, served.model, jpegs, served.slo_us)
        with contextlib.closing(load):
            return {
                "prepare": "real",
                "cores_per_host": cores,
                "planned_rps": round(planned.models[0].throughput_rps, 1),
                "points": [
                    _point(load, served, point["rate_rps"], point["load_factor"], seconds) for point in points
                ],
            }


def _point(
    load: JpegLoad, served: ServedModel, rate_rps: float, share: float, seconds: float
) -> dict[str, Any]:
    arrivals = _arrivals(rate_rps, seconds, 3)
    frames = load.run(arrivals)
    return {
        "load_factor": share,
        "rate_rps": round(rate_rps, 1),
        "simulated_attainment": round(_simulated(served, arrivals), 4),
        "measured_attainment": round(_attainment(frames), 4),
        "wrong": sum(frame.wrong for frame in frames),
        "unanswered": sum(frame.ended_us is None for frame in frames),
    }


def _simulated(served: ServedModel, arrivals_us: Sequence[int]) -> float:
    return SimulatedDriver(served, SchedulerCore(served)).run(iter(arrivals_us)).attainment()


def _capacity(
    attained: Callable[[Sequence[int]], float], guess_rps: float, seconds: float, steps: int
) -> tuple[float, list[list[float]]]:
    """By halving between what is served and what is not. The simulator and the servers get the same frames
    at the same times: with so few, another draw would be another capacity.
    """
    tried: list[list[float]] = []
    low, high = 0.0, guess_rps * 1.1
    rate_rps = guess_rps * 0.95
    for _ in range(steps):
        share = attained(_arrivals(rate_rps, seconds, 4))
        tried.append([round(rate_rps, 1), round(share, 4)])
        low, high = (rate_rps, high) if share >= TARGET else (low, rate_rps)
        rate_rps = (low + high) / 2 if low else high * 0.8
    return (low or rate_rps), tried


def _arrivals(rate_rps: float, seconds: float, seed: int) -> list[int]:
    return list(parse_arrivals("poisson", rate_rps).times_us(seconds, seed, "hosts"))


def _attainment(frames: Sequence[Sent]) -> float:
    return statistics.fmean(frame.in_time for frame in frames) if frames else 0.0


def _goodput(frames: Sequence[Sent], seconds: float) -> float:
    return sum(frame.in_time for frame in frames) / seconds


@contextlib.contextmanager
def _served(
    case: Case, prepare: str = "emulated", jitter_ms: float = 0.0, loss_percent: float = 0.0
) -> Iterator[tuple[Plan, ServedModel, HostsServed]]:
    with fleet_of(case, prepare, jitter_ms, loss_percent) as (planned, tables, fleet):
        yield planned, tables["net"], fleet


@contextlib.contextmanager
def fleet_of(
    case: Case,
    prepare: str = "emulated",
    jitter_ms: float = 0.0,
    loss_percent: float = 0.0,
    models: int = 1,
) -> Iterator[tuple[Plan, Mapping[str, ServedModel], HostsServed]]:
    """A case planned, generated and served; the tables by model."""
    links = {
        "entry": Link(case.entry_mbit, jitter_ms=jitter_ms, loss_percent=loss_percent),
        "fast": Link(case.stage_mbit, jitter_ms=jitter_ms, loss_percent=loss_percent),
        "slow": Link(case.stage_mbit, jitter_ms=jitter_ms, loss_percent=loss_percent),
    }
    with (
        tempfile.TemporaryDirectory(prefix="ppipe-hosts-") as folder,
        hosts(links, ("entry", CLIENT_LINK), clocks_apart=True) as made,
    ):
        root = Path(folder)
        deployment, profile = make_deployment(case, made, models), make_profile(case, models)
        planned = plan(deployment.to_problem(profile))
        manifest = generate(deployment, profile, planned, root / "repository")
        if prepare == "real":
            _prepare_for_real(root / "repository")
        tables = serving_tables(deployment, profile, planned)
        with serve_repository(root / "repository", root / "logs", manifest, made) as fleet:
            yield planned, tables, fleet


def _prepare_for_real(repository: Path) -> None:
    for path in repository.glob("groups/*/*/config.pbtxt"):
        text = path.read_text()
        path.write_text(text.replace('string_value: "emulated"', 'string_value: "real"'))


def make_deployment(case: Case, made: Mapping[str, Host], models: int = 1) -> Deployment:
    """The three hosts as their owner would describe them, a GPU of each class for each model at least."""
    return parse_deployment(
        {
            "name": "hosts",
            "cluster": {
                "base_port": _FIRST_PORT,
                "bandwidth_gbps": case.stage_mbit / 1000,
                "entry": {
                    "host": made["entry"].address,
                    "bandwidth_gbps": case.entry_mbit / 1000,
                    "client_bandwidth_gbps": CLIENT_LINK.mbit / 1000,
                    "cores": 4,
                },
                "gpu_classes": [
                    {"name": name, "executor": "emulated", "stated": {"gflop_per_s": 1, "gbyte_per_s": 1}}
                    for name in ("fast", "slow")
                ],
                "groups": [
                    _group("fast", max(2, models), made["fast"].address, case.cores),
                    _group("slow", max(4, models), made["slow"].address, case.cores),
                ],
            },
            "models": [
                {
                    "name": name,
                    "program": {"factory": "nobody:asks"},
                    "input": {"name": "image", "dtype": "FP32", "shape": [3, SIZE, SIZE]},
                    "slo_ms": SLO_MS,
                    "batch_sizes": list(BATCHES),
                    "preprocess": {
                        "kind": "jpeg",
                        "frame": {"width": case.width, "height": case.height, "bytes": case.frame_bytes},
                    },
                }
                for name in _names(models)
            ],
        },
        "hosts",
    )


def _names(models: int) -> list[str]:
    return ["net"] if models == 1 else [f"net{number}" for number in range(models)]


def _group(gpu: str, workers: int, address: str, cores: int) -> dict[str, Any]:
    servers = [{"name": gpu, "host": address}]
    return {"gpu": gpu, "gpus_per_server": workers, "servers": servers, "cores": cores}


def make_profile(case: Case, models: int = 1) -> Profile:
    """Three blocks; the slow class takes two and a half times as long."""
    wide = TensorSpec("relu_1", "FP16", (16, 40, 40))
    narrow = TensorSpec("pool_1", "FP16", (32, 10, 10))
    rows = {"fast": case.block_us, "slow": 2.5 * case.block_us}
    one = ModelProfile(
        model="net",
        cut_bytes=(wide.bytes_per_frame, narrow.bytes_per_frame),
        tables=tuple(
            LatencyTable(
                gpu=gpu,
                slices_per_gpu=1,
                batch_sizes=BATCHES,
                latency_us=(tuple(time_us * (0.6 + 0.4 * batch) for batch in BATCHES),) * 3,
                source=Source.STATED,
            )
            for gpu, time_us in rows.items()
        ),
        cut_tensors=((wide,), (narrow,)),
        inputs=(TensorSpec("image", "FP32", (3, SIZE, SIZE)),),
        outputs=(TensorSpec("logits", "FP32", (10,)),),
        prepare=case.prepare,
    )
    return Profile(models=tuple(dataclasses.replace(one, model=name) for name in _names(models)))


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        run,
        seconds=10.0,
        loads=(0.7, 0.9),
        over=2.0,
        cases=len(CASES),
        shared=(1.0, 6.0, 20.0),
    )
