"""Annotated video of one stream: pictures with their answers, in the stream's order, as an MP4 file.

Rules
- A picture is written when all before it have been; what waits for that is bounded by the feed's room.
- Each stream has one thread for it, so that drawing and encoding hold nobody up.
- Until it is closed, a file has no index; close() writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ppipe.watch.asking import ShotResult
from ppipe.watch.drawing import annotated
from ppipe.watch.reading import FrameFault, Pixels

_TICKS_PER_S = 90_000
_CODECS = ("libx264", "mpeg4")
"""The first that PyAV's FFmpeg was built with."""


class Clip:
    """The annotated video of one stream."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container: Any = None
        self._stream: Any = None
        self._last_pts = -1
        self._waiting: dict[int, tuple[ShotResult, Callable[[], None]]] = {}
        self._next_place = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=path.stem)
        self.error: Exception | None = None
        """Why a picture could not be written."""

    def add(self, answer: ShotResult, done: Callable[[], None]) -> None:
        """Draw it when its turn comes; `done` is called when its picture is no longer needed."""
        self._waiting[answer.shot.place] = answer, done
        while (ready := self._waiting.pop(self._next_place, None)) is not None:
            self._next_place += 1
            self._thread.submit(self._write, *ready)

    def close(self) -> None:
        """Write what waits, and the file's end."""
        for place in sorted(self._waiting):
            self._thread.submit(self._write, *self._waiting.pop(place))
        self._thread.submit(self._finish)
        self._thread.shutdown()

    def _write(self, answer: ShotResult, done: Callable[[], None]) -> None:
        picture = answer.shot.picture
        assert picture is not None
        try:
            self._encode(annotated(picture.pixels, answer.outputs), answer.shot.pts_s)
        except FrameFault:
            pass  # the server has said so already
        except (av.FFmpegError, OSError) as error:
            self.error = error
        finally:
            done()

    def _encode(self, pixels: Pixels, pts_s: float) -> None:
        if self._container is None:
            self._open(pixels.shape[1], pixels.shape[0])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(self._stream.width, self._stream.height, "yuv420p")
        frame.time_base = Fraction(1, _TICKS_PER_S)
        frame.pts = self._last_pts = max(self._last_pts + 1, round(pts_s * _TICKS_PER_S))
        self._container.mux(self._stream.encode(frame))

    def _open(self, width: int, height: int) -> None:
        self._container = av.open(str(self.path), "w")
        known = [name for name in _CODECS if name in av.codecs_available]
        self._stream = self._container.add_stream(known[0], rate=30)
        # Colours are stored for pairs of pixels.
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)

    def _finish(self) -> None:
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except (av.FFmpegError, OSError) as error:
            self.error = error
