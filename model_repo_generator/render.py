"""A placed plan -> {path: text} of all model repositories. Pure: same arguments, same bytes; no I/O.

Layout (paths relative to deployment.json's folder)
    deployment.json                                   names and addresses (planner.manifest)
    programs/<model>.b<start>-<end>.pt2               not rendered: exported by model_repo_generator.export
    groups/<GPU class>/<worker>/config.pbtxt, 1/model.py
    labels/<model>.txt                                of a model's classes, for the hosts of its last stages
    groups/entry/<model>[_body]/...
model.py files are fixed texts; all that comes from the deployment is data in config.pbtxt or deployment.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from model_repo_generator import config, naming
from model_repo_generator.assemble import build_manifest
from model_repo_generator.chains import Seats, chains_of, seats_of
from model_repo_generator.checking.fit import check_plan
from model_repo_generator.entry import EntryModels, entry_models
from model_repo_generator.model_files import (
    MANIFEST_FROM_MODEL,
    RepositoryLayout,
    Seat,
    chain_files,
    python_model,
    stage_config,
    worker_files,
)
from model_repo_generator.shims import ensemble_version
from planner import serial
from planner.cluster import Cluster
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, Chain, DeploymentManifest
from planner.plan import Plan
from planner.profile import Profile, ProgramFormat
from planner.serving import ServedModel, ServedWorker, WorkerPlace

Files = dict[str, str]


@dataclass(frozen=True)
class Rendered:
    """All texts by path, deployment.json included, and what that one says."""

    manifest: DeploymentManifest
    files: Mapping[str, str]


def render(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    served: Mapping[str, ServedModel],
    *,
    epoch: int = 1,
    program_hashes: Mapping[str, str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    versions: Mapping[str, str] | None = None,
    bundle: Mapping[str, str] | None = None,
) -> Rendered:
    """`program_hashes`: SHA-256 by program path; `labels`: per model, the lines of its label file; `bundle`:
    a copy of the run time that the models shall use, as bundle.bundle_files makes it.

    Raises PlanFault, NameFault, EntryFault: all are ValueErrors that name what is wrong.
    """
    labels = labels or {}
    naming.check_groups(gpu_class.name for gpu_class in deployment.cluster.gpu_classes)
    check_plan(deployment, profile, plan, served)
    served = {model: tables.renamed(_in_revision(model, epoch)) for model, tables in served.items()}
    entries = {
        spec.name: entry_models(
            spec,
            profile.model(spec.name).inputs,
            profile.model(spec.name).outputs,
            labels.get(spec.name, ()),
        )
        for spec in deployment.models
    }
    cluster = deployment.to_cluster()
    chains = {
        name: chains_of(served[name], epoch, _seats_on_gpus(deployment, name, plan, cluster))
        for name in entries
    }
    naming.check_models({name: _all_names(entries[name], served[name], chains[name]) for name in entries})
    manifest = build_manifest(
        deployment,
        profile,
        plan,
        served,
        entries,
        chains,
        epoch=epoch,
        program_hashes=program_hashes or {},
        versions=versions or {},
    )
    layout = RepositoryLayout(
        version=str(epoch),
        bundled=bool(bundle),
        parameters=config.environment_parameters(deployment.execution_env),
    )
    files: Files = {MANIFEST_NAME: serial.dumps(manifest), **(bundle or {})}
    for spec in deployment.models:
        models = entries[spec.name]
        files.update(_entry_files(models, layout))
        entry = manifest.model(spec.name)
        seats = _seats(spec.name, plan, manifest.plan_hash, entry.served)
        files.update(worker_files(manifest, entry, layout, seats, stage_config))
        files.update(chain_files(manifest, entry, layout))
    return Rendered(manifest=manifest, files=files)


def _in_revision(model: str, epoch: int) -> Callable[[ServedWorker], str]:
    return lambda worker: naming.of_revision(worker.name, model, epoch)


def _all_names(entry: EntryModels, served: ServedModel, chains: Sequence[Chain]) -> list[str]:
    workers = [worker.name for _, worker in served.workers()]
    return [*entry.names(), *workers, *(chain.name for chain in chains)]


def _seats(model: str, plan: Plan, plan_hash: str, served: ServedModel) -> Mapping[WorkerPlace, Seat]:
    """Where each worker is, and what its config.pbtxt says of that for people."""
    assert plan.placement is not None
    names = {place: worker.name for place, worker in served.workers()}
    seats = {}
    for seat in plan.placement.workers:
        if seat.model == model:
            place = WorkerPlace(seat.pipeline, seat.stage, seat.worker)
            stage = plan.model(model).pipelines[seat.pipeline].stages[seat.stage]
            parameters = {
                "plan_hash": plan_hash,
                "pipeline": str(seat.pipeline),
                "stage": str(seat.stage),
                "worker": str(seat.worker),
                "worker_name": names[place],
                "planned_batch": str(stage.batch_size),
            }
            seats[place] = Seat(seat.gpu_id, stage.slices_per_gpu, parameters)
    return seats


def _seats_on_gpus(deployment: Deployment, model: str, plan: Plan, cluster: Cluster) -> Seats:
    """Of workers whose tensors may stay on their GPU: torch's, whose DLPack hand-over ONNX Runtime lacks."""
    is_torch = deployment.model(model).program.format is ProgramFormat.TORCH
    return seats_of(model, plan, cluster) if is_torch else {}


def _entry_files(models: EntryModels, layout: RepositoryLayout) -> Iterator[tuple[str, str]]:
    root = naming.group_folder(naming.ENTRY_GROUP)
    step = models.dispatch
    # Nothing here may differ between revisions: Triton would start the running version anew.
    parameters = {"manifest": MANIFEST_FROM_MODEL, "model": models.model, **layout.parameters}
    text = config.dispatcher_config(step.name, step.inputs, step.outputs, parameters, models.ways_in)
    yield from python_model(f"{root}/{step.name}", text, "dispatcher", layout)
    if models.finish is not None and models.finish.labels:
        yield models.finish.labels, "".join(f"{label}\n" for label in models.labels)
    if models.body is not None:
        yield f"{root}/{models.body.name}/config.pbtxt", config.ensemble_config(models.body)
        yield from ensemble_version(f"{root}/{models.body.name}", layout.version)
