"""A placed plan -> {path: text} of all model repositories. Pure: same arguments, same bytes; no I/O.

Layout (paths relative to deployment.json's folder)
    deployment.json                                   names and addresses (planner.manifest)
    programs/<model>.b<start>-<end>.pt2               not rendered: exported by model_repo_generator.export
    groups/<GPU class>/<worker>/config.pbtxt, 1/model.py
    groups/entry/<model>[_dispatch|_preprocess|_postprocess|_tensor]/...
model.py files are fixed texts; all that comes from the deployment is data in config.pbtxt or deployment.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ensembles.graphs import StepModel
from model_repo_generator import config, naming
from model_repo_generator.assemble import build_manifest
from model_repo_generator.chains import chains_of, fed_on_device, graph_of, seats_of
from model_repo_generator.checks import check_plan
from model_repo_generator.entry import (
    EntryModels,
    entry_models,
    postprocess_parameters,
    preprocess_parameters,
)
from model_repo_generator.shims import ensemble_version, model_py
from planner import serial
from planner.deployment import Deployment, ModelSpec
from planner.manifest import MANIFEST_NAME, Chain, DeploymentManifest, ModelEntry, StageProgram
from planner.plan import Plan, Stage
from planner.profile import Profile, TensorSpec
from planner.serving import ServedModel

Files = dict[str, str]
MANIFEST_FROM_MODEL = f"../../../{MANIFEST_NAME}"
"""From groups/<group>/<Triton model>/ to the manifest."""


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
    served = {model: _of_revision(tables, epoch) for model, tables in served.items()}
    entries = {
        spec.name: entry_models(
            spec,
            profile.model(spec.name).inputs,
            profile.model(spec.name).outputs,
            labels.get(spec.name, ()),
            epoch,
        )
        for spec in deployment.models
    }
    cluster = deployment.to_cluster()
    chains = {name: chains_of(served[name], epoch, seats_of(name, plan, cluster)) for name in entries}
    naming.check_models(
        {name: _all_names(name, entries[name], served[name], chains[name]) for name in entries}
    )
    manifest = build_manifest(
        deployment,
        profile,
        plan,
        served,
        entries,
        epoch=epoch,
        program_hashes=program_hashes or {},
        versions=versions or {},
    )
    layout = _Layout(
        version=str(epoch),
        bundled=bool(bundle),
        environment=config.environment_parameters(deployment.execution_env),
    )
    files: Files = {MANIFEST_NAME: serial.dumps(manifest), **(bundle or {})}
    for spec in deployment.models:
        models = entries[spec.name]
        files.update(_entry_files(spec, manifest, models, labels.get(spec.name, ()), layout))
        files.update(_stage_files(manifest.model(spec.name), plan, manifest.plan_hash, layout))
        files.update(_chain_files(manifest, manifest.model(spec.name), layout))
    return Rendered(manifest=manifest, files=files)


def merge_outputs(final: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """A stage answers with the model's outputs when it forwards, else with its own; a tensor may be both."""
    names = {tensor.name for tensor in final}
    return (*final, *(tensor for tensor in own if tensor.name not in names))


@dataclass(frozen=True)
class _Layout:
    """The version folder of all models, whether they use the repository's copy of the run time, and the
    parameters that choose their Python.
    """

    version: str
    bundled: bool
    environment: Mapping[str, str]


def _of_revision(served: ServedModel, epoch: int) -> ServedModel:
    return replace(
        served,
        pipelines=tuple(
            replace(
                pipeline,
                stages=tuple(
                    replace(
                        stage,
                        workers=tuple(
                            replace(worker, name=naming.of_revision(worker.name, served.model, epoch))
                            for worker in stage.workers
                        ),
                    )
                    for stage in pipeline.stages
                ),
            )
            for pipeline in served.pipelines
        ),
    )


def _all_names(model: str, entry: EntryModels, served: ServedModel, chains: Sequence[Chain]) -> list[str]:
    workers = [
        worker.name for pipeline in served.pipelines for stage in pipeline.stages for worker in stage.workers
    ]
    return [*entry.names(model), *workers, *(chain.name for chain in chains)]


def _stage_files(entry: ModelEntry, plan: Plan, plan_hash: str, layout: _Layout) -> Iterator[tuple[str, str]]:
    assert plan.placement is not None
    fed = fed_on_device(entry.chains)
    for seat in plan.placement.workers:
        if seat.model != entry.model:
            continue
        stage = plan.model(seat.model).pipelines[seat.pipeline].stages[seat.stage]
        worker = entry.served.pipelines[seat.pipeline].stages[seat.stage].workers[seat.worker]
        folder = f"{naming.group_folder(stage.gpu)}/{worker.name}"
        parameters = {
            "manifest": MANIFEST_FROM_MODEL,
            "plan_hash": plan_hash,
            "model": seat.model,
            "pipeline": str(seat.pipeline),
            "stage": str(seat.stage),
            "worker": str(seat.worker),
            "worker_name": worker.name,
            "planned_batch": str(stage.batch_size),
            **layout.environment,
        }
        if worker.name in fed:
            parameters |= config.INPUTS_STAY_ON_DEVICE
        program = entry.programs[seat.pipeline][seat.stage]
        text = _stage_config(entry, worker.name, program, seat.gpu_id, parameters)
        yield f"{folder}/config.pbtxt", text
        yield (
            f"{folder}/{layout.version}/model.py",
            model_py("stage", layout.bundled, _mps_percentage(stage, program)),
        )


def _chain_files(
    manifest: DeploymentManifest, entry: ModelEntry, layout: _Layout
) -> Iterator[tuple[str, str]]:
    for chain in entry.chains:
        folder = f"{manifest.server(chain.server).repository}/{chain.name}"
        yield f"{folder}/config.pbtxt", config.ensemble_config(graph_of(chain, entry))
        yield from ensemble_version(folder, layout.version)


def _stage_config(
    entry: ModelEntry, name: str, program: StageProgram, gpu_id: int, parameters: Mapping[str, str]
) -> str:
    return config.stage_config(
        name,
        program.inputs,
        merge_outputs(entry.outputs, program.outputs),
        program.max_batch_size,
        program.executor,
        gpu_id,
        parameters,
    )


def _mps_percentage(stage: Stage, program: StageProgram) -> int | None:
    """Share of a GPU's threads that one slice may use; None where there is no GPU or no slice."""
    if program.executor.value != "cuda" or stage.slices_per_gpu == 1:
        return None
    return 100 // stage.slices_per_gpu


def _entry_files(
    spec: ModelSpec,
    manifest: DeploymentManifest,
    models: EntryModels,
    labels: Sequence[str],
    layout: _Layout,
) -> Iterator[tuple[str, str]]:
    root = naming.group_folder(naming.ENTRY_GROUP)
    shared = {"manifest": MANIFEST_FROM_MODEL, "plan_hash": manifest.plan_hash, "model": spec.name}
    step = models.dispatch
    text = config.dispatcher_config(*_tensors(step), {**shared, **layout.environment})
    yield from _python_model(root, step, text, "dispatcher", layout)
    if models.preprocess is not None and spec.preprocess is not None:
        step = models.preprocess
        parameters = {**preprocess_parameters(spec.preprocess), **layout.environment}
        text = config.preprocess_config(*_tensors(step), parameters)
        yield from _python_model(root, step, text, "preprocess", layout)
    if models.postprocess is not None and spec.postprocess is not None:
        step = models.postprocess
        parameters = {**postprocess_parameters(spec.postprocess, labels), **layout.environment}
        text = config.postprocess_config(*_tensors(step), parameters)
        yield from _python_model(root, step, text, "postprocess", layout)
        if labels:
            yield f"{root}/{step.name}/{naming.LABELS_FILE}", "".join(f"{label}\n" for label in labels)
    for graph in models.ensembles(spec.name):
        yield f"{root}/{graph.name}/config.pbtxt", config.ensemble_config(graph)
        yield from ensemble_version(f"{root}/{graph.name}", layout.version)


def _tensors(step: StepModel) -> tuple[str, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    return step.name, step.inputs, step.outputs


def _python_model(
    root: str, step: StepModel, text: str, adapter: str, layout: _Layout
) -> Iterator[tuple[str, str]]:
    yield f"{root}/{step.name}/config.pbtxt", text
    yield f"{root}/{step.name}/{layout.version}/model.py", model_py(adapter, layout.bundled)
