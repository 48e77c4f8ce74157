"""What a first stage's host makes of clients' frames before its worker gets them: the interface.

Rules
- A batch is prepared as soon as it has come, while the worker still computes the one before it.
- A frame that cannot be used keeps its place as zeros; what is wrong with it goes back beside the outputs.
- Pixels are uint8, [batch, height, width, channels]; what makes floats of them is the executor's work, on its
  device (executors.prologue). Where a client has sent the network's own input, the whole batch is that, made
  here on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from python_backend.stage.executors.emulated import tags_of_frames
from python_backend.wire.hop_failure import FailureKind
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import FrameInfo

TOO_LATE = "it can no longer finish by its deadline"


class Prepared:
    """A batch for a program. faults: what is wrong with a frame, by its place in the batch. failed: why there
    is none, though nothing may be wrong with the frames.
    """

    def __init__(
        self, inputs: list[Array], faults: Mapping[int, str], failed: tuple[FailureKind, str] | None = None
    ) -> None:
        self.inputs: Final = inputs
        self.faults: Final = faults
        self.failed: Final = failed


Done = Callable[[Prepared], None]


class Preparer(Protocol):
    """Thread-safe."""

    def begin(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done, until_us: int | None = None
    ) -> None:
        """Prepare a batch and call `done`, soon, from some thread. `frames` stay valid until then. A batch
        that is not begun by until_us need not be prepared any more; None: it must be, however late.
        """

    def close(self) -> None:
        """Give up threads and processes; batches under way may get no `done`."""


class TaggingPreparer:
    """For an emulated stage, whose program wants no pixels but each frame's tag. What it costs to prepare is
    `inner`'s to say.
    """

    def __init__(self, inner: Preparer) -> None:
        self._inner = inner

    def begin(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done, until_us: int | None = None
    ) -> None:
        """See Preparer."""
        tags = tags_of_frames(infos, frames)

        def tagged(prepared: Prepared) -> None:
            done(Prepared([tags], prepared.faults, prepared.failed))

        self._inner.begin(infos, frames, tagged, until_us)

    def close(self) -> None:
        """See Preparer."""
        self._inner.close()
