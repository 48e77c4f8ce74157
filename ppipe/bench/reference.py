"""What each frame's answer must be: the unsplit network, run here on the same picture.

Rules: a picture goes the way of a client's frame, through JPEG where clients send JPEG. Answers of two frames
must differ by far more than the tolerance, or a mix-up could not be seen; that is checked here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tritonclient.grpc import service_pb2

from ensembles.steps import InputSize, Normalisation, preprocess_frame, preprocess_image
from planner.deployment import ModelSpec
from planner.profile import TensorSpec
from planner.profiling.network import load_network, load_program
from ppipe.bench.frames import encode_jpeg
from ppipe.bench.target import NoPictures, Picture

TOLERANCE = 1e-4
_APART = 10.0
"""Two frames' answers must lie at least this many tolerances apart."""

Outputs = Sequence[npt.NDArray[np.float32]]


class IndistinctFrames(ValueError):
    """Two frames whose right answers cannot be told apart."""


@dataclass(frozen=True)
class Reference:
    """The right outputs of each frame of one model, in the order of `outputs`."""

    model: str
    outputs: tuple[TensorSpec, ...]
    answers: tuple[tuple[npt.NDArray[np.float32], ...], ...]

    def compare(self, frame: int, response: service_pb2.ModelInferResponse) -> tuple[float, bool]:
        """Largest absolute error of a response to `frame`, and whether that is within tolerance."""
        given = {tensor.name: index for index, tensor in enumerate(response.outputs)}
        worst = 0.0
        for spec, right in zip(self.outputs, self.answers[frame], strict=True):
            if spec.name not in given:
                return float("inf"), False
            raw = response.raw_output_contents[given[spec.name]]
            if len(raw) != right.nbytes:
                return float("inf"), False
            error = np.abs(np.frombuffer(raw, dtype=right.dtype) - right.ravel()).max()
            worst = max(worst, float(error)) if np.isfinite(error) else float("inf")
        return worst, worst <= TOLERANCE


def make_inputs(spec: ModelSpec, pictures: Sequence[Picture]) -> list[npt.NDArray[np.float32]]:
    """The network's own inputs, one per picture, without batch dimension."""
    if spec.preprocess is None:
        raise NoPictures(f"model {spec.name!r} has no preprocess step, so pictures cannot be its input")
    channels, height, width = spec.input.shape
    size = InputSize(channels=channels, height=height, width=width)
    normalisation = Normalisation(mean=spec.preprocess.mean, std=spec.preprocess.std)
    if spec.preprocess.kind == "jpeg":
        return [preprocess_image(encode_jpeg(picture), size, normalisation) for picture in pictures]
    return [preprocess_frame(picture, size, normalisation) for picture in pictures]


def make_reference(
    spec: ModelSpec, outputs: tuple[TensorSpec, ...], inputs: Sequence[npt.NDArray[np.float32]]
) -> Reference:
    """Run the unsplit network on each input alone. Raises IndistinctFrames, planner.profiling's
    ModelError.
    """
    network = _network(spec)
    with one_thread(), torch.inference_mode():
        answers = tuple(_as_arrays(network(torch.from_numpy(frame[np.newaxis]))) for frame in inputs)
    _require_distinct(spec.name, answers)
    return Reference(model=spec.name, outputs=outputs, answers=answers)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small networks on a busy machine: threads of torch that wait for each other cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_references(
    specs: Sequence[ModelSpec],
    outputs: Mapping[str, tuple[TensorSpec, ...]],
    pictures: Sequence[Picture],
) -> dict[str, Reference]:
    """A reference for each model; `outputs` are the models' final tensors."""
    return {
        spec.name: make_reference(spec, outputs[spec.name], make_inputs(spec, pictures)) for spec in specs
    }


def _network(spec: ModelSpec) -> torch.nn.Module:
    if spec.program.pt2 is not None:
        module: torch.nn.Module = load_program(spec.program.pt2, f"model {spec.name}").module()
        return module
    return load_network(spec)


def _as_arrays(result: torch.Tensor | Sequence[torch.Tensor]) -> tuple[npt.NDArray[np.float32], ...]:
    tensors = [result] if isinstance(result, torch.Tensor) else list(result)
    return tuple(tensor.detach().numpy()[0] for tensor in tensors)


def _require_distinct(model: str, answers: Sequence[Outputs]) -> None:
    flat = np.stack([np.concatenate([part.ravel() for part in answer]) for answer in answers])
    for index in range(1, len(flat)):
        apart = np.abs(flat[:index] - flat[index]).max(axis=1)
        nearest = int(apart.argmin())
        if apart[nearest] < _APART * TOLERANCE:
            raise IndistinctFrames(
                f"model {model!r}: the answers to frames {nearest} and {index} differ by at most "
                f"{apart[nearest]:.1e}; a mix-up of responses shows only from {_APART * TOLERANCE:.0e} on"
            )
