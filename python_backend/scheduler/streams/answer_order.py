"""In which order answers go out where those of a stream are to come in the order of its frames.

Rules
- An answer waits for all frames of its stream that came before its own, for each at most until that one's
  deadline. Frames of other streams are not held up by it.
- A frame whose deadline passes while a later answer waits for it is overtaken: it will have no answer, only
  an error.
- Frames that end without an answer keep nobody waiting. Errors are no answers: they go out at once.

Times are the caller's, integer microseconds. Pure, as the core is: the simulator and the live dispatcher use
it.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from python_backend.scheduler.timelines import NEVER


class AnswerLine:
    """The open frames of one stream, in the order in which they came."""

    __slots__ = ("frames", "held", "name")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.frames: deque[OpenFrame] = deque()
        self.held: int = 0
        """Answers that wait here for an earlier one."""


class OpenFrame:
    """A frame that has not ended. `ready`: its answer waits; `gone`: it ended without one."""

    __slots__ = ("deadline_us", "gone", "line", "ready", "request_id", "watched")

    def __init__(self, request_id: int, deadline_us: int, line: AnswerLine) -> None:
        self.request_id: int = request_id
        self.deadline_us: int = deadline_us
        self.line: AnswerLine = line
        self.ready: bool = False
        self.gone: bool = False
        self.watched: bool = False
        """Whether its deadline is among those that are looked at."""


class Released:
    """What may go out now: frames whose answers do, in order, and frames that were overtaken."""

    __slots__ = ("answers", "overtaken")

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.overtaken: list[int] = []


class AnswerOrder:
    """Of one model. See the module."""

    __slots__ = ("lines", "open", "serial", "watched")

    def __init__(self) -> None:
        self.lines: dict[str, AnswerLine] = {}
        """Of streams with open frames."""
        self.open: dict[int, OpenFrame] = {}
        self.watched: list[tuple[int, int, OpenFrame]] = []
        """Heap of (deadline, serial number, frame that answers wait for)."""
        self.serial: int = 0

    def came(self, request_id: int, stream: str, deadline_us: int) -> None:
        """A frame of a stream has come, after all that came before."""
        line = self.lines.get(stream)
        if line is None:
            line = AnswerLine(stream)
            self.lines[stream] = line
        frame = OpenFrame(request_id, deadline_us, line)
        self.open[request_id] = frame
        line.frames.append(frame)

    def ready(self, request_id: int, now_us: int) -> Released:
        """The frame's answer is there. Of a frame that has ended nothing is released."""
        released = Released()
        frame = self.open.get(request_id)
        if frame is not None and not frame.ready:
            frame.ready = True
            frame.line.held += 1
            self._advance(frame.line, now_us, released)
        return released

    def ended(self, request_id: int, now_us: int) -> Released:
        """The frame ended without an answer."""
        released = Released()
        frame = self.open.pop(request_id, None)
        if frame is not None:
            frame.gone = True
            frame.line.held -= int(frame.ready)
            self._advance(frame.line, now_us, released)
        return released

    def expire(self, now_us: int) -> Released:
        """Let go what has waited for frames whose deadlines have passed."""
        released = Released()
        while self.watched and self.watched[0][0] <= now_us:
            self._advance(heappop(self.watched)[2].line, now_us, released)
        return released

    @property
    def next_us(self) -> int:
        """When `expire` is to be called; NEVER while no answer waits. It may be early."""
        return self.watched[0][0] if self.watched else NEVER

    @property
    def held(self) -> int:
        """Answers that wait."""
        return sum([line.held for line in self.lines.values()])

    def _advance(self, line: AnswerLine, now_us: int, released: Released) -> None:
        frames = line.frames
        while frames:
            first = frames[0]
            if first.ready and not first.gone:
                line.held -= 1
                released.answers.append(first.request_id)
            elif not first.gone:
                if line.held == 0:
                    return
                if first.deadline_us > now_us:
                    self._watch(first)
                    return
                released.overtaken.append(first.request_id)
            frames.popleft()
            first.gone = True
            self.open.pop(first.request_id, None)
        if self.lines.get(line.name) is line:
            del self.lines[line.name]

    def _watch(self, frame: OpenFrame) -> None:
        if not frame.watched:
            frame.watched = True
            self.serial += 1
            heappush(self.watched, (frame.deadline_us, self.serial, frame))
