"""Pictures out of a source, one after the other, by PyAV or from picture files.

Rules
- A picture's time counts in seconds from the source's first; it never goes back.
- What a decoder cannot make sense of is left out while others can be decoded; a source of which nothing can
  be is an error. Errors are SourceError: one line that names the source.
- Pixels are made when they are asked for, upright as a viewer shows them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import simplejpeg

from ensembles.prepare.decoding import decode
from ensembles.prepare.faults import FrameFault
from ppipe.watch.sources import PICTURE_SUFFIXES, PICTURES_PER_S, Kind, WatchSource

Pixels = npt.NDArray[np.uint8]
"""RGB, height x width x 3."""
OPEN_S, READ_S = 10.0, 10.0
"""How long a source may take to open, and to give its next frame."""
_JPEG_QUALITY = 90
_OPTIONS = {"rtsp_transport": "tcp"}
"""Over UDP, frames with holes would be decoded."""


class SourceError(Exception):
    """A source that cannot be read, or no further."""


class SourcePicture:
    """One picture of a source."""

    def __init__(self, pts_s: float, make: Callable[[], Pixels], file: bytes = b"") -> None:
        """file: the encoded image that it was read from, where it was one."""
        self.pts_s = pts_s
        self._make = make
        self._file = file

    @functools.cached_property
    def pixels(self) -> Pixels:
        """Raises FrameFault where the file is none."""
        return self._make()

    @property
    def image(self) -> bytes:
        """As an image file: the one that it was, or a JPEG."""
        return self._file or simplejpeg.encode_jpeg(np.ascontiguousarray(self.pixels), _JPEG_QUALITY)


def pictures(source: WatchSource) -> Iterator[SourcePicture]:
    """All of a source, once. Raises SourceError."""
    if source.kind is Kind.PICTURES:
        return _files(source)
    return _video(source)


def _files(source: WatchSource) -> Iterator[SourcePicture]:
    path = Path(source.location)
    try:
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        files = [each for each in found if each.suffix.lower() in PICTURE_SUFFIXES]
        if not files:
            raise SourceError(f"{source.shown}: no pictures in it (files that end in .jpg, .jpeg or .png)")
        for number, each in enumerate(files):
            data = each.read_bytes()
            yield SourcePicture(
                number / (source.fps or PICTURES_PER_S), functools.partial(decode, data), data
            )
    except OSError as error:
        raise SourceError(f"{error.filename or source.shown}: {error.strerror or error}") from error


def _video(source: WatchSource) -> Iterator[SourcePicture]:
    """Raises SourceError."""
    count = 0
    try:
        with _opened(source) as container:
            stream = _picture_stream(container, source)
            clock = _Clock(float(1 / (stream.average_rate or 25)))
            for frame in _frames(container, stream):
                count += 1
                yield SourcePicture(clock.pts_s(frame.time), functools.partial(_upright, frame))
            ends = container.duration is not None
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{source.shown}: {_said(error)}") from error
    if not count:
        raise SourceError(f"{source.shown}: not one frame of it can be decoded")
    if source.live and not ends:
        raise SourceError(f"{source.shown}: broke off")


def _opened(source: WatchSource) -> Any:
    kind = "v4l2" if source.kind is Kind.WEBCAM else None
    options = _OPTIONS if source.location.startswith("rtsp") else {}
    return av.open(source.location, format=kind, options=options, timeout=(OPEN_S, READ_S))


def _picture_stream(container: Any, source: WatchSource) -> Any:
    """Its first video stream that there is a decoder for."""
    if not container.streams.video:
        raise SourceError(f"{source.shown}: no video in it")
    for stream in container.streams.video:
        if stream.codec_context is not None:
            return stream
    raise SourceError(f"{source.shown}: no decoder here for its codec")


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """What can be decoded. A broken packet is left out; a container that breaks raises."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        yield from frames


def _upright(frame: Any) -> Pixels:
    turns = round(frame.rotation / 90) % 4
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, turns) if turns else pixels


def _said(error: Exception) -> str:
    """Without our paths and FFmpeg's numbers."""
    if isinstance(error, av.InvalidDataError):
        return "no video that FFmpeg knows, or a broken one"
    if isinstance(error, av.error.ExitError):
        return f"nothing came for {READ_S:g} s"
    return str(getattr(error, "strerror", None) or error)


class _Clock:
    """Times of frames, from the first; where a frame has none, or one that goes back, the usual gap later."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._first_s: float | None = None
        self._last_s = -gap_s

    def pts_s(self, time_s: float | None) -> float:
        """Of the next frame."""
        if self._first_s is None and time_s is not None:
            self._first_s = time_s
        found = self._last_s + self._gap_s
        if time_s is not None and self._first_s is not None:
            since_s = time_s - self._first_s
            found = since_s if since_s > self._last_s else found
        self._last_s = found
        return found


__all__ = ["FrameFault", "Pixels", "SourceError", "SourcePicture", "pictures"]
