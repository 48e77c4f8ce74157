"""Emulated stage: real tensors in and out, nothing computed. The worker is held for the profiled latency
elsewhere.

Rule: every frame has a tag of TAG_BYTES: of a tensor its first bytes, of an image a digest, for the first
bytes of JPEGs are alike. Stage 0 takes it from what the client sent; every stage copies it to the front of
each output of that frame, and refuses a frame whose inputs do not agree on it. So a client that numbers its
frames notices any mixing up of frames, and so does a stage of tensors.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from planner.manifest import StageProgram
from python_backend.wire.kserve import NUMPY_OF, Array, Buffer
from python_backend.wire.ragged import FrameInfo, FrameKind

TAG_BYTES = 8


class MixedFrames(RuntimeError):
    """The inputs of one frame come from different frames."""


class EmulatedExecutor:
    """Gives outputs of the right shapes, zero but for the tags."""

    def __init__(self, program: StageProgram, first_stage: bool) -> None:
        self._program = program
        self._check = not first_stage

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See StageExecutor. Raises MixedFrames."""
        tags = tags_of(inputs[0])
        if self._check:
            for array, spec in zip(inputs[1:], self._program.inputs[1:], strict=True):
                self._require_same(tags, tags_of(array), spec.name)
        return [self._tagged(tags, spec.dtype, spec.shape) for spec in self._program.outputs]

    def run_on_device(self, inputs: Sequence[Array]) -> list[Array]:
        """See StageExecutor."""
        return self.run(inputs)

    def warm_up(self) -> None:
        """Nothing to do."""

    def _tagged(self, tags: Array, dtype: str, shape: tuple[int, ...]) -> Array:
        output = np.zeros((len(tags), *shape), dtype=NUMPY_OF[dtype])
        as_bytes = output.reshape(len(tags), -1).view(np.uint8)
        width = min(tags.shape[1], as_bytes.shape[1])
        as_bytes[:, :width] = tags[:, :width]
        return output

    @staticmethod
    def _require_same(tags: Array, others: Array, name: str) -> None:
        width = min(tags.shape[1], others.shape[1])
        wrong = np.flatnonzero((tags[:, :width] != others[:, :width]).any(axis=1))
        if len(wrong):
            raise MixedFrames(f"frame {wrong[0]} of the batch: {name} belongs to another frame")


def tags_of(frames: Array) -> Array:
    """The tag bytes of each frame, shape [batch, up to TAG_BYTES]."""
    return np.ascontiguousarray(frames.reshape(len(frames), -1)).view(np.uint8)[:, :TAG_BYTES]


def frame_tag(frame: Buffer) -> bytes:
    """The tag of an image as its client sent it: a checksum and how many bytes it has."""
    return zlib.crc32(frame).to_bytes(4, "little") + len(frame).to_bytes(4, "little")


def tags_of_frames(infos: Sequence[FrameInfo], frames: Sequence[Buffer]) -> Array:
    """The tags of a ragged batch, shape [batch, TAG_BYTES]."""
    tags = [
        bytes(frame[:TAG_BYTES]).ljust(TAG_BYTES, b"\0")
        if info.kind is FrameKind.TENSOR
        else frame_tag(frame)
        for info, frame in zip(infos, frames, strict=True)
    ]
    return np.frombuffer(b"".join(tags), np.uint8).reshape(len(tags), TAG_BYTES)
