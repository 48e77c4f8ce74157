"""Three hosts with links of their own: what the plan says, the simulator, and real servers.

An entry and two classes of emulated workers in network namespaces; frames cross real TCP on links that are
shaped both ways and bind before anything else does. Preparing is emulated at the hosts' stated cores (and
once done for real). Clients have a link of their own to the entry. Capacity: the highest load of a grid at
which 99 % of the frames are answered within the SLO.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.helpers.hosts import Host, Link, has_netem, hosts, why_not
from benchmarks.helpers.jpeg_load import JpegLoad, Sent, reasons
from benchmarks.helpers.jpegs import camera_jpegs
from benchmarks.helpers.report import main
from benchmarks.helpers.served_hosts import HostsServed, serve_repository
from model_repo_generator.generate import generate, serving_tables
from planner.deployment import Deployment, parse_deployment
from planner.frames import FrameCost
from planner.plan import Plan
from planner.planning import plan
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec
from planner.serving import ServedModel
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.capacity import Workload, find_capacity, try_load

SIZE = 320
SLO_MS = 400.0
BATCHES = (1, 2, 4, 8)
TARGET = 0.99
CLIENT_LINK = Link(1_000)
PREPARE = FrameCost(fixed_us=300, us_per_pixel=0.0012, us_per_byte=0.006)
"""About what simplejpeg and OpenCV take on one core: 5 ms for a 1080p JPEG."""
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


CASES = (
    Case("350kb", 1920, 1080, 350_000, entry_mbit=200.0, block_us=24_000),
    Case("50kb", 640, 480, 50_000, entry_mbit=100.0, block_us=7_000),
)


def run(
    seconds: float = 10.0, loads: tuple[float, ...] = (0.7, 0.9), over: float = 2.0, cases: int = len(CASES)
) -> Mapping[str, Any]:
    """The figures of this benchmark."""
    if reason := why_not():
        return {"skipped": reason}
    figures: dict[str, Any] = {
        "emulated": True,
        "prepare": "emulated",
        "slo_ms": SLO_MS,
        "netem": has_netem(),
    }
    for case in CASES[:cases]:
        found = _measure(case, seconds, loads, over)
        figures |= found if case is CASES[0] else {case.name: found}
    figures["real_prepare"] = _measure_real(CASES[0], seconds, loads[:1])
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
            capacity_rps = _simulated_capacity(served)
            measured_rps, tried = _measured_capacity(load, capacity_rps, seconds)
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


def _measure_real(case: Case, seconds: float, loads: Sequence[float]) -> dict[str, Any]:
    """Attainment with frames that are decoded for real, by this machine's cores."""
    with _served(case, prepare="real") as (planned, served, fleet):
        jpegs = camera_jpegs(_PICTURES, case.width, case.height, case.frame_bytes)
        load = JpegLoad(fleet.address, served.model, jpegs, served.slo_us)
        with contextlib.closing(load):
            rate_rps = planned.models[0].throughput_rps
            return {
                "prepare": "real",
                "points": [_point(load, served, share * rate_rps, share, seconds) for share in loads],
            }


def _point(
    load: JpegLoad, served: ServedModel, rate_rps: float, share: float, seconds: float
) -> dict[str, Any]:
    frames = load.run(_arrivals(rate_rps, seconds, 3))
    workload = Workload(seconds=seconds, seeds=(3,))
    simulated = try_load(served, "adaptive", rate_rps, workload, target=0.0)
    return {
        "load_factor": share,
        "rate_rps": round(rate_rps, 1),
        "simulated_attainment": round(simulated.attainment or 0.0, 4),
        "measured_attainment": round(_attainment(frames), 4),
        "wrong": sum(frame.wrong for frame in frames),
        "unanswered": sum(frame.ended_us is None for frame in frames),
    }


def _simulated_capacity(served: ServedModel) -> float:
    rates = [served.planned_rps * share / 50 for share in range(10, 75)]
    workload = Workload(seconds=20.0, seeds=(1, 2))
    return find_capacity(served, "adaptive", rates, workload, guess_rps=served.planned_rps).load_rps


def _measured_capacity(load: JpegLoad, guess_rps: float, seconds: float) -> tuple[float, list[list[float]]]:
    """By halving between what is served and what is not, from around what the simulator says."""
    tried: list[list[float]] = []

    def serves(rate_rps: float) -> bool:
        attained = _attainment(load.run(_arrivals(rate_rps, seconds, 4)))
        tried.append([round(rate_rps, 1), round(attained, 4)])
        return attained >= TARGET

    low, high = 0.0, guess_rps * 1.1
    rate_rps = guess_rps * 0.95
    for _ in range(5):
        low, high = (rate_rps, high) if serves(rate_rps) else (low, rate_rps)
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
    links = {
        "entry": Link(case.entry_mbit, jitter_ms=jitter_ms, loss_percent=loss_percent),
        "fast": Link(case.stage_mbit, jitter_ms=jitter_ms, loss_percent=loss_percent),
        "slow": Link(case.stage_mbit, jitter_ms=jitter_ms, loss_percent=loss_percent),
    }
    with (
        tempfile.TemporaryDirectory(prefix="ppipe-hosts-") as folder,
        hosts(links, ("entry", CLIENT_LINK)) as made,
    ):
        root = Path(folder)
        deployment, profile = make_deployment(case, made), make_profile(case)
        planned = plan(deployment.to_problem(profile))
        manifest = generate(deployment, profile, planned, root / "repository")
        if prepare == "real":
            _prepare_for_real(root / "repository")
        served = serving_tables(deployment, profile, planned)["net"]
        with serve_repository(root / "repository", root / "logs", manifest, made) as fleet:
            yield planned, served, fleet


def _prepare_for_real(repository: Path) -> None:
    for path in repository.glob("groups/*/*/config.pbtxt"):
        text = path.read_text()
        path.write_text(text.replace('string_value: "emulated"', 'string_value: "real"'))


def make_deployment(case: Case, made: Mapping[str, Host]) -> Deployment:
    """The three hosts as their owner would describe them."""
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
                    _group("fast", 2, made["fast"].address),
                    _group("slow", 4, made["slow"].address),
                ],
            },
            "models": [
                {
                    "name": "net",
                    "program": {"factory": "nobody:asks"},
                    "input": {"name": "image", "dtype": "FP32", "shape": [3, SIZE, SIZE]},
                    "slo_ms": SLO_MS,
                    "batch_sizes": list(BATCHES),
                    "preprocess": {
                        "kind": "jpeg",
                        "frame": {"width": case.width, "height": case.height, "bytes": case.frame_bytes},
                    },
                }
            ],
        },
        "hosts",
    )


def _group(gpu: str, workers: int, address: str) -> dict[str, Any]:
    servers = [{"name": gpu, "host": address}]
    return {"gpu": gpu, "gpus_per_server": workers, "servers": servers, "cores": 8}


def make_profile(case: Case) -> Profile:
    """Three blocks; the slow class takes two and a half times as long."""
    wide = TensorSpec("relu_1", "FP16", (16, 40, 40))
    narrow = TensorSpec("pool_1", "FP16", (32, 10, 10))
    rows = {"fast": case.block_us, "slow": 2.5 * case.block_us}
    return Profile(
        models=(
            ModelProfile(
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
                prepare=PREPARE,
            ),
        )
    )


if __name__ == "__main__":
    main(__doc__.splitlines()[0], run, seconds=10.0, loads=(0.7, 0.9), over=2.0, cases=len(CASES))
