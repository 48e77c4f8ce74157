"""The entry group's models of one network: dispatcher, optional pre- and postprocessing, two ensembles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ensembles.graphs import (
    EnsembleGraph,
    StepModel,
    classification_outputs,
    detection_outputs,
    entry_graph,
    frame_input,
    segmentation_outputs,
)
from model_repo_generator import naming
from planner.deployment import ModelSpec, PostprocessSpec, PreprocessSpec
from planner.profile import TensorSpec


class EntryFault(ValueError):
    """Pre- or postprocessing that does not fit the model; the message names the field."""


@dataclass(frozen=True)
class EntryModels:
    """What the entry server loads for one network."""

    dispatch: StepModel
    preprocess: StepModel | None
    postprocess: StepModel | None

    def ensembles(self, model: str) -> tuple[EnsembleGraph, EnsembleGraph]:
        """The public ensemble, and the one for clients with tensors."""
        public = entry_graph(naming.public_ensemble(model), self.dispatch, self.preprocess, self.postprocess)
        return public, entry_graph(naming.tensor_ensemble(model), self.dispatch)

    def names(self, model: str) -> tuple[str, ...]:
        """Every Triton model, ensembles after what they are made of."""
        parts = [part.name for part in (self.dispatch, self.preprocess, self.postprocess) if part]
        return (*parts, *(graph.name for graph in self.ensembles(model)))


def entry_models(
    spec: ModelSpec,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    labels: Sequence[str],
    epoch: int = 1,
) -> EntryModels:
    """`labels`: of the classes, from the label file; empty without one. Raises EntryFault."""
    if len(inputs) != 1:
        raise EntryFault(f"model {spec.name!r}: {len(inputs)} inputs; a served model has exactly one")
    dispatch = StepModel(naming.dispatcher(spec.name), tuple(inputs), tuple(outputs))
    before = None if spec.preprocess is None else _preprocess(spec, spec.preprocess, inputs[0])
    after = None if spec.postprocess is None else _postprocess(spec, spec.postprocess, outputs, labels)

    def named(part: StepModel) -> StepModel:
        return replace(part, name=naming.of_revision(part.name, spec.name, epoch))

    return EntryModels(
        dispatch=named(dispatch), preprocess=before and named(before), postprocess=after and named(after)
    )


def preprocess_parameters(spec: PreprocessSpec) -> Mapping[str, str]:
    """Parameters of the preprocessing model; sizes are in its output's dims."""
    return {"mean": json.dumps(spec.mean), "std": json.dumps(spec.std)}


def postprocess_parameters(spec: PostprocessSpec, labels: Sequence[str]) -> Mapping[str, str]:
    """Parameters of the postprocessing model; k and the number of boxes are in its outputs' dims."""
    parameters = {"task": spec.task} | ({"labels": naming.LABELS_FILE} if labels else {})
    if spec.task == "detection":
        parameters |= {"min_score": json.dumps(spec.min_score), "max_overlap": json.dumps(spec.max_overlap)}
    return parameters


def _preprocess(spec: ModelSpec, wanted: PreprocessSpec, target: TensorSpec) -> StepModel:
    where = f"models.{spec.name}.preprocess"
    if len(target.shape) != 3 or target.shape[0] not in (1, 3):
        raise EntryFault(
            f"{where}: the model's input {target.name!r} has shape {list(target.shape)}; preprocessing makes "
            "[3, height, width] or [1, height, width]"
        )
    if target.dtype not in ("FP32", "FP16"):
        raise EntryFault(
            f"{where}: the model's input {target.name!r} is {target.dtype}; preprocessing makes FP32 or FP16"
        )
    if 0.0 in wanted.std:
        raise EntryFault(f"{where}.std: {list(wanted.std)} has a 0; the standard deviation divides")
    frame = frame_input(wanted.kind)
    if frame.name == target.name:
        raise EntryFault(
            f"models.{spec.name}.input.name: {target.name!r} is what clients' frames are called; "
            "call the model's own input something else"
        )
    return StepModel(naming.preprocess(spec.name), (frame,), (target,))


def _postprocess(
    spec: ModelSpec, wanted: PostprocessSpec, given: Sequence[TensorSpec], labels: Sequence[str]
) -> StepModel:
    where = f"models.{spec.name}.postprocess"
    make = {
        "classification": _classification,
        "detection": _detection,
        "segmentation": _segmentation,
    }[wanted.task]
    inputs, outputs, classes = make(where, wanted, given, bool(labels))
    if labels and len(labels) != classes:
        raise EntryFault(
            f"{where}.labels: {len(labels)} labels for {classes} classes; one line per class belongs"
        )
    taken = {tensor.name for tensor in given} & {tensor.name for tensor in outputs}
    if taken:
        raise EntryFault(f"{where}: the model's own output is called {min(taken)!r} already")
    return StepModel(naming.postprocess(spec.name), inputs, outputs)


Tensors = tuple[TensorSpec, ...]


def _classification(
    where: str, wanted: PostprocessSpec, given: Sequence[TensorSpec], labelled: bool
) -> tuple[Tensors, Tensors, int]:
    logits = given[0]
    if len(logits.shape) != 1:
        raise EntryFault(
            f"{where}: classification takes one score per class, but output {logits.name!r} has shape "
            f"{list(logits.shape)}"
        )
    if wanted.top_k > logits.shape[0]:
        raise EntryFault(f"{where}.top_k: {wanted.top_k} is more than the model's {logits.shape[0]} classes")
    return (logits,), classification_outputs(wanted.top_k, labelled), logits.shape[0]


def _detection(
    where: str, wanted: PostprocessSpec, given: Sequence[TensorSpec], labelled: bool
) -> tuple[Tensors, Tensors, int]:
    shapes = [list(tensor.shape) for tensor in given[:2]]
    boxes_fit = len(given) >= 2 and len(shapes[0]) == len(shapes[1]) == 2
    if not boxes_fit or shapes[0] != [shapes[1][0], 4]:
        raise EntryFault(f"{where}: detection takes boxes [n, 4] and scores [n, classes], not {shapes}")
    return tuple(given[:2]), detection_outputs(wanted.max_boxes, labelled), shapes[1][1]


def _segmentation(
    where: str, wanted: PostprocessSpec, given: Sequence[TensorSpec], labelled: bool
) -> tuple[Tensors, Tensors, int]:
    scores = given[0]
    if len(scores.shape) != 3 or scores.shape[0] > 256:
        raise EntryFault(
            f"{where}: segmentation takes scores [classes, height, width] of at most 256 classes, but output "
            f"{scores.name!r} has shape {list(scores.shape)}"
        )
    if labelled:
        raise EntryFault(f"{where}.labels: segmentation answers numbers of classes; leave the label file out")
    return (scores,), segmentation_outputs(*scores.shape[1:]), scores.shape[0]
