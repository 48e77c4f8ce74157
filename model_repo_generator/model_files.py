"""From the manifest to the files of models: one way for planned, emulated and plain deployments.

What differs between them is data: a layout that all models of a repository share, and a seat for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from model_repo_generator import config
from model_repo_generator.chains import fed_on_device, graph_of, stage_tensors
from model_repo_generator.places import stage_place, unplanned_place
from model_repo_generator.shims import VERSION_FOLDER, ensemble_version, model_py
from planner import serial
from planner.cluster import Executor
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ModelEntry, StageProgram
from planner.places import PLACE_NAME, Place, StageBlocks, StagePlace
from planner.serving import WorkerPlace

ROOT_FROM_MODEL = "../../.."
"""From groups/<group>/<Triton model>/ to the folder of the manifest and the table of servers."""
MANIFEST_FROM_MODEL = f"{ROOT_FROM_MODEL}/{MANIFEST_NAME}"

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


Seats = Mapping[WorkerPlace, tuple[StageBlocks, Place]]
"""What each worker runs, and where; those of manifests that were made without a plan have none."""


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
    seats: Seats,
    config_of: Callable[[ModelEntry, WorkerModel], str],
    adapter: str = "stage",
) -> Files:
    """Every worker of a model, in (pipeline, stage, worker) order."""
    fed = fed_on_device(entry.chains)
    for place, worker in entry.served.workers():
        program = entry.programs[place.pipeline][place.stage]
        blocks, at = seats[place] if seats else unplanned_place(entry, place)
        own = stage_place(manifest, entry, place, blocks, at)
        made = WorkerModel(
            place=place,
            name=worker.name,
            program=program,
            gpu_id=at.gpu_id,
            parameters={
                "root": ROOT_FROM_MODEL,
                "model": entry.model,
                **_preparing(own),
                **layout.parameters,
                **(config.INPUTS_STAY_ON_DEVICE if worker.name in fed else {}),
            },
        )
        folder = f"{manifest.server(worker.server).repository}/{worker.name}"
        share = mps_percentage(program, at.slices_per_gpu)
        yield f"{folder}/{PLACE_NAME}", serial.dumps(own)
        yield from python_model(folder, config_of(entry, made), adapter, layout, share)


def _preparing(place: StagePlace) -> Mapping[str, str]:
    """An emulated stage's frames are prepared for as long as that is planned to take, where it is planned."""
    if not place.takes_frames or place.program.executor is not Executor.EMULATED:
        return {}
    return {"prepare": "real" if place.prepare_us is None else "emulated"}


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
