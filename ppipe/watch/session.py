"""Watches sources until they end or somebody ends it: feeds in threads, requests in one event loop.

Rules
- Every picture that a feed hands on is asked about once; its answer is counted, written and drawn, and then
  gives its room back.
- An end by signal, or because results cannot be written, is the same: feeds stop, what is under way gets a
  moment, files are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from tritonclient.grpc.aio import InferenceServerClient

from ppipe.signals import ENDING
from ppipe.watch.asking import Door, ShotLine, ShotResult, find_door
from ppipe.watch.board import StreamCounts, board
from ppipe.watch.clips import Clip
from ppipe.watch.feed import Feed, Shot
from ppipe.watch.pacing import SendPolicy
from ppipe.watch.results import ResultFile
from ppipe.watch.sources import WatchError, WatchSource

REFRESH_S = 0.5
_LAST_S = 2.0
"""What is under way at the end is waited for so long."""


@dataclass(frozen=True)
class WatchOptions:
    """ahead: pictures of one source that are sent and not answered, at most. timeout_us: of a picture; None:
    the model's SLO. clips: a folder for annotated videos. served: the models at `url`, where they are known.
    """

    url: str
    model: str
    policy: SendPolicy = SendPolicy.SKIP
    ahead: int = 8
    timeout_us: int | None = None
    loop: bool = False
    clips: Path | None = None
    served: tuple[str, ...] = ()


@dataclass(frozen=True)
class WatchEnd:
    """How it ended. signal: by which; None: all sources ended."""

    streams: tuple[StreamCounts, ...]
    signal: int | None


async def watch(
    sources: Sequence[WatchSource],
    options: WatchOptions,
    results: ResultFile | None,
    show: Callable[[RenderableType], None],
) -> WatchEnd:
    """Watch all of them. Raises WatchError where there is no such model, or a file cannot be written."""
    async with InferenceServerClient(options.url) as client:
        door = await find_door(client, options.url, options.model, options.timeout_us, options.served)
        session = _Session(client, door, sources, options, results)
        return await session.run(show)


class _Session:
    def __init__(
        self,
        client: InferenceServerClient,
        door: Door,
        sources: Sequence[WatchSource],
        options: WatchOptions,
        results: ResultFile | None,
    ) -> None:
        self._door = door
        self._lines = {source.stream: ShotLine(client, door) for source in sources}
        self._results = results
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._signal: int | None = None
        self._error: Exception | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._feeds = {source.stream: self._feed(source, options) for source in sources}
        self._counts = {name: StreamCounts(name, feed.state) for name, feed in self._feeds.items()}
        self._clips: dict[str, Clip] = {}
        if options.clips is not None:
            options.clips.mkdir(parents=True, exist_ok=True)
            self._clips = {name: Clip(options.clips / f"{name}.mp4") for name in self._feeds}

    def _feed(self, source: WatchSource, options: WatchOptions) -> Feed:
        def hand_on(shot: Shot) -> None:
            self._loop.call_soon_threadsafe(self._begin, shot)

        def ended() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the watch is over already
                self._loop.call_soon_threadsafe(self._look_if_over)

        images = self._door.takes_images
        keep = options.clips is not None
        return Feed(source, options.policy, options.ahead, options.loop, images, keep, hand_on, ended)

    async def run(self, show: Callable[[RenderableType], None]) -> WatchEnd:
        for number in ENDING:
            self._loop.add_signal_handler(number, self._end, number)
        for feed in self._feeds.values():
            feed.start()
        try:
            while not self._over.is_set():
                show(board(tuple(self._counts.values())))
                await _at_most(REFRESH_S, self._over.wait())
        finally:
            await self._close()
        show(board(tuple(self._counts.values())))
        if self._error is not None:
            raise self._error
        return WatchEnd(tuple(self._counts.values()), self._signal)

    def _end(self, number: int) -> None:
        for each in ENDING:  # a second one does not interrupt the cleaning up
            self._loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)
        self._signal = number
        self._over.set()

    def _begin(self, shot: Shot) -> None:
        task = self._loop.create_task(self._ask(shot))
        self._asking.add(task)
        task.add_done_callback(self._asked)

    async def _ask(self, shot: Shot) -> None:
        room = self._feeds[shot.stream].room
        try:
            answer = await self._lines[shot.stream].ask(shot)
        except BaseException:
            room.release()
            raise
        self._counts[shot.stream].count(answer)
        self._take(answer, room.release)

    def _take(self, answer: ShotResult, done: Callable[[], None]) -> None:
        """Raises OSError, WatchError."""
        clip = self._clips.get(answer.shot.stream)
        if clip is None:
            done()
        else:
            clip.add(answer, done)
            if clip.error is not None:
                raise WatchError(f"--annotate {clip.path}: {clip.error}")
        if self._results is not None:
            self._results.write(answer)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            assert isinstance(error, Exception)
            self._error = self._error or error
            self._over.set()
        self._look_if_over()

    def _look_if_over(self) -> None:
        if not self._asking and all(feed.state.over for feed in self._feeds.values()):
            self._over.set()

    async def _close(self) -> None:
        for feed in self._feeds.values():
            feed.stop()
        if self._asking:
            await asyncio.wait(self._asking, timeout=_LAST_S)
        for task in tuple(self._asking):
            task.cancel()
        for line in self._lines.values():
            await line.close()
        for clip in self._clips.values():
            await asyncio.to_thread(clip.close)
            if clip.error is not None and self._error is None:
                self._error = WatchError(f"--annotate {clip.path}: {clip.error}")


async def _at_most(seconds: float, what: Coroutine[Any, Any, object]) -> None:
    """Wait for it, but no longer."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(what, seconds)
