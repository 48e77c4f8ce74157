"""Puts a stage worker together from its place: executor, the way on to next stages, notices, keys."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.cluster import Executor
from planner.ingress import PrepareRecipe
from planner.places import StagePlace
from python_backend.stage.beside import BesidePreparer
from python_backend.stage.emulated_preparer import EmulatedPreparer
from python_backend.stage.executors.base import make_executor
from python_backend.stage.jobs import Finish
from python_backend.stage.preparing import Preparer, TaggingPreparer
from python_backend.stage.worker import StageWorker
from python_backend.wire.clocks import AskedClocks, EntryClocks
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.http.transport import HttpTransport
from python_backend.wire.kserve import Array
from python_backend.wire.notice_senders import NoticeSenders
from python_backend.wire.ragged import FrameInfo
from python_backend.wire.routes import RoutedTransport, Routes
from python_backend.wire.self_report import Reporter, report_of
from python_backend.wire.servers import Servers
from python_backend.wire.shm.layout import layout_of_worker
from python_backend.wire.shm.transport import with_memory
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE, Keys
from python_backend.wire.transport import Transport


def make_stage_worker(
    place: StagePlace,
    servers: Servers,
    root: Path,
    device: str,
    log: Callable[[str], None],
    jitter: float = 0.0,
    emulate_prepare: bool = False,
) -> StageWorker:
    """The running worker at a place, warmed up. root: that programs and labels are relative to.
    emulate_prepare: wait for as long as preparing frames is planned to take, instead of doing it. Raises
    KeyError for a place on a server that is not in the table, and what a wrong program raises.
    """
    worker, host = place.worker, servers.table.server(place.place.server).host
    keys = Keys.from_environment(place.unsigned_tickets)
    if keys.unsigned:
        log(f"{worker}: deployment.yaml says unsigned_tickets, so whoever reaches this server is served")
    elif not keys.signing:
        log(f"{worker}: no ticket key, so every batch is refused: {KEY_FILE_VARIABLE} names its file")
    recipe = place.prepare if place.takes_frames else None
    executor = make_executor(
        place.program, root, first_stage=place.blocks.is_first, device=device, prepare=recipe
    )
    executor.warm_up()
    clocks = AskedClocks(servers, place.model, host, keys)
    notices = NoticeSenders(servers, place.model, keys, clocks)
    transport = _way_on(place, servers, host, keys, clocks, log)
    made = StageWorker(
        place=place,
        executor=executor,
        transport=transport,
        keys=keys,
        notify=notices.send,
        clocks=clocks,
        log=log,
        jitter=jitter,
        on_close=lambda: close(),
        preparer=None if recipe is None else make_preparer(recipe, place, emulate_prepare, log),
        finish=_finish_of(place, root),
    )
    reporter = Reporter(lambda: report_of(worker, transport, made.refused), notices.send_to_all, keys)

    def close() -> None:
        reporter.close()
        clocks.close()
        notices.close()

    return made


def _way_on(
    place: StagePlace,
    servers: Servers,
    host: str,
    keys: Keys,
    clocks: EntryClocks,
    log: Callable[[str], None],
) -> Transport:
    """What the next stages are reached by; their inputs are this one's outputs."""
    routes = Routes(servers, host, place.program.outputs)
    grpc = GrpcTransport(routes.targets, keys, place.tls, clocks)
    layout = layout_of_worker(place.worker, place.program)
    if place.blocks.is_last:
        layout = replace(layout, shares={})
    near = HttpTransport(grpc, routes.targets, far=place.tls is None)
    inner = with_memory(near, routes.targets, layout, place.worker, log)
    return RoutedTransport(inner, routes, grpc.keep)


def make_preparer(
    recipe: PrepareRecipe, place: StagePlace, emulated: bool, log: Callable[[str], None]
) -> Preparer:
    """What makes clients' frames into a first stage's input.

    Raises ValueError where preparing cannot be emulated.
    """
    if place.program.executor is not Executor.EMULATED:
        return _real_preparer(recipe, place, log)
    if not emulated:
        return TaggingPreparer(_real_preparer(recipe, place, log))
    if place.prepare_us is None or place.cores is None:
        raise ValueError(
            f"{place.worker}: parameter prepare is 'emulated', but there is no time for preparing frames on "
            f"{place.place.server} in its place.json; 'real' would do"
        )
    return TaggingPreparer(EmulatedPreparer(place.prepare_us, place.cores))


def _real_preparer(recipe: PrepareRecipe, place: StagePlace, log: Callable[[str], None]) -> Preparer:
    """Of clients' frames and what comes beside them."""
    # Decoders and OpenCV, which hosts of models without preprocessing need not have.
    module: Any = importlib.import_module("python_backend.stage.real_preparer")
    frames: Preparer = module.real_preparer(recipe, place.input, place.worker, place.cores, log)
    inputs = place.program.inputs
    index = [spec.name for spec in inputs].index(place.input.name)
    return frames if len(inputs) == 1 else BesidePreparer(frames, inputs, index)


def _finish_of(place: StagePlace, root: Path) -> Finish | None:
    """Of a last stage, where the model has any. Raises OSError when the label file cannot be read."""
    if place.finish is None:
        return None
    from ensembles.finish import Finisher, geometries, read_labels  # pillow and all that, see above

    finisher = Finisher(place.finish, read_labels(place.finish, root))

    def finish(outputs: Mapping[str, Array], infos: Sequence[FrameInfo]) -> Mapping[str, Array]:
        sizes = [info.upright for info in infos]
        return finisher(outputs, geometries(sizes, place.prepare))

    return finish
