"""Records what a live core is told and answers (scheduler.event_log), for `ppipe simulate --replay`.

Rules
- Off unless asked for: by the dispatcher's parameter `event_log_mb` or PPIPE_EVENT_LOG_MB (from its start),
  or at run time by a signed datagram to its feedback port (`ppipe record`).
- Bounded in bytes and, at run time, in seconds. A recording that cannot be written ends, and serving goes on.
- Written by the thread that has its turn at the core, through the file's buffer.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner import serial
from planner.serving import ServedModel
from python_backend.scheduler.actions import Action
from python_backend.scheduler.event_log import EventLog, LogHeader
from python_backend.scheduler.events import Event, RequestArrived
from python_backend.wire.clock import NEVER, now_us
from python_backend.wire.signing.keys import Keys
from python_backend.wire.signing.signatures import text_datagram, text_in

FOLDER_VARIABLE = "PPIPE_EVENT_LOGS"
"""Folder of the files; the system's folder for temporary files without it."""
SIZE_VARIABLE = "PPIPE_EVENT_LOG_MB"
PARAMETER = "event_log_mb"
SUFFIX = ".events.jsonl"
_MAGIC = b"PPL1"
_MB = 1_000_000
_MOST_MB = 4096.0


@dataclass(frozen=True)
class WantedRecording:
    """A recording that somebody asks for."""

    model: str
    seconds: float
    most_mb: float


def encode(wanted: WantedRecording, keys: Keys) -> bytes:
    """The datagram that asks for it."""
    return text_datagram(_MAGIC, json.dumps(vars(wanted), separators=(",", ":")), keys)


def decode(datagram: bytes, keys: Keys) -> WantedRecording | None:
    """What a datagram asks for; None for anything that is not genuine. Without a key nothing is."""
    body = text_in(datagram, _MAGIC, keys) if keys.signing else None
    if body is None:
        return None
    try:
        return serial.loads(WantedRecording, body)
    except serial.FormatError:
        return None


def size_at_start(parameters: Mapping[str, str]) -> float:
    """Megabytes to record from the dispatcher's start on; 0: none. Raises ValueError."""
    text = parameters.get(PARAMETER) or os.environ.get(SIZE_VARIABLE) or "0"
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size <= _MOST_MB:
        raise ValueError(f"{PARAMETER}: {text!r} is not a number of megabytes from 0 to {_MOST_MB:g}")
    return size


class Recording:
    """One log, from `begin` to its limit or `until_us`. Used by one thread at a time."""

    def __init__(self, log: EventLog, model: str, until_us: int, say: Callable[[str], None]) -> None:
        self._log = log
        self._model = model
        self._until_us = until_us
        self._say = say

    @classmethod
    def begin(
        cls,
        dispatcher: str,
        served: ServedModel,
        policy: str,
        batch_ids_from: int,
        from_start: bool,
        wanted: WantedRecording,
        say: Callable[[str], None],
        told: bool = False,
    ) -> Recording | None:
        """Open the file and write its header; None, said in the log, where that cannot be."""
        folder = Path(os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir())
        path = folder / f"{dispatcher}.{os.getpid()}.{now_us()}{SUFFIX}"
        header = LogHeader(served.model, policy, batch_ids_from, from_start, serial.to_plain(served), told)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            size = int(min(wanted.most_mb, _MOST_MB) * _MB)
            log = EventLog(os.fdopen(descriptor, "w", encoding="utf-8"), size)
            log.begin(header)
            log.flush()
        except OSError as error:
            say(f"{dispatcher}: no event log: {path}: {error.strerror}")
            return None
        say(f"{dispatcher}: records its events to {path}, at most {wanted.most_mb:g} MB")
        until_us = NEVER if wanted.seconds <= 0 else now_us() + int(wanted.seconds * 1e6)
        return cls(log, served.model, until_us, say)

    def rest(self) -> WantedRecording:
        """What is left of what was asked for: a log is of one table, and another table's goes on from it."""
        seconds = 0.0 if self._until_us == NEVER else max(1e-3, (self._until_us - now_us()) / 1e6)
        return WantedRecording(self._model, seconds, self._log.left / _MB)

    def handled(self, event: Event, time_us: int, actions: Sequence[Action]) -> bool:
        """The core was given one event; whether the recording goes on."""
        return self._written(lambda: self._log(event, time_us, actions))

    def handled_together(
        self, arrivals: Sequence[RequestArrived], time_us: int, actions: Sequence[Action]
    ) -> bool:
        """The core was given these arrivals at once; whether the recording goes on."""
        return self._written(lambda: self._log.together(arrivals, time_us, actions))

    def close(self) -> None:
        """Write what is left in the buffer."""
        self._written(self._log.close)

    def _written(self, write: Callable[[], None]) -> bool:
        try:
            write()
            if not self._log.full and now_us() < self._until_us:
                return True
            self._log.close()
        except (OSError, ValueError) as error:
            self._say(f"the event log ends: {error}")
        return False
