"""A placed plan -> DeploymentManifest: which server loads which Triton models, which program a stage runs.

Rules
- Groups are GPU classes: servers of one class share a repository folder and load only their own workers.
- Servers without work are left out: nothing would be started there.
- A stage's tensors are the profile's: cut k lies after block k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from model_repo_generator import naming
from model_repo_generator.cascades import cascade_entries
from model_repo_generator.chains import chain_names
from model_repo_generator.entry import EntryModels
from model_repo_generator.places import bare_address, split_digest
from planner import serial
from planner.cascades.served import CascadeEntry
from planner.cluster import Cluster, EntryServer, Executor
from planner.deployment import Deployment, ModelSpec
from planner.manifest import (
    LONGEST_SLOS,
    Chain,
    DeploymentManifest,
    EntryPorts,
    ModelEntry,
    ServerAddress,
    StageProgram,
)
from planner.memory import worker_bytes
from planner.plan import BlockRange, Plan
from planner.profile import ModelProfile, Profile, TensorSpec
from planner.serving import ServedModel


def build_manifest(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    served: Mapping[str, ServedModel],
    entries: Mapping[str, EntryModels],
    chains: Mapping[str, tuple[Chain, ...]],
    *,
    epoch: int,
    program_hashes: Mapping[str, str],
    versions: Mapping[str, str],
) -> DeploymentManifest:
    """Everything that the run time must agree on. The plan must have passed checks.check_plan."""
    cluster = deployment.to_cluster()
    cascades = cascade_entries(deployment, plan, cluster, entries)
    return DeploymentManifest(
        deployment=deployment.name,
        epoch=epoch,
        plan_hash=serial.content_hash(plan),
        entry=_entry_address(cluster.entry, entries, cascades),
        servers=server_addresses(cluster, _loaded(served, chains)),
        models=tuple(
            _model_entry(
                deployment,
                spec,
                index,
                cluster,
                profile,
                plan,
                served[spec.name],
                entries,
                program_hashes,
                chains[spec.name],
            )
            for index, spec in enumerate(deployment.models)
        ),
        versions=versions,
        tls=deployment.to_tls(),
        unsigned_tickets=deployment.doors.unsigned_tickets,
        cascades=cascades,
        more_entries=tuple(
            EntryPorts(
                _entry_address(entry, entries, cascades),
                {spec.name: entry.feedback_port + index for index, spec in enumerate(deployment.models)},
            )
            for entry in cluster.more_entries
        ),
        leases=deployment.to_leases(),
    )


def stage_inputs(profile: ModelProfile, blocks: BlockRange) -> tuple[TensorSpec, ...]:
    """Live tensors at the stage's front, in its program's positional order."""
    return profile.inputs if blocks.start == 0 else profile.cut_tensors[blocks.start - 1]


def stage_outputs(profile: ModelProfile, blocks: BlockRange) -> tuple[TensorSpec, ...]:
    """Live tensors at the stage's end, in its program's positional order."""
    return profile.outputs if blocks.end == profile.block_count else profile.cut_tensors[blocks.end - 1]


def stage_program(
    profile: ModelProfile,
    blocks: BlockRange,
    cluster: Cluster,
    gpu: str,
    max_batch_size: int,
    program_hashes: Mapping[str, str],
    split: str,
    slices_per_gpu: int = 1,
) -> StageProgram:
    """What the workers of a stage of blocks [start, end) on `gpu`, cut into equal slices, run. split: digits
    of the split, as in names of workers.
    """
    gpu_class = cluster.gpu_class(gpu)
    emulated = gpu_class.executor is Executor.EMULATED
    path = "" if emulated else naming.program_list(profile.model, split)
    return StageProgram(
        program=path,
        program_sha256=program_hashes.get(path, ""),
        inputs=stage_inputs(profile, blocks),
        outputs=stage_outputs(profile, blocks),
        executor=gpu_class.executor,
        max_batch_size=max_batch_size,
        padded=gpu_class.stated is not None and not emulated,
        options=profile.options,
        precision_error=None if emulated else profile.precision_error,
        imports=profile.imports,
        memory_bytes=worker_bytes(gpu_class, slices_per_gpu),
        first_block=0 if emulated else blocks.start,
        past_block=0 if emulated else blocks.end,
    )


def worker_names(served: Mapping[str, ServedModel]) -> Mapping[str, tuple[str, ...]]:
    """Per server, the Triton models of its workers, in (model, pipeline, stage, worker) order."""
    names: dict[str, list[str]] = {}
    for model in served.values():
        for _, worker in model.workers():
            names.setdefault(worker.server, []).append(worker.name)
    return {server: tuple(workers) for server, workers in names.items()}


def _loaded(
    served: Mapping[str, ServedModel], chains: Mapping[str, tuple[Chain, ...]]
) -> Mapping[str, tuple[str, ...]]:
    """Workers first: an ensemble needs its steps."""
    ensembles = chain_names([chain for model in served for chain in chains[model]])
    return {server: (*names, *ensembles.get(server, ())) for server, names in worker_names(served).items()}


def server_addresses(cluster: Cluster, workers: Mapping[str, tuple[str, ...]]) -> tuple[ServerAddress, ...]:
    """The servers that have workers, in the cluster's order."""
    return tuple(
        replace(
            bare_address(server),
            repository=naming.group_folder(server.gpu),
            models=workers[server.name],
            gpu_count=server.gpu_count,
            devices=server.devices,
        )
        for server in cluster.servers
        if server.name in workers
    )


def entry_address(entry: EntryServer, models: tuple[str, ...]) -> ServerAddress:
    """An entry server and what it loads: all of them load the same."""
    return ServerAddress(
        name=entry.name,
        group=naming.ENTRY_GROUP,
        host=entry.host,
        http_port=entry.http_port,
        grpc_port=entry.grpc_port,
        metrics_port=entry.metrics_port,
        repository=naming.group_folder(naming.ENTRY_GROUP),
        models=models,
    )


def _entry_address(
    entry: EntryServer, entries: Mapping[str, EntryModels], cascades: Sequence[CascadeEntry]
) -> ServerAddress:
    names = (name for models in entries.values() for name in models.names())
    return entry_address(entry, (*names, *(cascade.name for cascade in cascades)))


def _longest_us(deployment: Deployment, spec: ModelSpec) -> int | None:
    """A cascade's member may have all of the time that the cascade's callers may ask for."""
    if spec.longest_timeout_ms is not None:
        return round(spec.longest_timeout_ms * 1000)
    for cascade in deployment.cascades:
        if any(member.model == spec.name for member in cascade.models):
            return LONGEST_SLOS * round(cascade.slo_ms * 1000)
    return None


def _model_entry(
    deployment: Deployment,
    spec: ModelSpec,
    index: int,
    cluster: Cluster,
    profile: Profile,
    plan: Plan,
    served: ServedModel,
    entries: Mapping[str, EntryModels],
    program_hashes: Mapping[str, str],
    chains: tuple[Chain, ...],
) -> ModelEntry:
    measured = profile.model(spec.name)
    split = split_digest(spec, measured)
    models = entries[spec.name]
    return ModelEntry(
        model=spec.name,
        dispatcher=models.dispatch.name,
        input=models.input,
        outputs=models.outputs,
        feedback_port=cluster.entry.feedback_port + index,
        late=spec.late,
        longest_timeout_us=_longest_us(deployment, spec),
        served=served,
        programs=tuple(
            tuple(
                stage_program(
                    measured,
                    planned.blocks,
                    cluster,
                    planned.gpu,
                    len(stage.latency_us),
                    program_hashes,
                    split,
                    planned.slices_per_gpu,
                )
                for planned, stage in zip(pipeline.stages, served_pipeline.stages, strict=True)
            )
            for pipeline, served_pipeline in zip(
                plan.model(spec.name).pipelines, served.pipelines, strict=True
            )
        ),
        chains=chains,
        prepare=models.prepare,
        finish=models.finish,
        body_ensemble=models.body.name if models.body else "",
        shards=next((each.shards for each in plan.shards if each.model == spec.name), ()),
    )
