"""The systems that the testbed compares, as real servers with a client: PPipe's plan and NP's plan behind the
dispatcher, and plain Triton (the whole model on every fast GPU, dynamic batching, round-robin client).
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.helpers.loads.tagged import TaggedFrame, TaggedLoad
from benchmarks.helpers.machines.cpu_time import cpu_time_of, host_busy_us
from model_repo_generator import config, naming
from model_repo_generator.emulated import write_entries
from model_repo_generator.model_files import MANIFEST_FROM_MODEL
from model_repo_generator.shims import VERSION_FOLDER, model_py
from planner.cluster import Executor
from planner.manifest import DeploymentManifest, ModelEntry
from ppipe.serving import live_metrics
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

PLAIN = "plain"
_LOOK_EVERY_S = 2.0


class System:
    """One system's servers, and a client for them. A context manager."""

    def __init__(self, name: str, entry: ModelEntry) -> None:
        self._plain = name == PLAIN
        self._entry = entry
        self._stack = ExitStack()

    def __enter__(self) -> System:
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ppipe-testbed-")))
        base = free_base(36_000, 40)
        entry = dataclasses.replace(self._entry, feedback_port=base)
        manifest = (_write_plain if self._plain else _write)(root / "repository", entry, base + 1)
        self._manifest = manifest
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
        with _Reserves(self._manifest, looks=not self._plain) as reserves:
            frames = self._load.run(arrivals_us)
        host = host_busy_us().since(busy)
        ours_us = sum(cpu_time_of(self._deployment).since(before).values())
        shares = {"busy_share": host.share, "servers_share": ours_us / host.available_us}
        return frames, shares | {"reserve_us": reserves.median_us}


class _Reserves:
    """Looks now and then at what a dispatcher keeps free before deadlines. A context manager."""

    def __init__(self, manifest: DeploymentManifest, looks: bool) -> None:
        self._manifest = manifest
        self._seen_us: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True) if looks else None

    def __enter__(self) -> _Reserves:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def median_us(self) -> float:
        """Of all looks; 0 without any."""
        return statistics.median(self._seen_us) if self._seen_us else 0.0

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            with contextlib.suppress(OSError):
                page = live_metrics.read(self._manifest, self._manifest.models[0])
                self._seen_us.append(page.total("ppipe_allowance_us") + page.total("ppipe_guard_us"))


def plain_entry(entry: ModelEntry) -> ModelEntry:
    """One-stage workers only: the first pipeline that NP chose has the whole model."""
    served = dataclasses.replace(entry.served, pipelines=entry.served.pipelines[:1])
    return dataclasses.replace(entry, served=served, programs=entry.programs[:1])


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


def _plain_batch(entry: ModelEntry) -> int:
    """The largest batch whose latency fits half of the SLO: the other half is for waiting."""
    latency_us = entry.served.pipelines[0].stages[0].latency_us
    return max([size for size, us in enumerate(latency_us, 1) if 2 * us <= entry.served.slo_us], default=1)


def _targets(manifest: DeploymentManifest, plain: bool) -> list[tuple[str, str]]:
    if not plain:
        return [(manifest.entry.grpc_address, manifest.models[0].dispatcher)]
    workers = manifest.models[0].served.pipelines[0].stages[0].workers
    servers = {worker.name: manifest.server(worker.server) for worker in workers}
    return [(server.grpc_address, name) for name, server in servers.items()]
