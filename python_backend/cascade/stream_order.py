"""A cascade's frames that name their stream: places that rise, and whole answers in the order of the frames.

Rules
- Places are looked at here, where a client's frames come in its own order. Members are asked by calls of
  their own, which may overtake one another: they are told the stream, and take its frames as they come.
- Answers of one stream go out in the order of its frames where the cascade says so. An answer waits for the
  frames before its own until these have their ends, which each has by its deadline. Refusals go out at once.
- A stream that has sent nothing for IDLE_US is forgotten, and may begin again from any place.
- Answers of one stream are sent by one thread at a time: whoever releases one sends all that is released.
- An answer that cannot be sent is logged, and keeps nobody waiting.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from python_backend.scheduler.streams.answer_order import AnswerOrder, Released
from python_backend.scheduler.streams.book import IDLE_US
from python_backend.wire.parameters.stream_place import NEXT

Send = Callable[[], None]
_GRACE_US: Final = 1_000_000
"""Later than this after its deadline nobody waits for a frame any more: its end is lost."""


class _LastFrame(NamedTuple):
    place: int
    at_us: int


class StreamOrder:
    """Of one cascade. Thread-safe. Frames are known by numbers of the caller's."""

    def __init__(self, in_order: bool, log: Callable[[str], None]) -> None:
        self._in_order = in_order
        self._log = log
        self._order = AnswerOrder()
        self._waiting: dict[int, tuple[str, Send]] = {}
        """Answers by number, with their streams."""
        self._released: dict[str, deque[Send]] = {}
        """By stream, while a thread sends them."""
        self._last: OrderedDict[str, _LastFrame] = OrderedDict()
        """By stream, the one that was seen last at the end."""
        self._lock = threading.Lock()

    def came(self, number: int, stream: str, place: int, deadline_us: int, now_us: int) -> bool:
        """A frame of a stream has come; False: its place is not after those before it, and it is none of the
        stream's.
        """
        with self._lock:
            last = self._last.get(stream)
            before = NEXT if last is None or last.at_us + IDLE_US <= now_us else last.place
            place = before + 1 if place == NEXT else place
            if place <= before:
                return False
            self._last[stream] = _LastFrame(place, now_us)
            self._last.move_to_end(stream)
            self._forget_idle(now_us)
            if self._in_order:
                self._order.came(number, stream, deadline_us + _GRACE_US)
                released = self._release(self._order.expire(now_us))
            else:
                released = set()
        self._send(released)
        return True

    def ready(self, number: int, stream: str, send: Send, now_us: int) -> None:
        """Have the frame's answer sent when its turn comes: at once for one that no order is known of."""
        with self._lock:
            is_open = number in self._order.open
            if is_open:
                self._waiting[number] = stream, send
                released = self._release(self._order.ready(number, now_us))
        if is_open:
            self._send(released)
        else:
            send()

    def ended(self, number: int, now_us: int) -> None:
        """The frame has ended without an answer."""
        with self._lock:
            released = self._release(self._order.ended(number, now_us))
        self._send(released)

    def expire(self, now_us: int) -> None:
        """Let go what has waited for frames whose ends are lost."""
        with self._lock:
            released = self._release(self._order.expire(now_us))
        self._send(released)

    @property
    def held(self) -> int:
        """Answers that wait for earlier ones."""
        return len(self._waiting)

    def _release(self, released: Released) -> set[str]:
        """Streams of which this thread is to send what is released now."""
        mine = set()
        for number in released.answers:
            stream, send = self._waiting.pop(number)
            if stream not in self._released:
                self._released[stream] = deque()
                mine.add(stream)
            self._released[stream].append(send)
        return mine

    def _send(self, streams: set[str]) -> None:
        for stream in streams:
            while (send := self._next(stream)) is not None:
                try:
                    send()
                except Exception as error:
                    self._log(f"an answer of a stream was not sent: {type(error).__name__}: {error}")

    def _next(self, stream: str) -> Send | None:
        with self._lock:
            if self._released[stream]:
                return self._released[stream].popleft()
            del self._released[stream]
            return None

    def _forget_idle(self, now_us: int) -> None:
        """Two at most for each frame: streams do not become more than there were in IDLE_US."""
        for _ in range(2):
            name, last = next(iter(self._last.items()))
            if last.at_us + IDLE_US > now_us:
                return
            del self._last[name]
