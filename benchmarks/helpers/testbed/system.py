"""The systems that the testbed compares, as real servers with a client: PPipe's plan and NP's plan behind the
dispatcher, and plain Triton (the whole model on every fast GPU, dynamic batching, a client that balances).
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

from benchmarks.helpers.loads.balanced import BalancedLoad, PlainSetting
from benchmarks.helpers.loads.tagged import TaggedFrame, TaggedLoad
from benchmarks.helpers.machines.cpu_time import cpu_time_of, host_busy_us
from model_repo_generator import config
from model_repo_generator.emulated import write_entries
from model_repo_generator.model_files import RepositoryLayout, WorkerModel, worker_files
from planner.manifest import DeploymentManifest, ModelEntry
from planner.serving import ServedWorker
from ppipe.serving import live_metrics
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

_LOOK_EVERY_S = 2.0


class System:
    """One system's servers, and a client for them. A context manager. plain: Triton batches instead, on every
    worker of a plan of whole models, and no entry server is started.
    """

    def __init__(self, entry: ModelEntry, plain: PlainSetting | None = None) -> None:
        self._entry = entry
        self._plain = plain
        self._stack = ExitStack()

    def __enter__(self) -> System:
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ppipe-testbed-")))
        base = free_base(36_000, 40)
        entry = dataclasses.replace(self._entry, feedback_port=base)
        manifest = write_entries(root / "repository", (entry,), base + 1, name="testbed")
        if self._plain is not None:
            make_plain(root / "repository", manifest, self._plain)
        self._manifest = manifest
        self._deployment = self._stack.enter_context(ServedDeployment(root / "repository", root / "logs"))
        self._deployment.start()
        self._load = _load_on(manifest, self._plain)
        self._stack.callback(self._load.close)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def replay(self, arrivals_us: Sequence[int]) -> tuple[list[TaggedFrame], dict[str, float]]:
        """Every frame's end, and what the host did meanwhile."""
        before, busy = cpu_time_of(self._deployment), host_busy_us()
        with _Reserves(self._manifest, looks=self._plain is None) as reserves:
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


@dataclasses.dataclass(frozen=True)
class WholeWorker:
    """One that runs the whole model. latency_us[b - 1]: of a batch of b."""

    worker: ServedWorker
    latency_us: tuple[int, ...]


def whole_workers(entry: ModelEntry) -> list[WholeWorker]:
    """All of a plan of NP's, whose pipelines have one stage."""
    found = []
    for pipeline in entry.served.pipelines:
        (stage,) = pipeline.stages
        found += [WholeWorker(worker, stage.latency_us) for worker in stage.workers]
    return found


def make_plain(root: Path, manifest: DeploymentManifest, setting: PlainSetting) -> None:
    """Write workers of whole models, which Triton batches, in place of stages."""

    def config_of(entry: ModelEntry, made: WorkerModel) -> str:
        stage = entry.served.pipelines[made.place.pipeline].stages[0]
        return config.plain_config(
            made.name,
            made.program.inputs,
            entry.outputs,
            setting.max_batch,
            made.program.executor,
            made.gpu_id,
            made.parameters,
            queue_delay_us=setting.delay_us,
            queue_timeout_us=entry.served.slo_us - stage.latency_us[setting.max_batch - 1],
        )

    (entry,) = manifest.models
    for path, text in worker_files(manifest, entry, RepositoryLayout(), {}, config_of, adapter="plain"):
        (root / path).write_text(text)


def _load_on(manifest: DeploymentManifest, plain: PlainSetting | None) -> TaggedLoad:
    (entry,) = manifest.models
    spec, output, slo_us = entry.input, entry.outputs[0].name, entry.served.slo_us
    if plain is None:
        return TaggedLoad([(manifest.entry.grpc_address, entry.dispatcher)], spec, output, slo_us)
    workers = whole_workers(entry)
    targets = [(manifest.server(each.worker.server).grpc_address, each.worker.name) for each in workers]
    return BalancedLoad(targets, spec, output, slo_us, [each.latency_us for each in workers], plain)
