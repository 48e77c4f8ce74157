"""Prepares frames on threads of the stage's own process: decoders and OpenCV let go of Python's lock.

Rule: frames of one batch are spread over the cores, as they are planned.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

from ensembles.prepare.faults import FrameFault
from ensembles.prepare.resizing import use_one_thread
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec
from python_backend.stage.batches import RaggedBatch
from python_backend.stage.pixels import pixels_of
from python_backend.stage.preparing import TOO_LATE, Done
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameInfo
from python_backend.wire.threads import Crew


class ThreadsPreparer:
    """See Preparer. `target`: the network's input, for clients that send it."""

    def __init__(self, recipe: PrepareRecipe, target: TensorSpec, log: Callable[[str], None]) -> None:
        use_one_thread()
        self._recipe = recipe
        self._target = target
        cores = len(os.sched_getaffinity(0))
        self._crew = Crew("prepare", cores, lambda error: log(f"preparing failed: {error!r}"))

    def begin(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done, until_us: int | None = None
    ) -> None:
        """See Preparer."""
        batch = RaggedBatch(self._recipe, self._target, infos, frames, done)
        for index in batch.to_prepare():
            self._crew.submit(functools.partial(self._prepare, batch, index, until_us))
        batch.begin()

    def close(self) -> None:
        """See Preparer."""
        self._crew.close()

    def _prepare(self, batch: RaggedBatch, index: int, until_us: int | None) -> None:
        if until_us is not None and now_us() > until_us:
            batch.fail(index, FailureKind.EXPIRED, TOO_LATE)
            return
        try:
            pixels = pixels_of(batch.infos[index], batch.frames[index], self._recipe)
        except FrameFault as fault:
            batch.fault(index, str(fault))
        else:
            batch.put(index, pixels)
