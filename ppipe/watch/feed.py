"""Reads one source in a thread of its own and hands its pictures on, never more than there is room for.

Rules
- `room` counts pictures that were handed on and are not done with; whoever is done with one releases it. So
  memory is bounded, whatever a source or a server does.
- A live source that breaks off is opened again, at growing intervals; a file that does has failed.
- A fault of one source ends nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ensembles.prepare.faults import FrameFault
from ppipe.serving.backoff import BackOff
from ppipe.watch.pacing import LATE_S, Pace, SendPolicy, Thinning
from ppipe.watch.reading import SourceError, SourcePicture, pictures
from ppipe.watch.sources import WatchSource

PLAYING, ENDED, STOPPED = "playing", "ended", "stopped"
QUIET = (PLAYING, ENDED, STOPPED)
"""States that need no words."""
_GAP_S = 0.001
"""Between a stream's last time and the next, at least."""
_LOOK_S = 0.2
"""How often a feed that waits looks whether it is to end."""


@dataclass(frozen=True)
class Shot:
    """One picture as it is sent. due_s: when it was there to be seen (time.monotonic), which its answer's age
    counts from. content: of the model's input, an image file or pixels.
    """

    stream: str
    place: int
    pts_s: float
    due_s: float
    content: bytes
    shape: tuple[int, ...]
    picture: SourcePicture | None
    """Kept where it is to be drawn in."""


@dataclass
class FeedState:
    """What a feed is doing, for people; written by its thread alone."""

    text: str = "opening"
    skipped: int = 0
    opened: int = 0
    over: bool = False
    failed: bool = False


class Feed:
    """See the module."""

    def __init__(
        self,
        source: WatchSource,
        policy: SendPolicy,
        room: int,
        loop: bool,
        as_image: bool,
        keep_pictures: bool,
        hand_on: Callable[[Shot], None],
        ended: Callable[[], None],
    ) -> None:
        """room: pictures at once. loop: files again and again. as_image: whether the model takes image files.
        keep_pictures: until they are answered, to be drawn in; pixels take far more memory than files.
        """
        self.source = source
        self.state = FeedState()
        self.room = threading.Semaphore(room)
        self._policy = policy
        self._loop = loop and not source.live
        self._as_image = as_image
        self._keep_pictures = keep_pictures
        self._hand_on = hand_on
        self._ended = ended
        self._stopped = threading.Event()
        self._places = 0
        self._first_s: float | None = None
        """When the first picture of the stream came."""
        self._last_pts_s = 0.0
        # A daemon: a thread that waits inside FFmpeg for a dead camera holds nobody up.
        self._thread = threading.Thread(target=self._run, name=f"feed-{source.stream}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Hand nothing on from now on."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            self._read_until_over()
        except Exception as error:  # a bug of ours, or of a decoder's binding: others go on
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.state.over = True
            self._ended()

    def _read_until_over(self) -> None:
        backoff = BackOff()
        while not self._stopped.is_set():
            began_s = time.monotonic()
            try:
                self._read_once()
                self.state.text = STOPPED if self._stopped.is_set() else ENDED
                return
            except SourceError as error:
                if not self.source.live:
                    self._fail(str(error))
                    return
                wait_s = backoff.after(time.monotonic() - began_s)
                self.state.text = f"{error}; again in {wait_s:g} s"
                self._stopped.wait(wait_s)

    def _read_once(self) -> None:
        self.state.opened += 1
        thinning, pace = Thinning(self.source.fps), Pace(time.monotonic())
        offset_s = self._offset_s()
        for picture in self._laps():
            self.state.text = PLAYING
            self._first_s = self._first_s or time.monotonic()
            picture.pts_s += offset_s
            self._last_pts_s = picture.pts_s
            if self._stopped.is_set():
                return
            if thinning.keeps(picture.pts_s) and (due_s := self._wait_for(picture, pace)) is not None:
                self._send(picture, due_s)

    def _offset_s(self) -> float:
        """What the times of a source that was opened again begin at: the stream's go on."""
        if self._first_s is None:
            return 0.0
        return max(self._last_pts_s + _GAP_S, time.monotonic() - self._first_s)

    def _laps(self) -> Iterator[SourcePicture]:
        """The source's pictures, of a looped file without end: its time goes on from lap to lap."""
        offset_s = last_s = gap_s = 0.0
        while True:
            for picture in pictures(self.source):
                picture.pts_s += offset_s
                gap_s = picture.pts_s - last_s or gap_s
                last_s = picture.pts_s
                yield picture
            if not self._loop:
                return
            offset_s = last_s + (gap_s or 1.0)

    def _wait_for(self, picture: SourcePicture, pace: Pace) -> float | None:
        """When the picture was due, now that there is room for it; None where it is left out."""
        if self._policy is SendPolicy.FOLLOW:
            while not self.room.acquire(timeout=_LOOK_S):
                if self._stopped.is_set():
                    return None
            return time.monotonic()
        due_s = time.monotonic() if self.source.live else pace.due_s(picture.pts_s)
        if self._stopped.wait(max(0.0, due_s - time.monotonic())):
            return None
        if time.monotonic() > due_s + LATE_S or not self.room.acquire(blocking=False):
            self.state.skipped += 1
            return None
        return due_s

    def _send(self, picture: SourcePicture, due_s: float) -> None:
        try:
            content = picture.image if self._as_image else picture.pixels.tobytes()
            shape = (1,) if self._as_image else picture.pixels.shape
        except FrameFault as error:
            self.room.release()
            self.state.skipped += 1
            self.state.text = str(error)
            return
        kept = picture if self._keep_pictures else None
        self._hand_on(Shot(self.source.stream, self._places, picture.pts_s, due_s, content, shape, kept))
        self._places += 1

    def _fail(self, text: str) -> None:
        self.state.failed = True
        self.state.text = text
