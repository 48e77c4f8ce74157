"""What each frame's answer must be: the unsplit network, run here on the same picture.

Rules: a picture goes the way of a client's frame, through JPEG where clients send JPEG. Answers of two frames
must differ by far more than the tolerance, or a mix-up could not be seen; that is checked here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tritonclient.grpc import service_pb2

from ensembles.finish import Finisher, geometries, read_labels
from ensembles.steps import InputSize, Normalisation, preprocess_frame, preprocess_image
from planner.deployment import ModelSpec
from planner.manifest import DeploymentManifest, ModelEntry
from planner.profiling.networks.loading import load_network, load_program
from ppipe.bench.frames import encode_jpeg
from ppipe.bench.target import NoPictures, Picture
from python_backend.wire.kserve import array_of

TOLERANCE = 1e-4
_APART = 10.0
"""Two frames' answers must lie at least this many tolerances apart."""


class IndistinctFrames(ValueError):
    """Two frames whose right answers cannot be told apart."""


@dataclass(frozen=True)
class Reference:
    """The right answers to each frame of one model, by the name of the output: the network's own and what is
    made of them. ways: the outputs of an answer are one of these.
    """

    model: str
    ways: tuple[frozenset[str], ...]
    answers: tuple[Mapping[str, npt.NDArray[Any]], ...]

    def compare(self, frame: int, response: service_pb2.ModelInferResponse) -> tuple[float, bool]:
        """Largest error of a response to `frame`, as `error_of` has it, and whether that is within
        tolerance.
        """
        if frozenset(tensor.name for tensor in response.outputs) not in self.ways:
            return float("inf"), False
        try:
            worst = max(
                error_of(array_of(tensor.datatype, raw, tensor.shape)[0], self.answers[frame][tensor.name])
                for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            )
        except (ValueError, KeyError):
            return float("inf"), False
        return worst, worst <= TOLERANCE


def error_of(given: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    """Largest absolute error, relative to the largest value where that is below 1; of whole numbers and texts
    0 or infinity.
    """
    if given.shape != right.shape or given.dtype != right.dtype:
        return float("inf")
    if right.dtype.kind != "f":
        return 0.0 if np.array_equal(given, right) else float("inf")
    error = float(np.abs(given - right).max())
    scale = min(1.0, float(np.abs(right).max()) or 1.0)
    return error / scale if np.isfinite(error) else float("inf")


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
    spec: ModelSpec,
    entry: ModelEntry,
    root: Path,
    inputs: Sequence[npt.NDArray[np.float32]],
    pictures: Sequence[Picture],
) -> Reference:
    """Run the unsplit network on each input alone, and finish what it says. `root`: the manifest's folder.

    Raises IndistinctFrames, planner.profiling's ModelError, OSError for a label file.
    """
    network = _network(spec)
    with one_thread(), torch.inference_mode():
        results = [_as_arrays(network(torch.from_numpy(frame[np.newaxis]))) for frame in inputs]
    own = [tensor.name for tensor in entry.programs[0][-1].outputs]
    answers = [dict(zip(own, result, strict=True)) for result in results]
    if entry.finish is not None:
        finisher = Finisher(entry.finish, read_labels(entry.finish, root))
        for answer, picture in zip(answers, pictures, strict=True):
            batch = {name: array[np.newaxis] for name, array in answer.items()}
            place = geometries([(picture.shape[1], picture.shape[0])], entry.prepare)
            answer |= {name: array[0] for name, array in finisher(batch, place).items()}
    public = frozenset(tensor.name for tensor in entry.outputs)
    _require_distinct(spec.name, [{name: answer[name] for name in public} for answer in answers])
    return Reference(model=spec.name, ways=(public, frozenset(own)), answers=tuple(answers))


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
    specs: Sequence[ModelSpec], manifest: DeploymentManifest, root: Path, pictures: Sequence[Picture]
) -> dict[str, Reference]:
    """A reference for each model; `root`: the manifest's folder."""
    return {
        spec.name: make_reference(
            spec, manifest.model(spec.name), root, make_inputs(spec, pictures), pictures
        )
        for spec in specs
    }


def _network(spec: ModelSpec) -> torch.nn.Module:
    if spec.program.pt2 is not None:
        module: torch.nn.Module = load_program(spec.program.pt2, f"model {spec.name}").module()
        return module
    return load_network(spec)


def _as_arrays(result: torch.Tensor | Sequence[torch.Tensor]) -> tuple[npt.NDArray[np.float32], ...]:
    tensors = [result] if isinstance(result, torch.Tensor) else list(result)
    return tuple(tensor.detach().numpy()[0] for tensor in tensors)


def _require_distinct(model: str, answers: Sequence[Mapping[str, npt.NDArray[Any]]]) -> None:
    for index, one in enumerate(answers):
        for before, other in enumerate(answers[:index]):
            apart = max(error_of(one[name], other[name]) for name in one)
            if apart < _APART * TOLERANCE:
                raise IndistinctFrames(
                    f"model {model!r}: the answers to frames {before} and {index} differ by at most "
                    f"{apart:.1e}; a mix-up of responses shows only from {_APART * TOLERANCE:.0e} on"
                )
