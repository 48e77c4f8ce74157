"""A log of all that a scheduler core was told and answered, one line of JSON each; and how to read it back.

Rules
- The first line of a model's log is a header: the model's tables, the policy, and the id of the first batch.
- A line per call of the core: time, event with its fields in order, and the actions as text. Arrivals that
  were offered together are one line, because together they can share a batch.
- The same run gives the same bytes. A log that was begun with its core replays to the same bytes.
- A log that has grown to its limit ends with a line that says so, and is whole up to there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from python_backend.scheduler import events
from python_backend.scheduler.actions import Action
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.errors import EventLogError
from python_backend.scheduler.events import Event, RequestArrived

FORMAT = 1
_TOGETHER = "Together"
_FULL = "Full"
_KINDS: Mapping[str, Callable[..., Event]] = {
    kind.__name__: kind
    for kind in (
        events.RequestArrived,
        events.TimerFired,
        events.StageCompleted,
        events.BatchFailed,
        events.WorkerLost,
        events.WorkerBack,
        events.RequestCancelled,
        events.LinkTaken,
        events.LinkBehind,
        events.WorkerTaken,
        events.Yielded,
        events.Inherited,
    )
}


@dataclass(frozen=True)
class LogHeader:
    """What a replay starts from. `served`: the model's tables as plain data; `from_start`: whether the log
    began with its core, so that a replay must agree line by line. `told`: whether its core was told what
    other models send over the entry's uplink.
    """

    model: str
    policy: str
    batch_ids_from: int
    from_start: bool
    served: Mapping[str, object]
    told: bool = False


@dataclass(frozen=True)
class LogLine:
    """One call of the core: `together` when it was given to handle_arrivals. `actions` are their texts."""

    now_us: int
    events: tuple[Event, ...]
    together: bool
    actions: tuple[str, ...]


class EventLog:
    """Writes lines. `most_bytes`: where it stops; None: never."""

    def __init__(self, file: TextIO, most_bytes: int | None = None) -> None:
        self._file = file
        self._left = most_bytes

    @property
    def full(self) -> bool:
        """Whether nothing more is written."""
        return self._left is not None and self._left <= 0

    @property
    def left(self) -> int:
        """Bytes that may still be written; 0 also where there is no limit."""
        return max(0, self._left or 0)

    def begin(self, header: LogHeader) -> None:
        """Write the header of a model's log; its lines follow."""
        self._write({"event_log": FORMAT, **vars(header)})

    def __call__(self, event: Event, now_us: int, actions: Sequence[Action]) -> None:
        """Write what `handle` was given and answered."""
        name = type(event).__name__
        self._write([now_us, name, *event.values(), [repr(action) for action in actions]])

    def together(self, arrivals: Sequence[RequestArrived], now_us: int, actions: Sequence[Action]) -> None:
        """Write what `handle_arrivals` was given and answered."""
        each = [arrival.values() for arrival in arrivals]
        self._write([now_us, _TOGETHER, each, [repr(action) for action in actions]])

    def flush(self) -> None:
        """Have what was written seen by others."""
        self._file.flush()

    def close(self) -> None:
        """Write nothing more."""
        self._left = 0
        self._file.close()

    def _write(self, line: object) -> None:
        if self.full:
            return
        text = json.dumps(line, separators=(",", ":")) + "\n"
        if self._left is not None:
            self._left -= len(text)
            if self._left <= 0:
                text += json.dumps([_FULL]) + "\n"
        self._file.write(text)


def read_logs(lines: Iterator[str], name: str) -> Iterator[tuple[LogHeader, Iterator[LogLine]]]:
    """The logs of a file, one per model, in order; each is to be read to its end before the next.

    name: of the file, for messages. Raises EventLogError with the line's number. A last line that was cut off
    in the middle ends the log before it.
    """
    reader = _Reader(lines, name)
    while (found := reader.header()) is not None:
        yield found, reader.body()


def replay(core: SchedulerCore, line: LogLine) -> list[Action]:
    """Tell a core what it was told then."""
    if line.together:
        arrivals = [event for event in line.events if isinstance(event, RequestArrived)]
        return core.handle_arrivals(arrivals, line.now_us)
    return core.handle(line.events[0], line.now_us)


class _Reader:
    def __init__(self, lines: Iterator[str], name: str) -> None:
        self._lines = enumerate(lines, start=1)
        self._name = name
        self._next: object = self._read()

    def header(self) -> LogHeader | None:
        found = self._next
        if found is None:
            return None
        if not isinstance(found, dict) or found.get("event_log") != FORMAT:
            raise EventLogError(
                f'{self._name}: no event log: its first line has no "event_log": {FORMAT}; '
                "`ppipe simulate --events` and `ppipe record` write one"
            )
        try:
            header = LogHeader(**{key: value for key, value in found.items() if key != "event_log"})
        except TypeError as error:
            raise EventLogError(f"{self._name}: the header of the event log: {error}") from error
        self._next = self._read()
        return header

    def body(self) -> Iterator[LogLine]:
        while isinstance(self._next, list) and self._next != [_FULL]:
            yield self._line(self._next)
            self._next = self._read()
        if self._next == [_FULL]:
            self._next = self._read()

    def _read(self) -> object:
        """The next line's data; None at the end."""
        for number, text in self._lines:
            self._number = number
            if not text.endswith("\n"):
                return None  # cut off while it was written
            if not text.strip():
                continue
            try:
                data: object = json.loads(text)
            except ValueError as error:
                raise EventLogError(f"{self._name}: line {number}: {error}") from error
            return data
        return None

    def _line(self, data: list[object]) -> LogLine:
        try:
            now_us, kind, *fields, actions = data
            if not isinstance(now_us, int) or not isinstance(actions, list):
                raise TypeError("wanted [time, event, its fields..., [actions]]")
            if kind == _TOGETHER:
                (each,) = fields
                told: list[Event] = [RequestArrived(*values) for values in each]  # type: ignore[attr-defined]
            else:
                told = [_event(_KINDS[str(kind)], fields)]
        except (KeyError, TypeError, ValueError) as error:
            raise EventLogError(f"{self._name}: line {self._number}: {error}") from error
        return LogLine(now_us, tuple(told), kind == _TOGETHER, tuple(map(str, actions)))


def _event(kind: Callable[..., Event], fields: Sequence[object]) -> Event:
    """Raises TypeError; a compiled class without fields would take any."""
    if fields and not getattr(kind, "__match_args__", ()):
        raise TypeError(f"{len(fields)} fields where there are none")
    return kind(*fields)
