"""The comparison without PPipe: the unsplit model on every GPU that meets the SLO, batched by Triton itself.

Which GPUs and which batch: plain_plan. Here:
- Queue delay: what the SLO leaves beside two batches, but at most a twentieth of the SLO.
- A frame that has waited so long that its batch would end after the SLO is rejected by Triton's queue policy.
There is no entry server: clients call the workers, each in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

from model_repo_generator import config, naming
from model_repo_generator.assemble import entry_address, server_addresses, stage_program, worker_names
from model_repo_generator.comparison.plain_plan import plain_plan
from model_repo_generator.export import Exporter
from model_repo_generator.generate import export_and_write, installed_versions, serving_tables
from model_repo_generator.model_files import RepositoryLayout, WorkerModel, worker_files
from model_repo_generator.places import planned_places, split_digest
from model_repo_generator.render import Rendered
from planner import serial
from planner.cluster import Cluster
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ModelEntry
from planner.plan import ModelPlan
from planner.profile import ModelProfile, Profile
from planner.serving import ServedModel

DELAY_SHARE = 20
"""The queue delay is at most the SLO over this."""


def render_plain(
    deployment: Deployment,
    profile: Profile,
    *,
    program_hashes: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Rendered:
    """Repositories of `<model>.plain.w<i>`. The manifest's entry server loads nothing and need not run."""
    plan = plain_plan(deployment, profile)
    served = {name: _served(tables) for name, tables in serving_tables(deployment, profile, plan).items()}
    naming.check_groups(gpu_class.name for gpu_class in deployment.cluster.gpu_classes)
    cluster = deployment.to_cluster()
    manifest = DeploymentManifest(
        deployment=deployment.name,
        epoch=1,
        plan_hash=serial.content_hash(plan),
        entry=entry_address(cluster.entry, ()),
        servers=server_addresses(cluster, worker_names(served)),
        models=tuple(
            _model_entry(
                profile.model(model.model),
                model,
                served[model.model],
                cluster,
                program_hashes or {},
                split_digest(deployment.model(model.model), profile.model(model.model)),
            )
            for model in plan.models
        ),
        versions=installed_versions() if versions is None else versions,
    )
    files = {MANIFEST_NAME: serial.dumps(manifest)}
    layout = RepositoryLayout(parameters=config.environment_parameters(deployment.execution_env))
    for entry in manifest.models:
        measured = profile.model(entry.model)
        digest = split_digest(deployment.model(entry.model), measured)
        seats = planned_places(entry.model, plan, digest, measured.block_count)
        files.update(worker_files(manifest, entry, layout, seats, _plain_config, adapter="plain"))
    return Rendered(manifest=manifest, files=files)


def generate_plain(
    deployment: Deployment,
    profile: Profile,
    out_dir: Path,
    *,
    force: bool = False,
    export: bool = True,
    exporter: Exporter | None = None,
) -> DeploymentManifest:
    """Write the repositories of the comparison; arguments and errors as those of generate.generate."""
    return export_and_write(
        deployment,
        profile,
        plain_plan(deployment, profile),
        out_dir,
        lambda hashes: render_plain(deployment, profile, program_hashes=hashes),
        force=force,
        export=export,
        exporter=exporter,
    )


def _served(tables: ServedModel) -> ServedModel:
    """Workers count through all classes: `<model>.plain.w<i>`; tables end at the largest batch allowed."""
    count = itertools.count()
    named = tables.renamed(lambda worker: naming.plain_worker(tables.model, next(count)))
    pipelines = []
    for pipeline in named.pipelines:
        (stage,) = pipeline.stages
        stage = dataclasses.replace(stage, latency_us=stage.latency_us[: pipeline.batch_size])
        pipelines.append(dataclasses.replace(pipeline, stages=(stage,)))
    return dataclasses.replace(named, pipelines=tuple(pipelines))


def _model_entry(
    profile: ModelProfile,
    plan: ModelPlan,
    served: ServedModel,
    cluster: Cluster,
    hashes: Mapping[str, str],
    split: str,
) -> ModelEntry:
    programs = []
    for pipeline in plan.pipelines:
        (stage,) = pipeline.stages
        program = stage_program(
            profile, stage.blocks, cluster, stage.gpu, stage.batch_size, hashes, split, stage.slices_per_gpu
        )
        programs.append((program,))
    return ModelEntry(
        model=plan.model,
        dispatcher="",
        input=profile.inputs[0],
        outputs=profile.outputs,
        feedback_port=0,
        late="drop",
        served=served,
        programs=tuple(programs),
    )


def _plain_config(entry: ModelEntry, worker: WorkerModel) -> str:
    program = worker.program
    batch_us = entry.served.pipelines[worker.place.pipeline].stages[0].latency_us[-1]
    return config.plain_config(
        worker.name,
        program.inputs,
        program.outputs,
        program.max_batch_size,
        program.executor,
        worker.gpu_id,
        worker.parameters,
        queue_delay_us=_queue_delay_us(entry.served.slo_us, program.max_batch_size, batch_us),
        queue_timeout_us=max(1, entry.served.slo_us - batch_us),
    )


def _queue_delay_us(slo_us: int, max_batch_size: int, batch_us: int) -> int:
    if max_batch_size == 1:
        return 0
    return max(0, min(slo_us - 2 * batch_us, slo_us // DELAY_SHARE))
