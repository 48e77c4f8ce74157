"""Prepares frames in the server's pool of processes: a decoder that crashes costs its frame and no worker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from planner import serial
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec
from python_backend.stage.batches import RaggedBatch, shape_of
from python_backend.stage.pool.client import PoolClient
from python_backend.stage.pool.jobs import RECORD_BYTES, FrameJob, RecordState
from python_backend.stage.pool.slots import Slots
from python_backend.stage.preparing import TOO_LATE, Done, Prepared
from python_backend.wire.hop_failure import FailureKind
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameInfo, FrameKind
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
        places = [index for index, info in enumerate(infos) if info.kind is not FrameKind.TENSOR]
        if not places:
            RaggedBatch(self._recipe, self._target, infos, frames, done).begin()
            return
        layout = _Layout(self._recipe, infos, places)
        try:
            slot = self._slots.take(layout.size)
        except OSError as error:
            text = f"no memory to prepare frames in: {error.strerror}"
            done(Prepared([], {}, (FailureKind.COMPUTE, text)))
            return
        pixels = self._slots.lend(slot, shape_of(self._recipe, len(infos)), layout.first_pixels)
        batch = RaggedBatch(self._recipe, self._target, infos, frames, done, pixels)
        for number, index in enumerate(places):
            job = layout.job(number, index, until_us, self._recipe_text)
            slot.memory[job.source : job.source + job.size] = frames[index]
            self._client.ask(job, slot, functools.partial(_ended, batch, index))

    def close(self) -> None:
        """See Preparer."""
        self._client.close()
        self._slots.close()


def _ended(batch: RaggedBatch, index: int, state: RecordState, text: str) -> None:
    if state is RecordState.DONE:
        batch.is_there(index)
    elif state is RecordState.FAULT:
        batch.fault(index, text)
    elif state is RecordState.LATE:
        batch.fail(index, FailureKind.EXPIRED, TOO_LATE)
    else:
        batch.fail(index, FailureKind.UNREACHABLE, text or _ENDED)


_ENDED = "the processes that prepare frames have ended"


class _Layout:
    """Where a batch lies in a slot: records of frames to prepare, the pixels of all, what clients sent."""

    def __init__(self, recipe: PrepareRecipe, infos: Sequence[FrameInfo], places: Sequence[int]) -> None:
        self._infos = infos
        self._pixels = recipe.height * recipe.width * recipe.channels
        self.first_pixels = aligned(RECORD_BYTES * len(places))
        self._sources = []
        position = aligned(self.first_pixels + self._pixels * len(infos))
        for index in places:
            self._sources.append(position)
            position = aligned(position + infos[index].size)
        self.size = position

    def job(self, number: int, index: int, until_us: int | None, recipe: str) -> FrameJob:
        """Of the frame at `index` of the batch, the `number`th of those to prepare."""
        info = self._infos[index]
        return FrameJob(
            record=RECORD_BYTES * number,
            source=self._sources[number],
            size=info.size,
            target=self.first_pixels + self._pixels * index,
            width=info.width,
            height=info.height,
            kind=info.kind,
            until_us=until_us,
            recipe=recipe,
        )
