"""Declared ensemble graphs: which Triton model's tensor feeds which. Data only; the generator writes config.

Rules
- An ensemble takes one frame per request (max_batch_size 1): Triton itself refuses a client's larger batch.
- Every ensemble tensor is made once and used, or Triton refuses the ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.ingress import JPEG_INPUT as JPEG_INPUT
from planner.ingress import RAW_INPUT as RAW_INPUT
from planner.ingress import frame_input as frame_input
from planner.profile import TensorSpec

FRAMES_PER_REQUEST = 1
CLASSES, SCORES, LABELS = "classes", "scores", "labels"
DETECTED_BOXES, DETECTED_SCORES, DETECTED_CLASSES = "detected_boxes", "detected_scores", "detected_classes"
LABEL_MAP = "label_map"
READ_TEXT, READ_SCORE = "read_text", "read_score"


@dataclass(frozen=True)
class EnsembleStep:
    """One model of an ensemble. inputs and outputs: name in the model -> name in the ensemble."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class EnsembleGraph:
    """An ensemble and its public tensors, no batch dimension; dtype BYTES for encoded frames and labels."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[EnsembleStep, ...]
    max_batch_size: int = FRAMES_PER_REQUEST


@dataclass(frozen=True)
class StepModel:
    """A Triton model and its tensors."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def classification_outputs(top_k: int, labelled: bool) -> tuple[TensorSpec, ...]:
    """The best `top_k` classes, best first, their softmax scores, and their labels where there are any."""
    plain = (
        TensorSpec(name=CLASSES, dtype="INT32", shape=(top_k,)),
        TensorSpec(name=SCORES, dtype="FP32", shape=(top_k,)),
    )
    return (*plain, TensorSpec(name=LABELS, dtype="BYTES", shape=(top_k,))) if labelled else plain


def detection_outputs(max_boxes: int, labelled: bool) -> tuple[TensorSpec, ...]:
    """Boxes in falling order of score; rows past the last box have score 0, class -1 and an empty label."""
    plain = (
        TensorSpec(name=DETECTED_BOXES, dtype="FP32", shape=(max_boxes, 4)),
        TensorSpec(name=DETECTED_SCORES, dtype="FP32", shape=(max_boxes,)),
        TensorSpec(name=DETECTED_CLASSES, dtype="INT32", shape=(max_boxes,)),
    )
    return (*plain, TensorSpec(name=LABELS, dtype="BYTES", shape=(max_boxes,))) if labelled else plain


def reading_outputs() -> tuple[TensorSpec, ...]:
    """A line of text in UTF-8, and how sure its symbols are on average."""
    return TensorSpec(READ_TEXT, "BYTES", (1,)), TensorSpec(READ_SCORE, "FP32", (1,))


def segmentation_outputs(height: int, width: int) -> tuple[TensorSpec, ...]:
    """The best class of each pixel."""
    return (TensorSpec(name=LABEL_MAP, dtype="UINT8", shape=(height, width)),)


def chain_graph(
    name: str,
    stages: Sequence[StepModel],
    outputs: tuple[TensorSpec, ...],
    max_batch_size: int,
    beside: tuple[TensorSpec, ...] = (),
) -> EnsembleGraph:
    """Stages one after another. Tensors between have their stage's number: one may pass unchanged.

    beside: what the first stage answers besides, under the same names.
    """
    last = len(stages) - 1
    steps = []
    for index, stage in enumerate(stages):
        before = f"s{index - 1}_" if index else ""
        after = f"s{index}_" if index < last else ""
        made = {tensor.name: after + tensor.name for tensor in stage.outputs}
        steps.append(
            EnsembleStep(
                model=stage.name,
                inputs={tensor.name: before + tensor.name for tensor in stage.inputs},
                outputs=made if index else made | {tensor.name: tensor.name for tensor in beside},
            )
        )
    return EnsembleGraph(
        name=name,
        inputs=stages[0].inputs,
        outputs=(*outputs, *beside),
        steps=tuple(steps),
        max_batch_size=max_batch_size,
    )


def entry_graph(name: str, dispatch: StepModel) -> EnsembleGraph:
    """Another door to a dispatcher, with these of its inputs."""
    return EnsembleGraph(
        name=name, inputs=dispatch.inputs, outputs=dispatch.outputs, steps=(_step(dispatch),)
    )


def _step(part: StepModel) -> EnsembleStep:
    """Inside an ensemble a tensor has the name that it has in its model."""
    return EnsembleStep(
        model=part.name,
        inputs={tensor.name: tensor.name for tensor in part.inputs},
        outputs={tensor.name: tensor.name for tensor in part.outputs},
    )
