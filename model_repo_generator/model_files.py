"""From the manifest to the files of models: one way for planned, emulated and plain deployments.

What differs between them is data: a Layout that all models of a repository share, and a Seat for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from model_repo_generator import config
from model_repo_generator.chains import fed_on_device, graph_of
from model_repo_generator.shims import VERSION_FOLDER, ensemble_version, model_py
from model_repo_generator.tensors import stage_tensors
from planner.cluster import Executor
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ModelEntry, StageProgram
from planner.serving import WorkerPlace

MANIFEST_FROM_MODEL = f"../../../{MANIFEST_NAME}"
"""From groups/<group>/<Triton model>/ to the manifest."""

Files = Iterator[tuple[str, str]]
"""(path relative to deployment.json's folder, text) of each file."""


@dataclass(frozen=True)
class RepositoryLayout:
    """What all models of a repository share: the version folder, whether they use its copy of the
    run time, and parameters of every Python model beside the manifest's place.
    """

    version: str = VERSION_FOLDER
    bundled: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seat:
    """What a worker's files say of its place, and parameters of its own."""

    gpu_id: int = 0
    slices_per_gpu: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerModel:
    """A worker for those that write its config: its Triton model, what it runs, and all its parameters."""

    place: WorkerPlace
    name: str
    program: StageProgram
    gpu_id: int
    parameters: Mapping[str, str]


def python_model(
    folder: str, text: str, adapter: str, layout: RepositoryLayout, mps_percentage: int | None = None
) -> Files:
    """The two files of a Python model in `folder`."""
    yield f"{folder}/config.pbtxt", text
    yield f"{folder}/{layout.version}/model.py", model_py(adapter, layout.bundled, mps_percentage)


def worker_files(
    manifest: DeploymentManifest,
    entry: ModelEntry,
    layout: RepositoryLayout,
    seats: Mapping[WorkerPlace, Seat],
    config_of: Callable[[ModelEntry, WorkerModel], str],
    adapter: str = "stage",
) -> Files:
    """Every worker of a model, in (pipeline, stage, worker) order."""
    fed = fed_on_device(entry.chains)
    for place, worker in entry.served.workers():
        program, seat = entry.programs[place.pipeline][place.stage], seats.get(place, Seat())
        made = WorkerModel(
            place=place,
            name=worker.name,
            program=program,
            gpu_id=seat.gpu_id,
            parameters={
                "manifest": MANIFEST_FROM_MODEL,
                "model": entry.model,
                **_preparing(entry, place, program, worker.server),
                **layout.parameters,
                **seat.parameters,
                **(config.INPUTS_STAY_ON_DEVICE if worker.name in fed else {}),
            },
        )
        folder = f"{manifest.server(worker.server).repository}/{worker.name}"
        share = mps_percentage(program, seat.slices_per_gpu)
        yield from python_model(folder, config_of(entry, made), adapter, layout, share)


def _preparing(
    entry: ModelEntry, place: WorkerPlace, program: StageProgram, server: str
) -> Mapping[str, str]:
    """An emulated stage's frames are prepared for as long as that is planned to take, where it is planned."""
    if entry.prepare is None or place.stage or program.executor is not Executor.EMULATED:
        return {}
    planned = entry.served.entry
    counted = planned is not None and any(host.server == server for host in planned.hosts)
    return {"prepare": "emulated" if counted else "real"}


def stage_config(entry: ModelEntry, worker: WorkerModel) -> str:
    """config.pbtxt of a stage's worker."""
    return config.stage_config(
        worker.name,
        *stage_tensors(entry, worker.program),
        worker.program.max_batch_size,
        worker.program.executor,
        worker.gpu_id,
        worker.parameters,
    )


def chain_files(manifest: DeploymentManifest, entry: ModelEntry, layout: RepositoryLayout) -> Files:
    """The ensembles of pipelines within one server."""
    for chain in entry.chains:
        folder = f"{manifest.server(chain.server).repository}/{chain.name}"
        yield f"{folder}/config.pbtxt", config.ensemble_config(graph_of(chain, entry))
        yield from ensemble_version(folder, layout.version)


def mps_percentage(program: StageProgram, slices_per_gpu: int) -> int | None:
    """Share of a GPU's threads that one slice may use; None where there is no GPU or no slice."""
    if program.executor is not Executor.CUDA or slices_per_gpu == 1:
        return None
    return 100 // slices_per_gpu
