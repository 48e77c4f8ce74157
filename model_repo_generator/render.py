"""A placed plan -> {path: text} of all model repositories. Pure: same arguments, same bytes; no I/O.

Layout (paths relative to deployment.json's folder)
    deployment.json                                   names and addresses (planner.manifest)
    programs/<model>.b<start>-<end>.pt2               not rendered: exported by model_repo_generator.export
    addresses.json                                      addresses, for stages (planner.places)
    groups/<GPU class>/<worker>/config.pbtxt, place.json, 1/model.py
    labels/<model>.txt                                of a model's classes, for the hosts of its last stages
    groups/entry/<model>[_body]/...
model.py files are fixed texts; all that comes from the deployment is data in config.pbtxt or deployment.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from model_repo_generator import config, naming
from model_repo_generator.assemble import build_manifest
from model_repo_generator.cascades import cascade_files
from model_repo_generator.chains import GpuIds, chains_of, placed_name, seats_of
from model_repo_generator.checking.fit import check_plan
from model_repo_generator.entry import EntryModels, entry_models
from model_repo_generator.model_files import (
    MANIFEST_FROM_MODEL,
    RepositoryLayout,
    Seats,
    chain_files,
    python_model,
    stage_config,
    worker_files,
)
from model_repo_generator.places import planned_places, server_table, split_digest
from model_repo_generator.shims import ensemble_version
from planner import serial
from planner.cluster import Cluster
from planner.deployment import Deployment, ModelSpec
from planner.manifest import MANIFEST_NAME, Chain, DeploymentManifest
from planner.places import ADDRESSES_NAME
from planner.plan import Plan
from planner.profile import ModelProfile, Profile, ProgramFormat
from planner.serving import ServedModel

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
    seats = {spec.name: _seats(spec, profile.model(spec.name), plan) for spec in deployment.models}
    served = {model: _named(tables, seats[model]) for model, tables in served.items()}
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
        name: chains_of(
            served[name], placed_name(seats[name]), _seats_on_gpus(deployment, name, plan, cluster)
        )
        for name in entries
    }
    naming.check_models(
        {name: _all_names(entries[name], served[name], chains[name]) for name in entries}
        | {cascade.name: [cascade.name] for cascade in deployment.cascades}
    )
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
        bundled=bool(bundle),
        parameters=config.environment_parameters(deployment.execution_env),
    )
    files: Files = {
        MANIFEST_NAME: serial.dumps(manifest),
        ADDRESSES_NAME: serial.dumps(server_table(manifest, cluster)),
        **(bundle or {}),
    }
    for spec in deployment.models:
        models = entries[spec.name]
        files.update(_entry_files(models, layout))
        entry = manifest.model(spec.name)
        files.update(worker_files(manifest, entry, layout, seats[spec.name], stage_config))
        files.update(chain_files(manifest, entry, layout))
    for cascade in manifest.cascades:
        files.update(cascade_files(cascade, manifest.model(cascade.first.model), layout))
    return Rendered(manifest=manifest, files=files)


def _seats(spec: ModelSpec, profile: ModelProfile, plan: Plan) -> Seats:
    return planned_places(spec.name, plan, split_digest(spec, profile), profile.block_count)


def _named(served: ServedModel, seats: Seats) -> ServedModel:
    """With workers named after their places."""
    names = iter([naming.worker(served.model, *seats[where]) for where, _ in served.workers()])
    return served.renamed(lambda worker: next(names))


def _all_names(entry: EntryModels, served: ServedModel, chains: Sequence[Chain]) -> list[str]:
    workers = [worker.name for _, worker in served.workers()]
    return [*entry.names(), *workers, *(chain.name for chain in chains)]


def _seats_on_gpus(deployment: Deployment, model: str, plan: Plan, cluster: Cluster) -> GpuIds:
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
