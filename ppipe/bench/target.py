"""The system under test as the client sees it: where a model's next frame goes and what the request looks
like.

Rules: requests are built before the run, one per model, frame and way in; sending one changes its id alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from planner.manifest import DeploymentManifest, ModelEntry
from planner.profile import TensorSpec
from ppipe.bench.frames import encode_jpeg
from ppipe.serving.probe import text_element

Picture = npt.NDArray[np.uint8]
Tensor = npt.NDArray[Any]
"""One of a network's inputs, without batch dimension."""
Inputs = tuple[Tensor, ...]
"""All of them, in the network's order; or those of them that are made of no picture."""


class NoPictures(ValueError):
    """A model whose clients do not send pictures."""


@dataclass(frozen=True)
class WayIn:
    """A Triton model at an address that takes frames of one model."""

    address: str
    triton_model: str


class SystemUnderTest:
    """Ways in per model, taken in turn, and the encoded inputs per model and frame."""

    def __init__(
        self,
        ways_in: Mapping[str, Sequence[WayIn]],
        inputs: Mapping[str, Sequence[service_pb2.ModelInferRequest]],
    ) -> None:
        self.addresses = tuple(sorted({way.address for ways in ways_in.values() for way in ways}))
        self._turns = {model: itertools.cycle(ways) for model, ways in ways_in.items()}
        self._inputs = inputs

    def next_request(
        self, model: str, frame: int, request_id: str
    ) -> tuple[str, service_pb2.ModelInferRequest]:
        """The address to send to, and what. For one caller at a time."""
        way = next(self._turns[model])
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(self._inputs[model][frame])
        request.model_name = way.triton_model
        request.id = request_id
        return way.address, request


def served_target(
    manifest: DeploymentManifest,
    pictures: Sequence[Picture],
    tensors: Mapping[str, Sequence[Inputs]],
    addresses: Sequence[str] = (),
) -> SystemUnderTest:
    """The public models and cascades of a deployment, each fed what its clients send: JPEG files, raw
    pictures, and of `tensors` what is made of no picture. addresses: of gRPC, which get frames in turn; all
    entries' without.
    """
    addresses = addresses or [server.grpc_address for server in manifest.entries]
    doors = {entry.model: (entry.dispatcher, entry) for entry in manifest.models}
    doors |= {one.name: (one.name, manifest.model(one.first.model)) for one in manifest.cascades}
    return SystemUnderTest(
        ways_in={
            name: [WayIn(address, triton_model) for address in addresses]
            for name, (triton_model, _) in doors.items()
        },
        inputs={name: _requests(entry, pictures, tensors) for name, (_, entry) in doors.items()},
    )


def _requests(
    entry: ModelEntry, pictures: Sequence[Picture], tensors: Mapping[str, Sequence[Inputs]]
) -> list[service_pb2.ModelInferRequest]:
    if entry.prepare is None:
        return [tensors_request(entry, given) for given in tensors[entry.model]]
    others = tensors.get(entry.model) or [()] * len(pictures)
    return [public_request(entry, picture, beside) for picture, beside in zip(pictures, others, strict=True)]


def plain_target(manifest: DeploymentManifest, inputs: Mapping[str, Sequence[Inputs]]) -> SystemUnderTest:
    """The workers of a comparison without PPipe: clients preprocess themselves and take the workers
    in turn.
    """
    ways_in = {}
    for entry in manifest.models:
        workers = [worker for pipeline in entry.served.pipelines for worker in pipeline.stages[0].workers]
        servers = [manifest.server(worker.server) for worker in workers]
        ways_in[entry.model] = [
            WayIn(server.grpc_address, worker.name) for server, worker in zip(servers, workers, strict=True)
        ]
    return SystemUnderTest(
        ways_in=ways_in,
        inputs={
            entry.model: [tensors_request(entry, given) for given in inputs[entry.model]]
            for entry in manifest.models
        },
    )


def public_request(entry: ModelEntry, picture: Picture, others: Inputs = ()) -> service_pb2.ModelInferRequest:
    """One picture for a model, and what its network takes beside it."""
    spec = entry.public_inputs[0]
    if spec.dtype == "BYTES":
        request = frame_request(spec, spec.shape or (1,), text_element(encode_jpeg(picture)))
    elif spec.dtype == "UINT8":
        request = frame_request(spec, picture.shape, picture.tobytes())
    else:
        raise NoPictures(
            f"model {entry.model!r}: its input {spec.name!r} is {spec.dtype}, and no picture; a preprocess "
            "step makes it of pictures"
        )
    for other, tensor in zip(entry.other_inputs, others, strict=True):
        add_input(request, other, tensor.shape, tensor.tobytes())
    return request


def tensors_request(entry: ModelEntry, given: Inputs) -> service_pb2.ModelInferRequest:
    """One frame that is the network's own inputs already."""
    request = service_pb2.ModelInferRequest()
    for spec, tensor in zip(entry.network_inputs, given, strict=True):
        add_input(request, spec, tensor.shape, tensor.tobytes())
    return request


def tensor_request(spec: TensorSpec, tensor: Tensor) -> service_pb2.ModelInferRequest:
    """One frame of one input."""
    return frame_request(spec, tensor.shape, tensor.tobytes())


def frame_request(spec: TensorSpec, shape: Sequence[int], content: bytes) -> service_pb2.ModelInferRequest:
    """One frame with its batch dimension of 1."""
    request = service_pb2.ModelInferRequest()
    add_input(request, spec, shape, content)
    return request


def add_input(
    request: service_pb2.ModelInferRequest, spec: TensorSpec, shape: Sequence[int], content: bytes
) -> None:
    """One frame's tensor, with its batch dimension of 1."""
    request.inputs.add(name=spec.name, datatype=spec.dtype, shape=[1, *shape])
    request.raw_input_contents.append(content)
