"""Whether an ONNX file may be served: ONNX Runtime takes it, and each frame has an answer of its own.

As planner.profiling.networks.behaviour asks it of torch: one frame alone, twice; three frames, the frame in
the middle; the same with other frames beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from planner.profiling.network import Part, Specs
from planner.profiling.networks.behaviour import ODD
from planner.profiling.networks.errors import ModelError, first_line
from planner.profiling.onnx_files.network import OnnxNetwork
from planner.profiling.onnx_files.running import Array, PlainRun, noise_of

_SAME = 1e-4
"""Of an output's range: what two runs of the same shapes may differ by."""
_ALIKE = 5e-2
"""What a frame may differ by alone and among others."""


def require_frame_by_frame(network: OnnxNetwork, file: Path, where: str, one_by_one: bool) -> None:
    """Run it. `one_by_one`: its frames are never put together. Raises ModelError."""
    whole = Part(
        span=network.whole,
        takes=network.input_values,
        gives=network.output_values,
        inputs=network.inputs,
        outputs=network.outputs,
    )
    ours = _Runs(network.program_bytes(whole), network.inputs, where)
    frame = noise_of(network.inputs, 1, seed=0)
    alone = ours.of(frame)
    differs = f"{where}: the same frame is answered differently each time"
    _require_same(alone, ours.of(frame), network.outputs, differs)
    _require_shapes(alone, network.outputs, where)
    _confirm(file, network, alone, frame, where)
    if one_by_one:
        return
    beside, strangers = (noise_of(network.inputs, ODD - 1, seed=seed) for seed in (1, 2))
    many = _among(frame, beside)
    among = ours.of(many)
    middle = _middle(among)
    other = _middle(ours.of(_among(frame, [_unlike(each) for each in strangers])))
    if not all(_close(left, right, _SAME) for left, right in zip(middle, other, strict=True)):
        # Asked of many frames: a small one may by chance be answered twice alike.
        _require_same(among, ours.of(many), network.outputs, differs)
    _require_same(
        middle,
        other,
        network.outputs,
        f"{where}: a frame's answer depends on the frames beside it in the batch",
    )
    _require_same(
        alone,
        middle,
        network.outputs,
        f"{where}: a frame's answer depends on how many frames are in the batch",
        _ALIKE,
    )


class _Runs:
    def __init__(self, program: bytes | str, inputs: Specs, where: str) -> None:
        self._where = where
        self._inputs = inputs
        try:
            self._run = PlainRun(program)
        except Exception as error:
            raise ModelError(f"{where}: ONNX Runtime does not take it: {_said(error)}") from error

    def of(self, frames: Sequence[Array]) -> Sequence[Array]:
        try:
            return self._run.run(frames)
        except Exception as error:
            raise ModelError(
                f"{self._where}: does not run on {len(frames[0])} frames: {_said(error)}"
            ) from error


def _said(error: Exception) -> str:
    """What ONNX Runtime says, in one line and without the places in its own sources."""
    text = first_line(error).partition(": ")[2]
    return text.rpartition("] : ")[2].partition(" : ")[2] or text


def _confirm(
    file: Path, network: OnnxNetwork, alone: Sequence[Array], frame: Sequence[Array], where: str
) -> None:
    """The file itself gives one frame the same answer, where it takes one."""
    try:
        given = PlainRun(str(file))
        order = dict(zip((value.name for value in network.input_values), frame, strict=True))
        answer = given.run([order[name] for name in given.names])
    except Exception:  # its batch is fixed at another size: nothing to compare
        return
    flat = [array.reshape(mine.shape) for array, mine in zip(answer, alone, strict=True)]
    _require_same(
        alone, flat, network.outputs, f"{where}: taken apart, it answers something else than the file"
    )


def _require_shapes(made: Sequence[Array], outputs: Specs, where: str) -> None:
    for array, spec in zip(made, outputs, strict=True):
        if array.shape != (1, *spec.shape):
            raise ModelError(
                f"{where}: output {spec.name} of one frame is {list(array.shape)} when it runs, and "
                f"{[1, *spec.shape]} by its operators"
            )


def _require_same(
    one: Sequence[Array], other: Sequence[Array], outputs: Specs, said: str, tolerance: float = _SAME
) -> None:
    for left, right, spec in zip(one, other, outputs, strict=True):
        if not _close(left, right, tolerance):
            raise ModelError(f"{said} (output {spec.name}); a served network has one answer to a frame")


def _close(one: Array, other: Array, tolerance: float) -> bool:
    if one.dtype.kind != "f":
        return tolerance > _SAME or bool(np.array_equal(one, other))
    left, right = np.nan_to_num(one.astype(np.float64)), np.nan_to_num(other.astype(np.float64))
    width = max(float(np.abs(left).max(initial=0)), float(np.abs(right).max(initial=0)))
    return float(np.abs(left - right).max(initial=0)) <= tolerance * width


def _among(frame: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    half = ODD // 2
    return [np.concatenate([b[:half], own, b[half:]]) for own, b in zip(frame, others, strict=True)]


def _middle(arrays: Sequence[Array]) -> list[Array]:
    return [array[ODD // 2 : ODD // 2 + 1] for array in arrays]


def _unlike(array: Array) -> Array:
    """Of another size of number: what scales by the batch must show."""
    if array.dtype.kind == "b":
        return ~array
    return (array * 9 - 4).astype(array.dtype) if array.dtype.kind == "f" else array.max() - array
