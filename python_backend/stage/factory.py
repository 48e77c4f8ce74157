"""Puts a stage worker together from the manifest: executor, transport to the next stage, notices, keys."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.cluster import Executor
from planner.ingress import PrepareRecipe
from planner.manifest import DeploymentManifest, ModelEntry
from python_backend.stage.beside import BesidePreparer
from python_backend.stage.emulated_preparer import EmulatedPreparer
from python_backend.stage.executors.base import make_executor
from python_backend.stage.preparing import Preparer, TaggingPreparer
from python_backend.stage.worker import Finish, StageWorker
from python_backend.wire.feedback import NoticeSender
from python_backend.wire.keys import KEY_FILE_VARIABLE, Keys
from python_backend.wire.kserve import Array
from python_backend.wire.ragged import FrameInfo
from python_backend.wire.self_report import Reporter, report_of
from python_backend.wire.shm.transport import make_transport
from python_backend.wire.stage_identity import StageIdentity, find_stage
from python_backend.wire.transport import GrpcTransport, targets_of

__all__ = ["find_stage", "make_stage_worker"]


def make_stage_worker(
    manifest: DeploymentManifest,
    root: Path,
    worker: str,
    device: str,
    log: Callable[[str], None],
    jitter: float = 0.0,
    emulate_prepare: bool = False,
) -> StageWorker:
    """The running worker called `worker`, warmed up. emulate_prepare: wait for as long as preparing frames is
    planned to take, instead of doing it. Raises what a wrong manifest or program raises.
    """
    entry, identity = find_stage(manifest, worker)
    keys = Keys.from_environment(manifest.unsigned_tickets)
    if keys.unsigned:
        log(f"{worker}: deployment.yaml says unsigned_tickets, so whoever reaches this server is served")
    elif not keys.signing:
        log(f"{worker}: no ticket key, so every batch is refused: {KEY_FILE_VARIABLE} names its file")
    recipe = entry.prepare if identity.stage == 0 else None
    executor = make_executor(
        identity.program, root, first_stage=identity.stage == 0, device=device, prepare=recipe
    )
    executor.warm_up()
    targets = targets_of(manifest, entry, own_host=identity.server.host)
    next_targets = {name: targets[name] for name in identity.next_workers}
    grpc = GrpcTransport(next_targets, keys, manifest.tls)
    grpc.connect()
    notices = NoticeSender(
        (manifest.entry.host, entry.feedback_port), keys, manifest.entry.host == identity.server.host
    )
    transport = make_transport(grpc, next_targets, manifest, identity.server.name, worker, log)
    reporter = Reporter(lambda: report_of(worker, manifest.epoch, transport), notices.send_datagram, keys)

    def close() -> None:
        reporter.close()
        notices.close()

    return StageWorker(
        identity=identity,
        executor=executor,
        transport=transport,
        keys=keys,
        notify=notices.send,
        log=log,
        jitter=jitter,
        on_close=close,
        preparer=None if recipe is None else make_preparer(recipe, entry, identity, emulate_prepare, log),
        finish=_finish_of(entry, identity, root),
    )


def make_preparer(
    recipe: PrepareRecipe,
    entry: ModelEntry,
    identity: StageIdentity,
    emulated: bool,
    log: Callable[[str], None],
) -> Preparer:
    """What makes clients' frames into a first stage's input.

    Raises ValueError where preparing cannot be emulated.
    """
    planned = entry.served.entry
    cores = {} if planned is None else {host.server: host.cores for host in planned.hosts}
    own_cores = cores.get(identity.server.name)
    if identity.program.executor is not Executor.EMULATED:
        return _real_preparer(recipe, entry, identity, own_cores, log)
    if not emulated:
        return TaggingPreparer(_real_preparer(recipe, entry, identity, own_cores, log))
    if planned is None or own_cores is None:
        raise ValueError(
            f"{identity.worker}: parameter prepare is 'emulated', but the plan has no time for preparing "
            f"frames on {identity.server.name}; 'real' would do"
        )
    return TaggingPreparer(EmulatedPreparer(planned.prepare, own_cores))


def _real_preparer(
    recipe: PrepareRecipe,
    entry: ModelEntry,
    identity: StageIdentity,
    planned_cores: int | None,
    log: Callable[[str], None],
) -> Preparer:
    """Of clients' frames and what comes beside them."""
    # Decoders and OpenCV, which hosts of models without preprocessing need not have.
    module: Any = importlib.import_module("python_backend.stage.real_preparer")
    frames: Preparer = module.real_preparer(recipe, entry.input, identity.worker, planned_cores, log)
    inputs = identity.program.inputs
    place = [spec.name for spec in inputs].index(entry.input.name)
    return frames if len(inputs) == 1 else BesidePreparer(frames, inputs, place)


def _finish_of(entry: ModelEntry, identity: StageIdentity, root: Path) -> Finish | None:
    """Of a last stage, where the model has any. Raises OSError when the label file cannot be read."""
    if entry.finish is None or identity.next_workers:
        return None
    from ensembles.finish import Finisher, geometries, read_labels  # pillow and all that, see above

    finisher = Finisher(entry.finish, read_labels(entry.finish, root))

    def finish(outputs: Mapping[str, Array], infos: Sequence[FrameInfo]) -> Mapping[str, Array]:
        sizes = [info.upright for info in infos]
        return finisher(outputs, geometries(sizes, entry.prepare))

    return finish
