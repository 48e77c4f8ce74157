"""Which place in a deployment a stage model has, found in the manifest by its Triton model's name."""

from __future__ import annotations

from dataclasses import dataclass

from planner.manifest import STATUS_OUTPUT, DeploymentManifest, ModelEntry, ServerAddress, StageProgram
from planner.profile import TensorSpec


@dataclass(frozen=True)
class StageIdentity:
    """All that a worker must know of itself.

    latency_us[b - 1]: profiled, for a batch of b.
    """

    deployment: str
    model: str
    pipeline: int
    stage: int
    worker: str
    server: ServerAddress
    program: StageProgram
    latency_us: tuple[int, ...]
    serves_late: bool
    known_workers: frozenset[str]
    next_workers: tuple[str, ...]
    """Workers of the stage after this one; none after the last."""
    probe_answers: tuple[TensorSpec, ...] = ()
    """What a probe is answered with: all that the stage may have to answer, alone or in an ensemble."""
    needs_digest: bool = True
    """Whether what comes from other hosts must be covered by its ticket's digest: without TLS."""


def find_stage(manifest: DeploymentManifest, worker: str) -> tuple[ModelEntry, StageIdentity]:
    """The place of the worker called `worker`. Raises KeyError."""
    for entry in manifest.models:
        for index, pipeline in enumerate(entry.served.pipelines):
            for position, stage in enumerate(pipeline.stages):
                for candidate in stage.workers:
                    if candidate.name == worker:
                        server = manifest.server(candidate.server)
                        return entry, _identity(manifest, entry, index, position, worker, server)
    raise KeyError(f"no worker {worker!r} in deployment {manifest.deployment!r}")


def _identity(
    manifest: DeploymentManifest,
    entry: ModelEntry,
    pipeline: int,
    stage: int,
    worker: str,
    server: ServerAddress,
) -> StageIdentity:
    served = entry.served.pipelines[pipeline]
    return StageIdentity(
        deployment=manifest.deployment,
        model=entry.model,
        pipeline=pipeline,
        stage=stage,
        worker=worker,
        server=server,
        program=entry.programs[pipeline][stage],
        latency_us=served.stages[stage].latency_us,
        serves_late=entry.serves_late,
        known_workers=frozenset(each.name for each_stage in served.stages for each in each_stage.workers),
        next_workers=tuple(
            each.name for following in served.stages[stage + 1 : stage + 2] for each in following.workers
        ),
        needs_digest=manifest.tls is None,
        probe_answers=_probe_answers(entry, entry.programs[pipeline][stage], stage, len(served.stages)),
    )


def _probe_answers(
    entry: ModelEntry, program: StageProgram, stage: int, stages: int
) -> tuple[TensorSpec, ...]:
    answers = {spec.name: spec for spec in program.outputs}
    if stage == 0 and entry.prepare is not None:
        answers[STATUS_OUTPUT.name] = STATUS_OUTPUT
    if stage + 1 == stages:
        answers |= {spec.name: spec for spec in entry.outputs}
    return tuple(answers.values())
