"""The three hosts of `scripts/benchmarks hosts`: an entry and two classes of emulated workers, planned, made
and served in network namespaces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.helpers.machines.hosts import Host, hosts
from benchmarks.helpers.machines.links import Link
from benchmarks.helpers.machines.served_hosts import HostsServed, serve_repository
from model_repo_generator.generate import generate, serving_tables
from planner.deployment import Deployment, parse_deployment
from planner.frames import FrameCost
from planner.plan import Plan
from planner.planning import plan
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec
from planner.serving import ServedModel

SIZE = 320
SLO_MS = 400.0
BATCHES = (1, 2, 4, 8)
CLIENT_LINK = Link(1_000)
PREPARE = FrameCost(fixed_us=300, us_per_pixel=0.0012, us_per_byte=0.006)
"""About what simplejpeg and OpenCV take on a fast core: 5 ms for a 1080p JPEG."""
REAL_PREPARE = FrameCost(fixed_us=830, us_per_pixel=0.0014, us_per_byte=0.0078)
"""What they take on a core of the machine that docs/measurements.md is of (scripts/benchmarks prepare)."""
CORES = 8
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
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    """Of every host's link; a packet crosses two. That of the clients has none."""
    congestion: str = ""
    """Control of TCP on all hosts; '': this machine's."""

    @property
    def links(self) -> dict[str, Link]:
        """Of the hosts."""
        rates = {"entry": self.entry_mbit, "fast": self.stage_mbit, "slow": self.stage_mbit}
        return {
            name: Link(mbit, self.delay_ms, self.jitter_ms, self.loss_percent) for name, mbit in rates.items()
        }


CASES = (
    Case("350kb", 1920, 1080, 350_000, entry_mbit=200.0, block_us=24_000),
    Case("50kb", 640, 480, 50_000, entry_mbit=100.0, block_us=7_000),
)


@contextlib.contextmanager
def fleet_of(
    case: Case, prepare: str = "emulated", models: int = 1
) -> Iterator[tuple[Plan, Mapping[str, ServedModel], HostsServed]]:
    """A case planned, generated and served; the tables by model."""
    with (
        tempfile.TemporaryDirectory(prefix="ppipe-hosts-") as folder,
        hosts(case.links, ("entry", CLIENT_LINK), clocks_apart=True, congestion=case.congestion) as made,
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
