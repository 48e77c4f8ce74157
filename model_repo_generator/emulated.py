"""Small deployments of emulated GPUs, made without planner or profile: for benchmarks and tests of the data
plane.

The repositories are what `ppipe generate` would write for such a plan, made by the same generator
functions, so real tritonservers serve them through ppipe.serving.launcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from model_repo_generator import config, naming
from model_repo_generator.cascades import cascade_entry, cascade_files
from model_repo_generator.chains import chains_of
from model_repo_generator.model_files import (
    MANIFEST_FROM_MODEL,
    Files,
    RepositoryLayout,
    chain_files,
    python_model,
    stage_config,
    worker_files,
)
from model_repo_generator.places import server_table
from planner import serial
from planner.cascades.data import Cascade
from planner.cascades.served import CascadeEntry
from planner.cluster import Executor
from planner.ingress import PrepareRecipe
from planner.leases import LeasesAt
from planner.manifest import (
    MANIFEST_NAME,
    DeploymentManifest,
    EntryPorts,
    ModelEntry,
    ServerAddress,
    StageProgram,
)
from planner.places import ADDRESSES_NAME
from planner.profile import TensorSpec
from planner.serving import (
    ServedModel,
    ServedPipeline,
    ServedStage,
    ServedWorker,
    WorkerPlace,
    worker_name,
)
from planner.shards import Shard
from planner.streams import StreamPolicy

LOOPBACK = "127.0.0.1"
_LONGEST_US = 60_000_000
"""What is measured with these are servers, not how long callers may wait."""
_EPOCH = 1


@dataclass(frozen=True)
class EmulatedStage:
    """latency_us[b - 1]: of a batch of b. servers: one name per worker. output: what it hands on, per
    frame.
    """

    latency_us: tuple[int, ...]
    servers: tuple[str, ...]
    output: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class EmulatedPipeline:
    """transfer_us[k][b - 1]: the hop after stage k."""

    batch_size: int
    stages: tuple[EmulatedStage, ...]
    transfer_us: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class EmulatedModel:
    """One model. Every pipeline takes `input` and ends in the same outputs.

    prepare: what clients send instead, and what first stages make of it; None: clients send `input`.
    longest_timeout_us: that a caller may ask for; None: as a deployment that does not say.
    """

    name: str
    slo_us: int
    planned_rps: float
    input: TensorSpec
    pipelines: tuple[EmulatedPipeline, ...]
    late: Literal["drop", "serve"] = "drop"
    prepare: PrepareRecipe | None = None
    streams: StreamPolicy | None = None
    longest_timeout_us: int | None = _LONGEST_US


@dataclass(frozen=True)
class EmulatedCascade:
    """Of emulated models, whose SLOs are their parts."""

    cascade: Cascade
    planned_rps: float
    in_order: bool = False


def write_deployment(
    root: Path,
    models: Sequence[EmulatedModel],
    base_port: int,
    name: str = "emulated",
    dispatcher_parameters: Mapping[str, str] | None = None,
    stage_parameters: Mapping[str, str] | None = None,
    entry_extras: Mapping[str, Mapping[str, str]] | None = None,
    chains: bool = False,
    hosts: Mapping[str, str] | None = None,
    cascades: Sequence[EmulatedCascade] = (),
    shards: Mapping[str, Sequence[Shard]] | None = None,
    leases: LeasesAt | None = None,
) -> DeploymentManifest:
    """Write manifest and repositories under `root`; ports count up from `base_port`. chains: also call a
    pipeline within one server as an ensemble. hosts: addresses of servers that are not on loopback. shards:
    by model, where there are several entries, which are those in the shards' orders.
    """
    entries = tuple(_entry(model, base_port + index) for index, model in enumerate(models))
    entries = tuple(replace(entry, shards=tuple((shards or {}).get(entry.model, ()))) for entry in entries)
    if chains:
        entries = tuple(replace(entry, chains=chains_of(entry.served)) for entry in entries)
    return write_entries(
        root,
        entries,
        base_port + len(models),
        name,
        dispatcher_parameters,
        stage_parameters,
        entry_extras,
        hosts,
        cascades,
        leases,
    )


def write_entries(
    root: Path,
    entries: Sequence[ModelEntry],
    base_port: int,
    name: str = "emulated",
    dispatcher_parameters: Mapping[str, str] | None = None,
    stage_parameters: Mapping[str, str] | None = None,
    entry_extras: Mapping[str, Mapping[str, str]] | None = None,
    hosts: Mapping[str, str] | None = None,
    cascades: Sequence[EmulatedCascade] = (),
    leases: LeasesAt | None = None,
) -> DeploymentManifest:
    """As write_deployment, for entries made elsewhere.

    entry_extras: further models of the entry server by name, each as {path below its folder: text}.
    """
    manifest = _manifest(entries, base_port, name, len(cascades))
    served = tuple(_cascade(one, entries, base_port + number) for number, one in enumerate(cascades))
    extras = entry_extras or {}
    doors = (*manifest.entry.models, *(one.name for one in served), *extras)
    more = tuple(replace(each, server=replace(each.server, models=doors)) for each in manifest.more_entries)
    manifest = replace(manifest, entry=replace(manifest.entry, models=doors), more_entries=more)
    manifest = _moved(replace(manifest, cascades=served, leases=leases), hosts or {})
    files = {MANIFEST_NAME: serial.dumps(manifest), ADDRESSES_NAME: serial.dumps(server_table(manifest))}
    for entry in manifest.models:
        layout = RepositoryLayout(parameters=stage_parameters or {})
        files.update(_dispatcher_files(entry, dispatcher_parameters or {}))
        files.update(worker_files(manifest, entry, layout, {}, stage_config))
        files.update(chain_files(manifest, entry, layout))
    for cascade in served:
        first = manifest.model(cascade.first.model)
        files.update(cascade_files(cascade, first, RepositoryLayout()))
    for extra, texts in extras.items():
        folder = naming.group_folder(naming.ENTRY_GROUP)
        files |= {f"{folder}/{extra}/{path}": text for path, text in texts.items()}
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return manifest


def _cascade(wanted: EmulatedCascade, entries: Sequence[ModelEntry], metrics_port: int) -> CascadeEntry:
    of = {entry.model: entry for entry in entries}
    return cascade_entry(
        wanted.cascade,
        {each.model: of[each.model].served.slo_us for each in wanted.cascade.members},
        wanted.planned_rps,
        {each.model: of[each.model].outputs for each in wanted.cascade.members},
        metrics_port,
        wanted.in_order,
    )


def _moved(manifest: DeploymentManifest, hosts: Mapping[str, str]) -> DeploymentManifest:
    """With some servers at other addresses."""

    def moved(server: ServerAddress) -> ServerAddress:
        return replace(server, host=hosts.get(server.name, server.host))

    more = tuple(replace(each, server=moved(each.server)) for each in manifest.more_entries)
    servers = tuple(map(moved, manifest.servers))
    return replace(manifest, entry=moved(manifest.entry), more_entries=more, servers=servers)


def build_manifest(models: Sequence[EmulatedModel], base_port: int, name: str) -> DeploymentManifest:
    """The manifest alone; servers in the order in which stages name them."""
    entries = tuple(_entry(model, base_port + index) for index, model in enumerate(models))
    return _manifest(entries, base_port + len(models), name)


def _manifest(entries: Sequence[ModelEntry], ports: int, name: str, cascades: int = 0) -> DeploymentManifest:
    """ports: from here on they are free; those of so many cascades' pages come first."""
    ports += cascades
    loads: dict[str, list[str]] = {}
    for entry in entries:
        for _, worker in entry.served.workers():
            loads.setdefault(worker.server, []).append(worker.name)
        for chain in entry.chains:
            loads[chain.server].append(chain.name)
    dispatchers = tuple(entry.dispatcher for entry in entries)
    first, *others = next((entry.shards[0].order for entry in entries if entry.shards), ("entry",))
    ends = ports + 3 * (len(loads) + 1)
    step = 3 + len(entries) + cascades
    return DeploymentManifest(
        deployment=name,
        epoch=_EPOCH,
        plan_hash="",
        entry=replace(_address("entry", ports, dispatchers), name=first),
        servers=tuple(
            _address(server, ports + 3 * (index + 1), tuple(workers))
            for index, (server, workers) in enumerate(loads.items())
        ),
        models=tuple(entries),
        more_entries=tuple(
            EntryPorts(
                replace(_address("entry", ends + step * index, dispatchers), name=name),
                {entry.model: ends + step * index + 3 + at for at, entry in enumerate(entries)},
            )
            for index, name in enumerate(others)
        ),
    )


def _entry(model: EmulatedModel, feedback_port: int) -> ModelEntry:
    pipelines = tuple(_pipeline(model, index) for index in range(len(model.pipelines)))
    return ModelEntry(
        model=model.name,
        dispatcher=naming.dispatcher(model.name),
        input=model.input,
        outputs=model.pipelines[0].stages[-1].output,
        feedback_port=feedback_port,
        late=model.late,
        served=ServedModel(
            model=model.name,
            slo_us=model.slo_us,
            planned_rps=model.planned_rps,
            pipelines=pipelines,
            streams=model.streams,
        ),
        programs=tuple(_programs(model.input, pipeline) for pipeline in model.pipelines),
        prepare=model.prepare,
        longest_timeout_us=model.longest_timeout_us,
    )


def _pipeline(model: EmulatedModel, index: int) -> ServedPipeline:
    pipeline = model.pipelines[index]
    return ServedPipeline(
        batch_size=pipeline.batch_size,
        stages=tuple(
            ServedStage(
                gpu="emulated",
                slices_per_gpu=1,
                latency_us=stage.latency_us,
                workers=tuple(
                    ServedWorker(
                        name=worker_name(model.name, WorkerPlace(index, position, worker)),
                        server=server,
                        uplink=f"{server}.up",
                        downlink=f"{server}.down",
                    )
                    for worker, server in enumerate(stage.servers)
                ),
            )
            for position, stage in enumerate(pipeline.stages)
        ),
        transfer_us=pipeline.transfer_us
        or tuple((0,) * len(stage.latency_us) for stage in pipeline.stages[1:]),
    )


def _programs(model_input: TensorSpec, pipeline: EmulatedPipeline) -> tuple[StageProgram, ...]:
    inputs: tuple[TensorSpec, ...] = (model_input,)
    programs = []
    for stage in pipeline.stages:
        programs.append(
            StageProgram(
                program="",
                program_sha256="",
                inputs=inputs,
                outputs=stage.output,
                executor=Executor.EMULATED,
                max_batch_size=len(stage.latency_us),
            )
        )
        inputs = stage.output
    return tuple(programs)


def _address(name: str, port: int, models: tuple[str, ...]) -> ServerAddress:
    return ServerAddress(
        name=name,
        group=name,
        host=LOOPBACK,
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        repository=naming.group_folder(name),
        models=models,
    )


def _dispatcher_files(entry: ModelEntry, extra: Mapping[str, str]) -> Files:
    parameters = {"manifest": MANIFEST_FROM_MODEL, "model": entry.model, **extra}
    text = config.dispatcher_config(
        entry.dispatcher, entry.public_inputs, entry.outputs, parameters, entry.ways_in
    )
    folder = f"{naming.group_folder(naming.ENTRY_GROUP)}/{entry.dispatcher}"
    return python_model(folder, text, "dispatcher", RepositoryLayout())
