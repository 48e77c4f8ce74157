"""The entry group's models of one network: the dispatcher, which clients call, and a door for bare HTTP
bodies.

What is done before the first stage and after the last is said here as recipes, which the manifest carries to
their hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensembles.graphs import (
    EnsembleGraph,
    StepModel,
    classification_outputs,
    detection_outputs,
    entry_graph,
    reading_outputs,
    segmentation_outputs,
)
from model_repo_generator import naming
from planner.deployment import ModelSpec, PostprocessSpec, recipe_of
from planner.ingress import FinishRecipe, PrepareRecipe
from planner.profile import TensorSpec


class EntryFault(ValueError):
    """Pre- or postprocessing that does not fit the model; the message names the field."""


@dataclass(frozen=True)
class EntryModels:
    """What the entry server loads for one network, and what its stages' hosts do for it.

    outputs: what clients are answered.
    """

    model: str
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    prepare: PrepareRecipe | None = None
    finish: FinishRecipe | None = None
    labels: tuple[str, ...] = ()
    others: tuple[TensorSpec, ...] = ()
    """What the network takes beside `input`."""

    @property
    def dispatch(self) -> StepModel:
        """The dispatcher: whatever clients send is an input of its."""
        frames = (self.input,) if self.prepare is None else (self.prepare.frame, self.input)
        return StepModel(naming.dispatcher(self.model), (*frames, *self.others), self.outputs)

    @property
    def ways_in(self) -> tuple[str, ...]:
        """Inputs of which a request has one."""
        return () if self.prepare is None else (self.prepare.frame.name, self.input.name)

    @property
    def body(self) -> EnsembleGraph | None:
        """The door for bodies that are an encoded image and nothing else; none where more is needed."""
        if self.prepare is None or self.prepare.kind != "jpeg" or self.others:
            return None
        one_way_in = StepModel(naming.dispatcher(self.model), (self.prepare.frame,), self.outputs)
        return entry_graph(naming.body_ensemble(self.model), one_way_in)

    def names(self) -> tuple[str, ...]:
        """Every Triton model, the ensemble after what it is made of."""
        return (self.dispatch.name, *([self.body.name] if self.body else []))


def entry_models(
    spec: ModelSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], labels: Sequence[str]
) -> EntryModels:
    """`labels`: of the classes, from the label file; empty without one. Raises ValueError."""
    frame = _frame_of(spec, inputs)
    finish = None if spec.postprocess is None else _finish(spec, spec.postprocess, outputs, labels)
    answers = tuple(outputs)
    if finish is not None:
        answers = (*outputs, *finish.outputs) if finish.raw else finish.outputs
    return EntryModels(
        model=spec.name,
        input=frame,
        others=tuple(each for each in inputs if each != frame),
        outputs=answers,
        prepare=None if spec.preprocess is None else recipe_of(spec.preprocess, frame, spec.name),
        finish=finish,
        labels=tuple(labels),
    )


def _frame_of(spec: ModelSpec, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """The input that is made of a client's frame; the first where none is."""
    named = None if spec.preprocess is None else spec.preprocess.input
    return next((each for each in inputs if each.name == named), inputs[0])


def _finish(
    spec: ModelSpec, wanted: PostprocessSpec, given: Sequence[TensorSpec], labels: Sequence[str]
) -> FinishRecipe:
    where = f"models.{spec.name}.postprocess"
    make = {
        "classification": _classification,
        "detection": _detection,
        "segmentation": _segmentation,
        "text": _text,
        "reading": _reading,
    }[wanted.task]
    inputs, outputs, classes = make(where, wanted, given, bool(labels))
    if labels and len(labels) != classes:
        raise EntryFault(
            f"{where}.labels: {len(labels)} labels for {classes} classes; expected one line per class"
        )
    taken = {tensor.name for tensor in given} & {tensor.name for tensor in outputs}
    if taken:
        raise EntryFault(f"{where}: the model's own output is called {min(taken)!r} already")
    return FinishRecipe(
        task=wanted.task,
        inputs=tuple(tensor.name for tensor in inputs),
        outputs=outputs,
        top_k=wanted.top_k,
        max_boxes=wanted.max_boxes,
        min_score=wanted.min_score,
        max_overlap=wanted.max_overlap,
        labels=naming.labels_path(spec.name) if labels else "",
        raw=wanted.raw_outputs,
        threshold=wanted.threshold if wanted.task == "text" else 0.0,
        widening=wanted.widening if wanted.task == "text" else 0.0,
    )


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


def _text(
    where: str, wanted: PostprocessSpec, given: Sequence[TensorSpec], labelled: bool
) -> tuple[Tensors, Tensors, int]:
    probabilities = given[0]
    if len(probabilities.shape) != 3 or probabilities.shape[0] != 1:
        raise EntryFault(
            f"{where}: text takes a map [1, height, width], but output {probabilities.name!r} has shape "
            f"{list(probabilities.shape)}"
        )
    if labelled:
        raise EntryFault(f"{where}.labels: text has one class; leave the label file out")
    return (probabilities,), detection_outputs(wanted.max_boxes, False), 1


def _reading(
    where: str, wanted: PostprocessSpec, given: Sequence[TensorSpec], labelled: bool
) -> tuple[Tensors, Tensors, int]:
    steps = given[0]
    if len(steps.shape) != 2:
        raise EntryFault(
            f"{where}: reading takes probabilities [steps, symbols], but output {steps.name!r} has shape "
            f"{list(steps.shape)}"
        )
    if not labelled:
        raise EntryFault(f"{where}.labels: missing: reading needs a file with a line for every symbol")
    return (steps,), reading_outputs(), steps.shape[1]
