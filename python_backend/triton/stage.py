"""The Triton model of one stage worker: unpacks requests, leaves all else to stage.worker."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import triton_python_backend_utils as pb_utils

from planner.manifest import RAGGED, SHARED_FRAMES
from python_backend.dispatcher.frames.frame import ErrorCode
from python_backend.stage.factory import make_stage_worker
from python_backend.triton.garbage import leave_start_alone
from python_backend.triton.model_folder import open_place_folder
from python_backend.triton.replies import SenderReply
from python_backend.wire import ticket_codec
from python_backend.wire.kserve import Array
from python_backend.wire.servers import Servers


class TritonPythonModel:
    """See the module."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once."""
        folder = open_place_folder(args)
        if folder.place.worker != folder.name:
            raise ValueError(
                f"{folder.name}: its place.json is of worker {folder.place.worker!r}: run ppipe generate"
            )
        self._worker = make_stage_worker(
            folder.place,
            Servers(folder.servers),
            folder.root,
            device=device_of(args),
            log=pb_utils.Logger.log_warn,
            jitter=float(folder.parameters.get("jitter", "0")),
            emulate_prepare=folder.parameters.get("prepare", "real") == "emulated",
        )
        self._gets_frames = folder.place.takes_frames
        self._inputs = [spec.name for spec in folder.place.program.inputs]
        self._take = _taker(folder.parameters)
        """What Triton hands over goes with the request, which the reply holds."""
        leave_start_alone()

    def execute(self, requests: list[Any]) -> None:
        """Called by Triton with one request; the answer is sent later by the worker's threads."""
        for request in requests:
            reply = SenderReply(request)
            try:
                given = {tensor.name(): tensor for tensor in request.inputs()}
                if self._gets_frames:
                    bodies = given[RAGGED].as_numpy().ravel().tolist()
                    self._worker.submit_frames(ticket_of(request), bodies, reply)
                    continue
                control = given.get(SHARED_FRAMES)
                shared = 0 if control is None else len(control.as_numpy())
                arrays = [self._take(given[name]) for name in self._inputs if name in given]
                self._worker.submit(ticket_of(request), arrays, reply, shared)
            except Exception as error:
                reply.error(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}")

    def finalize(self) -> None:
        """Called by Triton before the end."""
        self._worker.close()


def _taker(parameters: Mapping[str, str]) -> Callable[[Any], Array]:
    """How inputs are taken: as they are on the GPU where the stage before may be there too."""
    if parameters.get("FORCE_CPU_ONLY_INPUT_TENSORS") != "no":
        return lambda tensor: tensor.as_numpy()
    module: Any = importlib.import_module("python_backend.stage.executors.handover")
    return cast("Callable[[Any], Array]", module.taken)


def ticket_of(request: Any) -> str | None:
    """The ticket text of a request, None without one."""
    text = request.parameters()
    return ticket_codec.in_parameters(text) if text else None


def device_of(args: dict[str, str]) -> str:
    """The torch device that Triton gave to this instance."""
    return f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
