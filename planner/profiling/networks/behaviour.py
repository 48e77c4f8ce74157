"""Whether a network may be served at all: a batch is so many frames, and each has an answer of its own.

Asked of the network itself before it is exported, and of the program afterwards: what torch.export has seen
is one run with two frames, and a program that is right for two frames may be wrong for one.

Rules
- Runs: one frame alone, twice; three frames, the frame in the middle; three others, the frame last. Between
  the last two all shapes are equal, so what is equal is so bit for bit, or nearly. A frame that stayed where
  it was would not show that the batch is turned round.
- A frame alone and the same among others may go through other kernels, so that is compared loosely, and only
  where numbers are continuous.
- What is wrong is told with the line of the network's code and with what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.profiling.measuring.timing import random_frames
from planner.profiling.network import Specs
from planner.profiling.networks import advice
from planner.profiling.networks.errors import ModelError, first_line, line_of, shape_text
from planner.profiling.networks.outputs import Outputs, outputs_of
from planner.profiling.networks.tracing import (
    COUNT,
    Call,
    Frames,
    Network,
    first_of_other_kind,
    first_that_mixes,
    first_that_varies,
    record,
)

ODD = 3
"""Frames of the larger batch: no example of torch.export, and seldom a number of channels that matters."""
_SAME = 1e-4
"""Of an output's range: what two runs of the same shapes may differ by, on several threads."""
_ALIKE = 5e-2
"""What a frame may differ by alone and among others: kernels of half precision included."""


_TRIES = 5
"""Runs in which the call is looked for that differs each time: by chance two runs may be alike."""


@dataclass(frozen=True)
class Observed:
    """What a network answers: to one frame, to two, and to three with that frame in the middle."""

    frames: Frames
    outputs: Outputs
    alone: tuple[torch.Tensor, ...]
    among: tuple[torch.Tensor, ...]


def observe(network: Network, inputs: Specs, where: str, one_by_one: bool = False) -> Observed:
    """Run the network; `one_by_one`: its frames are never put together. Raises ModelError."""
    with torch.inference_mode():
        run = _Runs(network, inputs, where)
        alone, again = run.of(run.frame), run.of(run.frame)
        outputs = outputs_of(run.result, where, frozenset(spec.name for spec in inputs))
        many = run.frame if one_by_one else run.among(run.neighbours, ODD // 2)
        among = alone if one_by_one else run.of(many)
    run.require_shapes(alone, 1, outputs)
    run.require_shapes(among, len(many[0]), outputs)
    if not _equal(alone, again, _SAME):
        run.refuse_noise(run.frame)
    if not one_by_one:
        with torch.inference_mode():
            other = run.of(run.among(run.strangers, ODD - 1))
        middle = ODD // 2
        if not _equal([part[middle] for part in among], [part[-1] for part in other], _SAME):
            run.require_one_answer(many, among)
            run.refuse_mixing()
        if not _equal([part[0] for part in alone], [part[middle] for part in among], _ALIKE):
            run.refuse_dependence()
    return Observed(frames=many, outputs=outputs, alone=alone, among=among)


def observe_shapes(network: Network, inputs: Specs, where: str) -> None:
    """Of a network without weights, on the device 'meta': whether each frame has a row of each answer.

    Raises ModelError.
    """
    with torch.inference_mode(), torch.device("meta"):
        run = _Runs(network, inputs, where, "meta")
        alone = run.of(run.frame)
        outputs = outputs_of(run.result, where, frozenset(spec.name for spec in inputs))
        run.require_shapes(alone, 1, outputs)
        run.require_shapes(run.of(run.among(run.neighbours, ODD // 2)), ODD, outputs)


def goes_one_way(network: Network, inputs: Specs) -> bool:
    """Of a network without weights: whether it calls the same for one frame, for the two that torch.export
    sees, and for many. Then the program is right for all batches, and need not be compared.
    """
    with torch.device("meta"):
        one, two, many = (
            record(network, tuple(random_frames(spec, count, "meta", 0)[0] for spec in inputs))
            for count in (1, 2, COUNT)
        )
    alike = [call.name for call in one] == [call.name for call in two]
    return alike and not many[-1].failed and first_of_other_kind(one, many, COUNT) is None


def confirm(program: Callable[..., Any], observed: Observed, where: str, network: Network | None) -> None:
    """Raises ModelError where the exported program does not answer what the network does.

    `network`: to find the line; None where there is none but the program.
    """
    many = len(observed.frames[0])
    middle = many // 2
    pairs = [(_some(observed.frames, middle, middle + 1), observed.alone)]
    if many > 1:
        two = [part[: middle + 1] for part in observed.among]
        pairs += [(_some(observed.frames, 0, middle + 1), tuple(two)), (observed.frames, observed.among)]
    for frames, wanted in pairs:
        count = len(frames[0])
        tolerance = _ALIKE if count == middle + 1 > 1 else _SAME
        problem = _disagreement(program, observed.outputs, frames, wanted, tolerance)
        if problem:
            culprit = None if network is None else _divergence(network, _some(observed.frames, 0, 1))
            raise ModelError(
                f"{where}: torch.export keeps one way through the code, the one for two frames, and for "
                f"{_frames(count)} {problem}{_at(culprit)}: write it without a branch on the batch size"
            )


def _disagreement(
    program: Callable[..., Any],
    outputs: Outputs,
    frames: Frames,
    wanted: Sequence[torch.Tensor],
    tolerance: float,
) -> str:
    """What the program does otherwise than the network, or ''."""
    try:
        with torch.inference_mode():
            given = outputs.tensors(program(*_copy(frames)))
    except Exception as error:
        return f"it fails ({first_line(error)})"
    for name, one, other in zip(outputs.names, given, wanted, strict=True):
        if one.shape != other.shape:
            wanted_shape = shape_text(other.shape)
            return f"it answers {name} {shape_text(one.shape)} where the network answers {wanted_shape}"
    return "" if _equal(given, wanted, tolerance) else "it answers something else than the network"


class _Runs:
    """The network on made frames, and what is said of it."""

    def __init__(self, network: Network, inputs: Specs, where: str, device: str = "cpu") -> None:
        self._network = network
        self._inputs = inputs
        self._where = where
        self._device = device
        self.result: Any = None
        self.frame = self._noise(1, seed=0)
        self.neighbours = self._noise(ODD - 1, seed=1)
        self.strangers = _unlike(self._noise(ODD - 1, seed=2))

    def _noise(self, frames: int, seed: int) -> Frames:
        """Of an only input the seed's, of others their own."""
        return tuple(
            random_frames(spec, frames, self._device, seed + 100 * index)[0]
            for index, spec in enumerate(self._inputs)
        )

    def among(self, others: Frames, at: int) -> Frames:
        """The frame at this place among others."""
        return tuple(
            torch.cat([beside[:at], own, beside[at:]]) for own, beside in zip(self.frame, others, strict=True)
        )

    def of(self, frames: Frames) -> tuple[torch.Tensor, ...]:
        """The output tensors. Raises ModelError where the network fails on so many frames."""
        try:
            self.result = self._network(*_copy(frames))
        except Exception as error:
            raise self._failure(error, len(frames[0])) from error
        return tuple(leaf for leaf in pytree.tree_leaves(self.result) if isinstance(leaf, torch.Tensor))

    def _failure(self, error: Exception, frames: int) -> ModelError:
        what = " and ".join(
            f"input {spec.name} {spec.dtype} [{frames}, {', '.join(map(str, spec.shape))}]"
            for spec in self._inputs
        )
        culprit = self._differing() if frames == 1 else None
        found = f"{line_of(error)}: {first_line(error)}"
        if culprit is not None and not culprit.failed:
            advised = advice.of(advice.SHAPES, culprit.name, advice.SHAPES_DEFAULT)
            line = "" if culprit.line in found else _at(culprit)
            found += f"; {culprit.name}{line} gives one frame another shape: {advised}"
        elif frames > 1 and self._runs_alone():
            found += (
                "; it runs on one frame: dimension 0 of its input must be the batch, of any size, so write "
                "what holds for every number of frames"
            )
        return ModelError(f"{self._where}: does not run on {what}{found}")

    def _runs_alone(self) -> bool:
        try:
            with torch.no_grad():
                self._network(*_copy(self.frame))
        except Exception:  # whatever it is, it fails alone too
            return False
        return True

    def require_shapes(self, tensors: Sequence[torch.Tensor], frames: int, outputs: Outputs) -> None:
        """Every output has the batch in front. Raises ModelError."""
        for name, tensor in zip(outputs.names, tensors, strict=True):
            if tensor.dim() == 0 or tensor.shape[0] != frames:
                if self._is_constant(name, outputs):
                    raise ModelError(
                        f"{self._where}: output {name} {shape_text(tensor.shape)} is the same for every "
                        "frame: leave it out of what forward returns, and give it to clients as a file"
                    )
                culprit = self._differing() or record(self._network, _copy(self.frame))[-1]
                said = f"{self._where}: output {name} of {_frames(frames)} is {shape_text(tensor.shape)}; "
                said += "its first dimension must be the batch"
                advised = advice.of(advice.SHAPES, culprit.name, advice.SHAPES_DEFAULT)
                raise ModelError(f"{said}: {culprit.name}{_at(culprit)}: {advised}")

    def _is_constant(self, name: str, outputs: Outputs) -> bool:
        """Whether an output is the same whatever the frames and however many; of values that there are."""
        if self._device == "meta":
            return False
        index = outputs.names.index(name)
        with torch.inference_mode():
            one, other = self.of(self.frame), self.of(self.strangers)
        return one[index].shape == other[index].shape and bool(torch.equal(one[index], other[index]))

    def _differing(self) -> Call | None:
        return _divergence(self._network, self.frame)

    def require_one_answer(self, frames: Frames, answer: Sequence[torch.Tensor]) -> None:
        """Asked of many frames: a small one may by chance be answered twice alike. Raises ModelError."""
        with torch.inference_mode():
            again = self.of(frames)
        if not _equal(answer, again, _SAME):
            self.refuse_noise(frames)

    def refuse_noise(self, frames: Frames) -> None:
        """Raises ModelError with the call that gives something else each time."""
        first = record(self._network, _copy(frames), keep=True)
        runs = (record(self._network, _copy(frames), keep=True) for _ in range(_TRIES))
        culprit = next(filter(None, (first_that_varies(first, run) for run in runs)), None)
        said = f"{self._where}: the same frame is answered differently each time"
        if culprit is None:
            raise ModelError(f"{said}; a served network must have one answer to a frame")
        advised = advice.of(advice.VARIES, culprit.name, advice.VARIES_DEFAULT)
        raise ModelError(f"{said}: {culprit.name}{_at(culprit)}: {advised}")

    def refuse_mixing(self) -> None:
        """Raises ModelError with the call that mixes frames."""
        others = self._noise(COUNT - 1, seed=3)
        at = COUNT // 3  # neither first nor last nor in the middle
        batches = [self.among(beside, at) for beside in (others, _unlike(others))]
        one, other = (record(self._network, batch, keep=True) for batch in batches)
        culprit = first_that_mixes(one, other, at)
        said = f"{self._where}: a frame's answer depends on the frames beside it in the batch"
        if culprit is None:
            raise ModelError(f"{said}: {advice.MIXES_DEFAULT}, {advice.ALONE}")
        advised = advice.of(advice.MIXES, culprit.name, advice.MIXES_DEFAULT)
        raise ModelError(f"{said}: {culprit.name}{_at(culprit)}: {advised}, {advice.ALONE}")

    def refuse_dependence(self) -> None:
        """Raises ModelError with the call that depends on the number of frames; where none is found, a near
        tie was decided otherwise by other kernels, and that is no fault.
        """
        one = record(self._network, _copy(self.frame), keep=True)
        many = record(self._network, _repeated(self.frame), keep=True)
        culprit = first_of_other_kind(one, many, COUNT) or _first_off(one, many)
        if culprit is not None:
            advised = advice.of(advice.MIXES, culprit.name, advice.MIXES_DEFAULT)
            raise ModelError(
                f"{self._where}: a frame's answer depends on how many frames are in the batch: "
                f"{culprit.name}{_at(culprit)}: {advised}, {advice.ALONE}"
            )


def _first_off(one: Sequence[Call], many: Sequence[Call]) -> Call | None:
    """The first call that gives each of many copies of a frame something else than the frame alone."""
    for lone, full in zip(one, many, strict=False):
        for left, right in zip(lone.kept, full.kept, strict=False):
            batched = left.dim() > 0 and right.dim() > 0 and right.shape[0] == COUNT * left.shape[0]
            if batched and not _close(left, right[: len(left)], _ALIKE):
                return None if lone.name in _DECIDES or not left.is_floating_point() else full
    return None


_DECIDES = frozenset(
    ("topk", "sort", "argsort", "argmax", "argmin", "round", "floor", "ceil", "nms", "gather")
)
"""Calls whose answer may jump for a difference that is none."""


def _copy(frames: Frames) -> Frames:
    return tuple(tensor.clone() for tensor in frames)


def _some(frames: Frames, start: int, end: int) -> Frames:
    return tuple(tensor[start:end] for tensor in frames)


def _repeated(frame: Frames) -> Frames:
    return tuple(tensor.repeat(COUNT, *[1] * (tensor.dim() - 1)) for tensor in frame)


def _divergence(network: Network, frame: Frames) -> Call | None:
    one = record(network, _copy(frame))
    many = record(network, _repeated(frame))
    return first_of_other_kind(one, many, COUNT)


def _equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor], tolerance: float) -> bool:
    pairs = zip(one, other, strict=True)
    return all(_close(left, right, tolerance) for left, right in pairs)


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors are equal, within a share of their range where they are of real numbers."""
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return tolerance > _SAME or bool(torch.equal(one, other))
    left, right = one.double().nan_to_num(), other.double().nan_to_num()
    if left.numel() == 0 or torch.equal(left, right):
        return True
    width = float(torch.maximum(left.abs().max(), right.abs().max()))
    return float((left - right).abs().max()) <= tolerance * width


def _unlike(frames: Frames) -> Frames:
    """Frames of another size of number: what scales by the batch must show."""
    return tuple(map(_of_another_size, frames))


def _of_another_size(frames: torch.Tensor) -> torch.Tensor:
    if frames.dtype is torch.bool:
        return ~frames
    if not frames.is_floating_point():
        return frames.max() - frames
    return frames * 9 - 4


def _frames(count: int) -> str:
    return "one frame" if count == 1 else f"{count} frames"


def _at(call: Call | None) -> str:
    return f" at {call.line}" if call is not None and call.line else ""
