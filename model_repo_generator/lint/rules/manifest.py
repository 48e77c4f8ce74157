"""Generated repositories against deployment.json: what servers load, stage tensors and batches, GPUs, memory.

Rules
- A worker's GPU is what its config says; the manifest says which server it is on and how large its slice is.
- Slices of one GPU sum to at most one GPU, and what its workers need of memory to at most what it has.
- A folder may hold two revisions side by side, for a roll-out: each has its shares, both take memory, and a
  worker of both takes it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.chains import stage_tensors
from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.folders import NotReadable
from model_repo_generator.lint.model import LintedModel, make_finding
from model_repo_generator.lint.rules import hosts as rules_hosts
from model_repo_generator.lint.rules import stage_programs
from model_repo_generator.lint.rules.tensors import type_name
from planner import serial
from planner.cluster import Cluster, Executor
from planner.manifest import DeploymentManifest, ModelEntry, ServerAddress, StageProgram
from planner.memory import context_bytes, server_bytes, stage_bytes
from planner.places import PLACE_NAME, StagePlace
from planner.plan import BlockRange
from planner.profile import ModelProfile, Profile, TensorSpec
from planner.serving import ServedStage, ServedWorker

Linted = Mapping[Path, Mapping[str, LintedModel]]
"""Models by repository folder."""
_GROUP = triton.ModelInstanceGroup


@dataclass(frozen=True)
class _Seat:
    """A worker of a stage, with its Triton model."""

    entry: ModelEntry
    stage: ServedStage
    program: StageProgram
    worker: ServedWorker
    model: LintedModel

    @property
    def gpus(self) -> set[int]:
        """GPU ids that its configuration names."""
        return {gpu for group in self.model.config.instance_group for gpu in group.gpus}


def check(
    manifest: DeploymentManifest,
    shown: str,
    path: Path,
    linted: Linted,
    cluster: Cluster | None,
    profile: Profile | None,
) -> Iterator[Finding]:
    """Every rule. `path`: of the manifest; `shown`: the same for messages."""
    yield from rules_hosts.check(manifest, shown)
    loaded: dict[str, LintedModel] = {}
    for server in manifest.every_server:
        models = linted.get((path.parent / server.repository).resolve())
        if models is not None:
            yield from _loaded(server, shown, models)
            loaded |= {name: models[name] for name in server.models if name in models}
    seats = list(_seats(manifest, loaded))
    for seat in seats:
        yield from _stage(seat, manifest, path)
        # Without a dispatcher (models served unsplit, for comparison) Triton forms the batches.
        if manifest.entry.models and seat.model.config.HasField("dynamic_batching"):
            said = "a stage's batches are formed by the dispatcher; Triton must not join them"
            yield seat.model.finding("manifest", ("dynamic_batching",), said)
    yield from _shares(seats, shown, _gpu_counts(manifest, cluster))
    yield from _unused(manifest, path, linted)
    yield from _memory(seats, shown, cluster, profile)


def _loaded(server: ServerAddress, shown: str, models: Mapping[str, LintedModel]) -> Iterator[Finding]:
    for name in server.models:
        if name not in models:
            said = f"server {server.name!r} loads model {name!r}, which is not in {server.repository}/"
            yield make_finding("manifest-model", name, shown, 0, "servers.models", said)


def _unused(manifest: DeploymentManifest, path: Path, linted: Linted) -> Iterator[Finding]:
    for repository, models in linted.items():
        named = {
            name
            for server in manifest.every_server
            if (path.parent / server.repository).resolve() == repository
            for name in server.models
        }
        for name in models.keys() - named:
            said = "no server of the deployment loads this model"
            yield models[name].file_finding("manifest-unused", "", said)


def _seats(manifest: DeploymentManifest, loaded: Mapping[str, LintedModel]) -> Iterator[_Seat]:
    for entry in manifest.models:
        for pipeline, programs in zip(entry.served.pipelines, entry.programs, strict=False):
            for stage, program in zip(pipeline.stages, programs, strict=False):
                for worker in stage.workers:
                    model = loaded.get(worker.name)
                    if model is not None and model.config is not None:
                        yield _Seat(entry=entry, stage=stage, program=program, worker=worker, model=model)


def _stage(seat: _Seat, manifest: DeploymentManifest, path: Path) -> Iterator[Finding]:
    model, config, program = seat.model, seat.model.config, seat.program
    if config.max_batch_size != program.max_batch_size:
        said = f"{config.max_batch_size}; deployment.json has {program.max_batch_size} for this stage"
        yield model.finding("manifest-batch", ("max_batch_size",), said)
    yield from _place(seat, manifest)
    inputs, outputs = program.inputs, program.outputs
    if manifest.entry.models:  # else nothing is handed on
        inputs, outputs = stage_tensors(seat.entry, program)
    wanted = [("input", config.input, each) for each in inputs]
    wanted += [("output", config.output, each) for each in outputs]
    for kind, tensors, spec in wanted:
        there = {tensor.name: (type_name(tensor.data_type), tuple(tensor.dims)) for tensor in tensors}
        if there.get(spec.name) != _said(spec):
            said = f"{kind} {spec.name!r} must be {spec.dtype} {list(spec.shape)}, as in deployment.json"
            yield model.finding("manifest-tensors", (kind,), said)
    for said in stage_programs.faults_of(program, path.parent):
        yield model.finding("manifest-program", (), said)
    yield from _executor(seat)


def _place(seat: _Seat, manifest: DeploymentManifest) -> Iterator[Finding]:
    """What the worker will read of itself, against what its dispatcher goes by."""
    try:
        text = seat.model.folder.read(PLACE_NAME).decode("utf-8", "replace")
        place = serial.loads(StagePlace, text, PLACE_NAME)
    except (NotReadable, serial.FormatError) as error:
        yield seat.model.file_finding("manifest-place", PLACE_NAME, f"its place cannot be read: {error}")
        return
    for name, told, wanted in (
        ("deployment", place.deployment, manifest.deployment),
        ("worker", place.worker, seat.worker.name),
        ("server", place.place.server, seat.worker.server),
        ("program", place.program, seat.program),
    ):
        if told != wanted:
            said = f"{name} is {told!r:.60}, and deployment.json says {wanted!r:.60}: generate again"
            yield seat.model.file_finding("manifest-place", PLACE_NAME, said)


def _executor(seat: _Seat) -> Iterator[Finding]:
    groups = seat.model.config.instance_group
    wanted = _GROUP.KIND_GPU if seat.program.executor is Executor.CUDA else _GROUP.KIND_CPU
    good = len(groups) == 1 and groups[0].kind == wanted and groups[0].count in (0, 1)
    if not good or (wanted == _GROUP.KIND_GPU and len(groups[0].gpus) != 1):
        one = "on one GPU" if wanted == _GROUP.KIND_GPU else ""
        said = (
            f"executor {seat.program.executor.value} takes one instance of {_GROUP.Kind.Name(wanted)} {one}"
        )
        yield seat.model.finding("manifest-executor", ("instance_group",), said.rstrip())


def _said(spec: TensorSpec) -> tuple[str, tuple[int, ...]]:
    return ("TYPE_STRING" if spec.dtype == "BYTES" else f"TYPE_{spec.dtype}", tuple(spec.shape))


def _gpu_counts(manifest: DeploymentManifest, cluster: Cluster | None) -> Mapping[str, int]:
    """GPUs by server: the deployment's, else those planned with; unknown ones are left out."""
    if cluster is not None:
        return {server.name: server.gpu_count for server in cluster.servers}
    return {server.name: server.gpu_count for server in manifest.servers if server.gpu_count}


def _shares(seats: list[_Seat], shown: str, counts: Mapping[str, int]) -> Iterator[Finding]:
    carried: dict[tuple[str, int], list[_Seat]] = {}
    for seat in seats:
        for gpu in sorted(seat.gpus):
            there = counts.get(seat.worker.server)
            if there is not None and not 0 <= gpu < there:
                said = f"GPU {gpu} is not on server {seat.worker.server!r}, which has {there}"
                yield seat.model.finding("gpu-id", ("instance_group", 0, "gpus"), said)
            carried.setdefault((seat.worker.server, gpu), []).append(seat)
    for (server, gpu), at in carried.items():
        share = sum((Fraction(1, seat.stage.slices_per_gpu) for seat in at), Fraction(0))
        if share > 1:
            said = f"GPU {gpu} of server {server!r} carries {float(share):g} GPUs of work: {_names(at)}"
            yield make_finding("gpu-shared", "", shown, 0, "", said)


def _memory(
    seats: list[_Seat], shown: str, cluster: Cluster | None, profile: Profile | None
) -> Iterator[Finding]:
    if cluster is None or profile is None:
        return
    carried: dict[tuple[str, int], list[_Seat]] = {}
    for seat in seats:
        for gpu in sorted(seat.gpus):
            carried.setdefault((seat.worker.server, gpu), []).append(seat)
    for (server, gpu), at in carried.items():
        gpu_class = cluster.gpu_class(at[0].stage.gpu)
        there = gpu_class.memory_bytes
        tensors = sum(_bytes(seat, profile) for seat in at)
        needed = server_bytes(gpu_class) + len(at) * context_bytes(gpu_class) + tensors
        if there is not None and needed > there:
            said = (
                f"GPU {gpu} of server {server!r} has {there / 2**30:.2f} GiB, and its server and workers "
                f"need {needed / 2**30:.2f}: {_names(at)}"
            )
            yield make_finding("gpu-memory", "", shown, 0, "", said)


def _bytes(seat: _Seat, profile: Profile) -> int:
    """Weights and the activations of the largest batch that Triton would take; 0 if not profiled."""
    measured = next((each for each in profile.models if each.model == seat.entry.model), None)
    blocks = None if measured is None else _blocks(measured, seat.program)
    if measured is None or blocks is None:
        return 0
    return stage_bytes(measured, blocks, seat.model.config.max_batch_size)


def _blocks(measured: ModelProfile, program: StageProgram) -> BlockRange | None:
    """The stage's blocks: between the cuts that its tensors cross."""
    fronts = (measured.inputs, *measured.cut_tensors)
    ends = (*measured.cut_tensors, measured.outputs)
    try:
        start, end = fronts.index(program.inputs), ends.index(program.outputs) + 1
    except ValueError:
        return None
    return BlockRange(start, end) if start < end else None


def _names(at: list[_Seat]) -> str:
    return ", ".join(seat.worker.name for seat in at)
