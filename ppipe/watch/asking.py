"""Pictures to a served model, and its answers: a Triton client in a few lines, over tritonclient's aio API.

async with InferenceServerClient("10.0.0.6:18001") as client:
    async def frames():
        for place, jpeg in enumerate(jpegs):
            frame = InferInput("jpeg", [1, 1], "BYTES")
            frame.set_data_from_numpy(np.array([[jpeg]], dtype=object))
            where = {"ppipe_stream": "gate", "ppipe_place": place}
            yield {"model_name": "street", "inputs": [frame], "parameters": where}
    async for answer, error in client.stream_infer(frames()):
        print(error or answer.as_numpy("detected_boxes"))
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from ppipe.watch.feed import Shot
from ppipe.watch.sources import WatchError
from python_backend.wire.parameters.stream_place import PLACE, STREAM

GRACE_S = 5.0
"""How long after its time-out a request may still be answered."""
_LONGEST_S = 60.0
"""Without a time-out of our own the server's SLO counts, which a client does not know."""
_REASON = re.compile(r"reason=(\w+)")


class ShotFate(Enum):
    """What became of a picture that was sent."""

    ANSWERED = "answered"
    DROPPED = "dropped"
    """Declined by the scheduler, with a reason."""
    SUPERSEDED = "superseded"
    """A newer picture of its stream came while it waited."""
    FAILED = "failed"


@dataclass(frozen=True)
class ShotResult:
    """The outcome of one shot. age_s: from when the picture was due. why: the reason, or the error's text."""

    shot: Shot
    outcome: ShotFate
    age_s: float
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Door:
    """The input of a model that takes pictures: image files (BYTES), or pixels of any size (UINT8)."""

    model: str
    input: str
    datatype: str
    timeout_us: int | None = None

    @property
    def takes_images(self) -> bool:
        """Files rather than pixels."""
        return self.datatype == "BYTES"


async def find_door(
    client: InferenceServerClient, url: str, model: str, timeout_us: int | None, served: Sequence[str] = ()
) -> Door:
    """How pictures go into `model`. served: the models there, where they are known. Raises WatchError."""
    try:
        metadata = await client.get_model_metadata(model, as_json=True, client_timeout=GRACE_S)
    except InferenceServerException as error:
        raise WatchError(_unknown(url, model, served, error)) from error
    for tensor in metadata["inputs"]:
        free = "-1" in tensor["shape"][1:]
        if tensor["datatype"] == "BYTES" or (tensor["datatype"] == "UINT8" and free):
            return Door(model, tensor["name"], tensor["datatype"], timeout_us)
    takes = ", ".join(f"{t['name']} {t['datatype']} {t['shape']}" for t in metadata["inputs"])
    raise WatchError(
        f"--model {model}: it takes {takes}; pictures go to BYTES (image files) or UINT8 [-1, -1, -1, 3] "
        "(pixels), which `preprocess` of a model makes"
    )


def _unknown(url: str, model: str, served: Sequence[str], error: InferenceServerException) -> str:
    if "UNAVAILABLE" in str(error.status()):
        return f"no server answers at {url}; start it with ppipe serve, or name another with --url"
    known = f"; served are {', '.join(served)}" if served else ""
    return f"--model {model}: {error.message()}{known}"


class ShotLine:
    """One gRPC stream for the frames of one source: they reach the entry in the order in which they are sent,
    as calls that are under way side by side need not, and their answers come in that order too.

    A line that breaks fails what is under way on it; the next frame opens another.
    """

    def __init__(self, client: InferenceServerClient, door: Door) -> None:
        self._client = client
        self._door = door
        # Places rise from one run to the next, for the entry remembers a stream for a while.
        self._first_place = time.time_ns() // 1_000
        self._sent: deque[tuple[Shot, asyncio.Future[ShotResult]]] = deque()
        self._requests: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._answers: asyncio.Task[None] | None = None

    async def ask(self, shot: Shot) -> ShotResult:
        """Send one shot and wait for what becomes of it."""
        if self._answers is None or self._answers.done():
            self._requests = asyncio.Queue()
            self._answers = asyncio.create_task(self._take_answers(self._requests))
        answer: asyncio.Future[ShotResult] = asyncio.get_running_loop().create_future()
        self._sent.append((shot, answer))
        self._requests.put_nowait(self._request(shot))
        timeout_us = self._door.timeout_us
        try:
            async with asyncio.timeout(_LONGEST_S if timeout_us is None else timeout_us / 1e6 + GRACE_S):
                return await answer
        except TimeoutError:
            self._answers.cancel()
            return ShotResult(shot, ShotFate.FAILED, time.monotonic() - shot.due_s, why="no answer")

    async def close(self) -> None:
        """Give the stream up."""
        if self._answers is not None:
            self._answers.cancel()
            await asyncio.wait([self._answers])

    def _request(self, shot: Shot) -> dict[str, Any]:
        return {
            "model_name": self._door.model,
            "inputs": [_input(self._door, shot)],
            "timeout": self._door.timeout_us,
            "parameters": {STREAM: shot.stream, PLACE: self._first_place + shot.place},
        }

    async def _take_answers(self, requests: asyncio.Queue[dict[str, Any] | None]) -> None:
        why = "the connection ended"

        async def sent() -> AsyncIterator[dict[str, Any]]:
            while (request := await requests.get()) is not None:
                yield request

        try:
            async for result, error in self._client.stream_infer(sent()):
                self._settle(result, error)
        except (InferenceServerException, grpc.RpcError) as error:
            why = str(error.details() if isinstance(error, grpc.aio.AioRpcError) else error)
        finally:
            requests.put_nowait(None)  # whoever waits for the next one, inside gRPC, ends
            while self._sent:
                self._settle(None, InferenceServerException(why))

    def _settle(self, result: InferResult | None, error: InferenceServerException | None) -> None:
        """The oldest frame on the line has its end."""
        shot, answer = self._sent.popleft()
        age_s = time.monotonic() - shot.due_s
        if answer.done():
            return
        if error is not None:
            answer.set_result(ShotResult(shot, *_judged(error, age_s)))
        else:
            answer.set_result(ShotResult(shot, ShotFate.ANSWERED, age_s, _outputs(result)))


def _input(door: Door, shot: Shot) -> InferInput:
    tensor = InferInput(door.input, [1, *shot.shape], door.datatype)
    if door.takes_images:
        tensor.set_data_from_numpy(np.array([[shot.content]], dtype=np.object_))
    else:
        pixels = np.frombuffer(shot.content, np.uint8).reshape(1, *shot.shape)
        tensor.set_data_from_numpy(pixels)
    return tensor


def _outputs(result: InferResult) -> dict[str, npt.NDArray[Any]]:
    """Without the batch dimension."""
    named = {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}
    return {name: array[0] for name, array in named.items()}


def _judged(
    error: InferenceServerException, age_s: float
) -> tuple[ShotFate, float, Mapping[str, npt.NDArray[Any]], str]:
    reason = _REASON.search(error.message() or "")
    if reason is None:
        return ShotFate.FAILED, age_s, {}, error.message() or str(error.status())
    outcome = ShotFate.SUPERSEDED if reason[1] == "superseded" else ShotFate.DROPPED
    return outcome, age_s, {}, reason[1]
