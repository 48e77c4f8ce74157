"""What each frame's answer must be: the unsplit network, run here on the same picture.

Rules
- A picture goes the way of a client's frame, through JPEG where clients send JPEG. A model without
  preprocessing is given tensors.
- Answers of two pictures must differ by far more than the tolerance, or a mix-up could not be seen. Of
  tensors, of which nothing is known, those that are alike are counted and told.
- A network that computes in half precision by itself rounds with every layout of its kernels: the tolerance
  is at least what its answers move by when the same frame comes in another layout.
- Hosts with libturbojpeg prepare some JPEGs plane by plane, hosts without it whole. An answer to either is
  right, if all its outputs are. Where this host lacks the library, only whole frames are known.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tritonclient.grpc import service_pb2

from ensembles.finish import Finisher, geometries, read_labels
from ensembles.prepare.pixels import encoded_input, raw_input
from planner.deployment import ModelSpec, input_spec, input_specs, recipe_of
from planner.manifest import DeploymentManifest, ModelEntry
from ppipe.bench.frames import encode_jpeg
from ppipe.bench.target import Inputs, NoPictures, Picture, Tensor
from ppipe.bench.unsplit import Unsplit, unsplit
from python_backend.wire.kserve import array_of

TOLERANCE = 1e-4
_LOOSEST = 5e-2
_ROOM = 4.0
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
    tolerance: float = TOLERANCE
    otherwise: tuple[Mapping[str, npt.NDArray[Any]] | None, ...] = ()
    """The right answers on hosts that prepare frames whole, where those are others."""
    alike: int = 0
    """Frames whose right answer is that of an earlier one, too: a mix-up of these would not be seen."""

    def compare(self, frame: int, response: service_pb2.ModelInferResponse) -> tuple[float, bool]:
        """Largest error of a response to `frame`, as `error_of` has it, and whether that is within
        tolerance.
        """
        if frozenset(tensor.name for tensor in response.outputs) not in self.ways:
            return float("inf"), False
        rights = [self.answers[frame], *filter(None, self.otherwise[frame : frame + 1])]
        try:
            given = {
                tensor.name: array_of(tensor.datatype, raw, tensor.shape)[0]
                for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            }
            worst = min(max(error_of(given[name], right[name]) for name in given) for right in rights)
        except (ValueError, KeyError):
            return float("inf"), False
        return worst, worst <= self.tolerance


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


def make_inputs(
    spec: ModelSpec, pictures: Sequence[Picture], others: Sequence[Inputs] | None = None
) -> list[Inputs]:
    """The network's own inputs for each picture, without batch dimension. `others`: the inputs that are made
    of no picture, for each of them.
    """
    if spec.preprocess is None:
        raise NoPictures(f"model {spec.name!r} has no preprocess step, so pictures cannot be its input")
    recipe = recipe_of(spec.preprocess, input_spec(spec), spec.name)
    frames = [
        encoded_input(encode_jpeg(picture), recipe) if recipe.kind == "jpeg" else raw_input(picture, recipe)
        for picture in pictures
    ]
    beside = others or [()] * len(frames)
    place = _place_of_picture(spec)
    return [(*other[:place], frame, *other[place:]) for frame, other in zip(frames, beside, strict=True)]


def _made_whole(spec: ModelSpec, picture: Picture, given: Inputs) -> Inputs | None:
    """Inputs of a picture as hosts without libturbojpeg make them; None where they are the same."""
    assert spec.preprocess is not None
    recipe = recipe_of(spec.preprocess, input_spec(spec), spec.name)
    if recipe.kind != "jpeg":
        return None
    whole, place = encoded_input(encode_jpeg(picture), recipe, whole=True), _place_of_picture(spec)
    return None if np.array_equal(whole, given[place]) else (*given[:place], whole, *given[place + 1 :])


def _place_of_picture(spec: ModelSpec) -> int:
    return input_specs(spec).index(input_spec(spec))


def make_reference(
    spec: ModelSpec,
    entry: ModelEntry,
    root: Path,
    inputs: Sequence[Inputs],
    pictures: Sequence[Picture] | None,
) -> Reference:
    """Run the unsplit network on each input alone, and finish what it says. `root`: the manifest's folder;
    `pictures`: what the inputs were made of, None where they are tensors of their own.

    Raises IndistinctFrames, planner.profiling's ModelError, OSError for a label file.
    """
    outputs = entry.programs[0][-1].outputs
    network = unsplit(spec, outputs)
    sizes: Sequence[tuple[int, int]] = [(0, 0)] * len(inputs)
    wholes: Sequence[Inputs | None] = [None] * len(inputs)
    if pictures is not None:
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        wholes = [_made_whole(spec, *each) for each in zip(pictures, inputs, strict=True)]
    with one_thread():
        results = [network.answer(frame) for frame in inputs]
        others = [None if frame is None else network.answer(frame) for frame in wholes]
        tolerance = _tolerance(network, inputs[0], results[0])
    finished = _finishing(entry, root)
    answers = [finished(result, size) for result, size in zip(results, sizes, strict=True)]
    otherwise = [
        None if result is None else finished(result, size) for result, size in zip(others, sizes, strict=True)
    ]
    public = frozenset(tensor.name for tensor in entry.outputs)
    shown = [
        [{name: way[name] for name in public} for way in (answer, other) if way is not None]
        for answer, other in zip(answers, otherwise, strict=True)
    ]
    if pictures is not None:
        _require_distinct(spec.name, shown, tolerance)
    return Reference(
        model=spec.name,
        ways=(public, frozenset(tensor.name for tensor in outputs)),
        answers=tuple(answers),
        otherwise=tuple(otherwise),
        tolerance=tolerance,
        alike=len({later for _, later, _ in _alike(shown, tolerance)}),
    )


def _finishing(
    entry: ModelEntry, root: Path
) -> Callable[[Sequence[Tensor], tuple[int, int]], dict[str, Tensor]]:
    """Makes an answer by name of what the network says of a picture of a size."""
    own = [tensor.name for tensor in entry.programs[0][-1].outputs]
    finisher = None if entry.finish is None else Finisher(entry.finish, read_labels(entry.finish, root))

    def finished(result: Sequence[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        answer = dict(zip(own, result, strict=True))
        if finisher is None:
            return answer
        batch = {name: array[np.newaxis] for name, array in answer.items()}
        made = finisher(batch, geometries([size], entry.prepare))
        return answer | {name: array[0] for name, array in made.items()}

    return finished


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
    manifest: DeploymentManifest,
    root: Path,
    pictures: Sequence[Picture],
    tensors: Mapping[str, Sequence[Inputs]],
) -> dict[str, Reference]:
    """A reference for each model, from the pictures, where it takes any, and its `tensors`; `root`: the
    manifest's folder.
    """
    found = {}
    for spec in specs:
        entry, given = manifest.model(spec.name), tensors.get(spec.name)
        if spec.preprocess is None:
            found[spec.name] = make_reference(spec, entry, root, tensors[spec.name], None)
        else:
            inputs = make_inputs(spec, pictures, given)
            found[spec.name] = make_reference(spec, entry, root, inputs, pictures)
    return found


def _tolerance(network: Unsplit, frame: Inputs, right: Sequence[Tensor]) -> float:
    """At least what the answer to a frame moves by in other ways that are as right."""
    moved = [
        error_of(given, wanted)
        for way in network.answers_otherwise(frame)
        for given, wanted in zip(way, right, strict=True)
        if wanted.dtype.kind == "f"
    ]
    return min(_LOOSEST, max([TOLERANCE, *(_ROOM * error for error in moved)]))


def _alike(
    answers: Sequence[Sequence[Mapping[str, Tensor]]], tolerance: float
) -> Iterator[tuple[int, int, float]]:
    """(earlier, later, how far apart) of frames whose right answers could be taken for each other."""
    for index, ones in enumerate(answers):
        for before, others in enumerate(answers[:index]):
            apart = min(
                max(error_of(one[name], other[name]) for name in one)
                for one, other in itertools.product(ones, others)
            )
            if apart < _APART * tolerance:
                yield before, index, apart


def _require_distinct(
    model: str, answers: Sequence[Sequence[Mapping[str, Tensor]]], tolerance: float
) -> None:
    for before, index, apart in _alike(answers, tolerance):
        raise IndistinctFrames(
            f"model {model!r}: the answers to frames {before} and {index} differ by at most {apart:.1e}; a "
            f"mix-up of responses shows only from {_APART * tolerance:.0e} on"
        )
