"""Prepares frames in the server's pool of processes: a decoder that crashes costs its frame and no worker."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

import numpy as np

from planner import serial
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec
from python_backend.stage.batches import RaggedBatch
from python_backend.stage.pool.client import PoolClient
from python_backend.stage.pool.jobs import RECORD_BYTES, FrameJob, RecordState
from python_backend.stage.pool.slots import Slot, Slots
from python_backend.stage.preparing import TOO_LATE, Done
from python_backend.wire.hop_failure import FailureKind
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameInfo
from python_backend.wire.shm.space import aligned

WORK = "python_backend.stage.pixels:pixels_of"


class PoolPreparer:
    """See Preparer. `target`: the network's input, for clients that send it; `cores`: of this server.

    Raises NoPool.
    """

    def __init__(
        self,
        recipe: PrepareRecipe,
        target: TensorSpec,
        cores: int,
        log: Callable[[str], None],
        work: str = WORK,
    ) -> None:
        self._recipe = recipe
        self._recipe_text = serial.dumps(recipe)
        self._target = target
        self._slots = Slots()
        self._client = PoolClient(cores, work, log)

    def begin(
        self, infos: Sequence[FrameInfo], frames: Sequence[Buffer], done: Done, until_us: int | None = None
    ) -> None:
        """See Preparer."""
        batch = RaggedBatch(self._recipe, self._target, infos, frames, done)
        places = batch.to_prepare()
        if not places:
            batch.begin()
            return
        layout = _Layout(self._recipe, infos, places)
        try:
            slot = self._slots.take(layout.size)
        except OSError as error:
            for index in places:
                batch.fail(index, FailureKind.COMPUTE, f"no memory to prepare frames in: {error.strerror}")
            return
        shared = _SharedSlot(slot, len(places), self._slots)
        for number, index in enumerate(places):
            job = layout.job(number, infos[index], until_us, self._recipe_text)
            slot.memory[job.source : job.source + job.size] = frames[index]
            self._client.ask(job, slot, functools.partial(self._ended, batch, index, job, shared))

    def close(self) -> None:
        """See Preparer."""
        self._client.close()
        self._slots.close()

    def _ended(
        self, batch: RaggedBatch, index: int, job: FrameJob, slot: _SharedSlot, state: RecordState, text: str
    ) -> None:
        try:
            if state is RecordState.DONE:
                recipe = self._recipe
                shape = (recipe.height, recipe.width, recipe.channels)
                batch.put(index, np.ndarray(shape, np.uint8, slot.memory, job.target))
            elif state is RecordState.FAULT:
                batch.fault(index, text)
            elif state is RecordState.LATE:
                batch.fail(index, FailureKind.EXPIRED, TOO_LATE)
            else:
                batch.fail(index, FailureKind.UNREACHABLE, text or _ENDED)
        finally:
            slot.one_less()


_ENDED = "the processes that prepare frames have ended"


class _Layout:
    """Where the frames of a batch lie in a slot: their records, their pixels, what clients sent."""

    def __init__(self, recipe: PrepareRecipe, infos: Sequence[FrameInfo], places: Sequence[int]) -> None:
        self._pixels = aligned(recipe.height * recipe.width * recipe.channels)
        self._first_pixels = aligned(RECORD_BYTES * len(places))
        self._sources = []
        position = self._first_pixels + self._pixels * len(places)
        for index in places:
            self._sources.append(position)
            position = aligned(position + infos[index].size)
        self.size = position

    def job(self, number: int, info: FrameInfo, until_us: int | None, recipe: str) -> FrameJob:
        """Of the frame at this place among those to prepare."""
        return FrameJob(
            record=RECORD_BYTES * number,
            source=self._sources[number],
            size=info.size,
            target=self._first_pixels + self._pixels * number,
            width=info.width,
            height=info.height,
            kind=info.kind,
            until_us=until_us,
            recipe=recipe,
        )


class _SharedSlot:
    """A slot that is given back when the last of its frames has ended."""

    def __init__(self, slot: Slot, frames: int, slots: Slots) -> None:
        self.slot = slot
        self.memory = slot.memory
        self._left = frames
        self._slots = slots
        self._lock = threading.Lock()

    def one_less(self) -> None:
        """A frame has ended."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._slots.give_back(self.slot)
