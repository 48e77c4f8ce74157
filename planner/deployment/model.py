"""A model in a deployment file: program, input, SLO, what is done before and after, how stages are run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from planner.deployment.preprocess import PreprocessSpec
from planner.deployment.recipe import recipe_of
from planner.deployment.spec import Name, Spec
from planner.deployment.streams import StreamsSpec
from planner.execution import Compiler, ExecutorOptions, Precision, Provider
from planner.frames import FrameSize
from planner.problem import Demand
from planner.profile import DTYPE_BYTES, ProgramFormat, TensorSpec

BYTES_PER_FINDING = 64
"""Of a class or a box in an answer: score, index, label, coordinates."""


class TensorSpecModel(Spec):
    """One input tensor of one frame, without the batch dimension."""

    name: Name
    dtype: str = "FP32"
    shape: tuple[Annotated[int, Field(ge=1)], ...]

    @model_validator(mode="after")
    def _known_dtype(self) -> TensorSpecModel:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPE_BYTES)}")
        return self


class ProgramSpec(Spec):
    """Where the network comes from: an importable factory 'package.module:callable', a program saved by
    torch.export (.pt2), or an ONNX file.
    """

    factory: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    state_dict: Path | None = None
    seed: int = 0
    pt2: Path | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the pt2 file, which is code: another one is not loaded. Give it for files that come from outside."""
    onnx: Path | None = None
    imports: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")], ...] = ()
    """Modules that register operators of other libraries; stages import them before they load a program."""

    @model_validator(mode="after")
    def _one_source(self) -> ProgramSpec:
        given = [each for each in (self.factory, self.pt2, self.onnx) if each is not None]
        if len(given) != 1:
            raise ValueError(
                "program: give one of 'factory' (package.module:callable), 'pt2' (a file saved by "
                "torch.export.save) and 'onnx' (an ONNX file)"
            )
        for name in ("arguments", "state_dict", "imports"):
            if self.onnx is not None and getattr(self, name):
                raise ValueError(f"program: '{name}' belongs to a factory, and an ONNX file has none")
        return self

    @property
    def format(self) -> ProgramFormat:
        """What the stages' programs are files of."""
        return ProgramFormat.TORCH if self.onnx is None else ProgramFormat.ONNX


class PostprocessSpec(Spec):
    """Model output to an answer.

    classification: the first output has a score per class; answers top-k indices, scores and labels.
    detection: the first output is boxes [n, 4] (left, top, right, bottom), the second scores [n, classes];
    answers at most `max_boxes` boxes that remain after non-maximum suppression per class.
    segmentation: the first output is scores [classes, height, width]; answers the best class of each pixel.
    text: the first output is a map [1, height, width] of the input's size, of how likely each pixel is text;
    answers boxes of lines (ensembles.text), of class 0.
    reading: the first output has, for each step from left to right, a probability per symbol, the first one
    of which is the blank; answers a line of text. `labels` has a line for every symbol, the blank's too.
    Boxes are in pixels of the frame as the client sent it, upright.
    """

    task: Literal["classification", "detection", "segmentation", "text", "reading"] = "classification"
    top_k: int = Field(default=5, ge=1, le=1000)
    labels: Path | None = None
    max_boxes: int = Field(default=100, ge=1, le=10_000)
    min_score: float = Field(default=0.05, ge=0, le=1)
    max_overlap: float = Field(default=0.5, gt=0, le=1)
    """Of two boxes of one class that overlap more (intersection over union), the lower score is dropped."""
    threshold: float = Field(default=0.3, gt=0, lt=1)
    """Of text: pixels above it belong to a line."""
    widening: float = Field(default=1.6, ge=0, le=10)
    """Of text: lines are widened by area * widening / perimeter."""
    raw_outputs: bool = False
    """Answer the model's own outputs too; they may be large."""


class ExecutorOptionsSpec(Spec):
    """How the model's stages are run; see planner.execution."""

    precision: Literal["tf32", "fp32", "fp16", "bf16"] = "tf32"
    channels_last: bool = True
    compiler: Literal["none", "inductor", "autotune", "aot-inductor"] = "none"
    cuda_graphs: bool = False
    pad_to_captured: bool = False
    pinned: bool = True
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"

    @model_validator(mode="after")
    def _padded_graphs(self) -> ExecutorOptionsSpec:
        if self.pad_to_captured and not self.cuda_graphs:
            raise ValueError("executor_options: 'pad_to_captured' needs 'cuda_graphs: true'")
        return self

    def to_options(self) -> ExecutorOptions:
        """As the run time's type."""
        plain = self.model_dump()
        plain["precision"] = Precision(self.precision)
        plain["compiler"] = Compiler(self.compiler)
        plain["provider"] = Provider(self.provider)
        return ExecutorOptions(**plain)


class ModelSpec(Spec):
    """One served model. `late`: what happens to frames that can no longer meet their deadline."""

    name: Name
    program: ProgramSpec
    input: TensorSpecModel | None = None
    inputs: tuple[TensorSpecModel, ...] = ()
    """In place of `input`, of a network that takes several tensors."""
    slo_ms: float = Field(gt=0)
    weight: float | None = Field(default=None, gt=0)
    rate_rps: float | None = Field(default=None, gt=0)
    slo_margin: float | None = Field(default=None, ge=0, lt=1)
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=256)], ...] = (1, 2, 4, 8)
    blocks: int = Field(default=10, ge=1, le=100)
    preprocess: PreprocessSpec | None = None
    postprocess: PostprocessSpec | None = None
    longest_timeout_ms: float | None = Field(default=None, gt=0, le=3_600_000)
    """The most that a caller may ask to wait for. Default: five SLOs."""
    late: Literal["drop", "serve"] = "drop"
    executor_options: ExecutorOptionsSpec = ExecutorOptionsSpec()
    cut_dtype: Literal["fp32", "fp16"] = "fp32"
    """fp16: FP32 tensors between stages travel as FP16; what that costs in exactness is in the profile."""
    streams: StreamsSpec | None = None
    """What is done with frames that name their stream; None: nothing."""

    @model_validator(mode="after")
    def _time_for_an_slo(self) -> ModelSpec:
        longest_ms = self.longest_timeout_ms
        if longest_ms is not None and longest_ms < self.slo_ms:
            raise ValueError(
                f"longest_timeout_ms {longest_ms:g} is less than slo_ms {self.slo_ms:g}: a frame may wait "
                "for its SLO at least"
            )
        return self

    @model_validator(mode="after")
    def _preparable(self) -> ModelSpec:
        self._check_inputs()
        if self.preprocess is not None:
            recipe_of(self.preprocess, input_spec(self), self.name)
        if self.program.format is ProgramFormat.ONNX:
            self._check_onnx()
        return self

    def _check_inputs(self) -> None:
        if (self.input is None) == (not self.inputs):
            raise ValueError("give either 'input' (one tensor) or 'inputs' (a list of several)")
        names = [each.name for each in self.inputs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"inputs: the name {twice[0]!r} is used more than once")
        if self.preprocess is None:
            return
        frame = self.preprocess.input
        if frame is None and len(names) > 1:
            raise ValueError(
                f"preprocess.input: say which of the inputs {', '.join(names)} is made of the client's frame"
            )
        if frame is not None and frame not in [spec.name for spec in input_specs(self)]:
            known = ", ".join(spec.name for spec in input_specs(self))
            raise ValueError(f"preprocess.input: {frame!r} is not one of the inputs {known}")

    def _check_onnx(self) -> None:
        options = self.executor_options
        if options.compiler != "none" or options.cuda_graphs:
            name = "compiler" if options.compiler != "none" else "cuda_graphs"
            raise ValueError(f"executor_options.{name} is of torch programs; an ONNX program has 'provider'")
        if options.precision in ("fp16", "bf16") and options.provider != "tensorrt":
            raise ValueError(
                f"executor_options.precision: {options.precision} of an ONNX program needs provider: "
                "tensorrt; or give a file that is converted to it"
            )


def demand_of(model: ModelSpec) -> Demand:
    """What is wanted of a model; one with neither weight nor rate has weight 1."""
    return Demand(
        model=model.name,
        slo_us=round(model.slo_ms * 1000),
        weight=1.0 if model.weight is None and model.rate_rps is None else model.weight,
        rate_rps=model.rate_rps,
        slo_margin=model.slo_margin,
        frame=_frame(model),
        answer_bytes=_answer_bytes(model),
        streams=None if model.streams is None else model.streams.to_policy(),
    )


def _frame(model: ModelSpec) -> FrameSize:
    """What clients send; without preprocessing the network's input."""
    if model.preprocess is not None:
        return model.preprocess.to_frame()
    return FrameSize(0, 0, sum(spec.bytes_per_frame for spec in input_specs(model)))


def _answer_bytes(model: ModelSpec) -> int | None:
    """What goes back for one frame; None: the network's outputs."""
    post = model.postprocess
    if post is None or post.task == "segmentation":
        return None
    findings = {"classification": post.top_k, "reading": 1}
    return BYTES_PER_FINDING * findings.get(post.task, post.max_boxes)


def input_specs(model: ModelSpec) -> tuple[TensorSpec, ...]:
    """The network's inputs as the run time's type, in the order of its program."""
    given = model.inputs or (() if model.input is None else (model.input,))
    return tuple(TensorSpec(name=each.name, dtype=each.dtype, shape=each.shape) for each in given)


def beside_the_picture(model: ModelSpec) -> tuple[TensorSpec, ...]:
    """The inputs that are made of no picture."""
    specs = input_specs(model)
    return specs if model.preprocess is None else tuple(each for each in specs if each != input_spec(model))


def input_spec(model: ModelSpec) -> TensorSpec:
    """The one of the inputs that is made of a client's frame: the one that `preprocess` names, or the
    first.
    """
    specs = input_specs(model)
    named = None if model.preprocess is None else model.preprocess.input
    return next((spec for spec in specs if spec.name == named), specs[0])
