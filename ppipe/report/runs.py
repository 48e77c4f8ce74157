"""An event log, simulated or live, as what became of each frame and each batch of one model.

Rules
- Times are microseconds since the log's first event.
- A frame that was offered again counts once, from its first offer; its last end is its end.
- A batch's stages end when the log says so; where it says nothing, when that was reserved.
- A log that is cut in the middle, or damaged, counts up to there, and says so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from planner import serial
from planner.serving import ServedModel
from python_backend.scheduler.actions import Dispatch, Drop, DropReason, Ticket
from python_backend.scheduler.errors import EventLogError
from python_backend.scheduler.event_log import LogHeader, LogLine, read_logs
from python_backend.scheduler.events import Event, RequestArrived, StageCompleted
from python_backend.simulator.action_text import action_of


@dataclass
class RunFrame:
    """One frame. batch: place in Run.batches; ended_us: when its answer was back; why: reason of its drop."""

    request_id: int
    arrived_us: int
    deadline_us: int
    batch: int | None = None
    ended_us: int | None = None
    why: str = ""
    dropped_us: int = 0
    stream: str = ""

    @property
    def latency_us(self) -> int | None:
        """None without an answer."""
        return None if self.ended_us is None else max(0, self.ended_us - self.arrived_us)


@dataclass
class RunBatch:
    """One attempt of a batch. ends_us[k]: of its k-th hop's stage."""

    ticket: Ticket
    request_ids: tuple[int, ...]
    sent_us: int
    ends_us: list[int]

    @property
    def answered_us(self) -> int:
        """When its answers are back: the way back takes what was reserved for it."""
        return self.ends_us[-1] + self.ticket.answer_us - self.ticket.hops[-1].end_us


@dataclass
class Run:
    """What one model's log tells. `note`: what is wrong with the log, or ''."""

    model: str
    policy: str
    served: ServedModel
    start_us: int = 0
    frames: dict[int, RunFrame] = field(default_factory=dict)
    batches: list[RunBatch] = field(default_factory=list)
    note: str = ""

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        times = [frame.arrived_us for frame in self.frames.values()]
        return (max(times) - min(times)) / 1e6 if times else 0.0

    @property
    def latencies_us(self) -> list[int]:
        """Of answered frames, ascending."""
        found = (frame.latency_us for frame in self.frames.values())
        return sorted(latency for latency in found if latency is not None)

    @property
    def drops(self) -> Counter[str]:
        """Frames by reason."""
        return Counter(frame.why for frame in self.frames.values() if frame.why)

    @property
    def in_time(self) -> int:
        """Frames answered within the SLO."""
        return sum(latency <= self.served.slo_us for latency in self.latencies_us)

    @property
    def attainment(self) -> float | None:
        """None without frames that have ended. What a newer frame of its stream made worthless was neither
        served nor missed.
        """
        ended = len(self.latencies_us) + sum(self.drops.values()) - self.drops[DropReason.SUPERSEDED.value]
        return self.in_time / ended if ended else None

    @property
    def offered_rps(self) -> float:
        """Arrivals over the time that they took."""
        return len(self.frames) / self.seconds if self.seconds else 0.0


def quantile_ms(ascending: Sequence[int], part: float) -> float | None:
    """Of latencies in microseconds; None where there are none."""
    return ascending[min(len(ascending) - 1, int(part * len(ascending)))] / 1e3 if ascending else None


def read_runs(path: Path) -> list[Run]:
    """Every model's run of a file. Raises EventLogError where not one can be read, OSError."""
    runs: list[Run] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        logs = read_logs(iter(file), str(path))
        while True:
            try:
                header, lines = next(logs)
                runs.append(Run(header.model, header.policy, _served(header, path)))
            except StopIteration:
                break
            except (EventLogError, serial.FormatError) as error:
                if not runs:
                    raise
                runs[-1].note = f"what follows cannot be read: {error}"
                break
            if not _read(runs[-1], lines):
                break
    if not runs:
        raise EventLogError(f"{path}: the file holds no event log: it is empty, or cut within its first line")
    if not runs[-1].note and not _ends_with_a_line(path):
        runs[-1].note = "its last line is cut off; all before it counts"
    return runs


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _served(header: LogHeader, path: Path) -> ServedModel:
    found: ServedModel = serial.from_plain(ServedModel, header.served, f"{path}: served")
    return found


def _read(run: Run, lines: Iterable[LogLine]) -> bool:
    """Fill the run; whether the log was sound to its end."""
    book = _Book(run)
    try:
        for line in lines:
            book.take(line)
    except EventLogError as error:
        run.note = f"read up to a damaged line: {error}"
    return not run.note


class _Book:
    def __init__(self, run: Run) -> None:
        self._run = run
        self._last_stage = [len(pipeline.stages) - 1 for pipeline in run.served.pipelines]
        self._by_key: dict[tuple[int, int], int] = {}
        self._first = True

    def take(self, line: LogLine) -> None:
        if self._first:
            self._run.start_us, self._first = line.now_us, False
        now_us = line.now_us - self._run.start_us
        for event in line.events:
            self._told(event, now_us)
        for action in map(action_of, line.actions):
            if isinstance(action, Dispatch):
                self._sent(action, now_us)
            elif isinstance(action, Drop) and (frame := self._run.frames.get(action.request_id)):
                frame.why, frame.dropped_us = action.reason.value, now_us

    def _told(self, event: Event, now_us: int) -> None:
        if isinstance(event, RequestArrived):
            deadline_us = event.deadline_us - self._run.start_us
            frame = RunFrame(event.request_id, now_us, deadline_us, stream=event.stream)
            self._run.frames.setdefault(event.request_id, frame).why = ""
        elif isinstance(event, StageCompleted):
            self._completed(event)

    def _completed(self, event: StageCompleted) -> None:
        place = self._by_key.get((event.batch_id, event.attempt))
        if place is None:
            return
        batch = self._run.batches[place]
        stage = event.stage - batch.ticket.first_stage
        if not 0 <= stage < len(batch.ends_us):
            return
        batch.ends_us[stage] = event.ended_us - self._run.start_us
        if event.stage == self._last_stage[batch.ticket.pipeline]:
            for request_id in batch.request_ids:
                if (frame := self._run.frames.get(request_id)) and frame.ended_us is None:
                    frame.ended_us, frame.batch, frame.why = batch.answered_us, place, ""

    def _sent(self, dispatch: Dispatch, now_us: int) -> None:
        ticket = dispatch.ticket
        place = len(self._run.batches)
        self._by_key[ticket.batch_id, ticket.attempt] = place
        ends = [hop.end_us - self._run.start_us for hop in ticket.hops]
        self._run.batches.append(RunBatch(ticket, dispatch.request_ids, now_us, ends))
        for request_id in dispatch.request_ids:
            if (frame := self._run.frames.get(request_id)) and frame.ended_us is None:
                frame.batch = place


def parts_us(run: Run) -> list[tuple[str, float]]:
    """Mean time of answered frames, part by part, in order; the sum is their mean latency. Only of batches
    whose ticket holds the whole way.
    """
    totals: dict[str, float] = {}
    count = 0
    for frame in run.frames.values():
        batch = None if frame.batch is None else run.batches[frame.batch]
        if batch is None or frame.ended_us is None or batch.ticket.first_stage:
            continue
        count += 1
        for name, took_us in _parts(frame, batch, run.start_us):
            totals[name] = totals.get(name, 0.0) + took_us
    return [(name, total / count) for name, total in totals.items()]


def _parts(frame: RunFrame, batch: RunBatch, start_us: int) -> Iterator[tuple[str, float]]:
    yield "waits for its batch", batch.sent_us - frame.arrived_us
    before = batch.sent_us
    waited = 0.0
    for number, (hop, end_us) in enumerate(zip(batch.ticket.hops, batch.ends_us, strict=True), start=1):
        # Reserved times of the way, cut where the stage before ended later than that.
        begin = max(before, hop.transfer_start_us - start_us)
        arrived = max(begin, hop.transfer_end_us - start_us)
        ready = max(arrived, hop.ready_us - start_us)
        busy = min(max(ready, hop.start_us - start_us), max(ready, end_us))
        yield ("way in" if number == 1 else f"hop to stage {number}"), arrived - begin
        if number == 1:
            yield "prepare", ready - arrived
        waited += begin - before + busy - ready + (0 if number == 1 else ready - arrived)
        yield f"stage {number}", max(0, end_us - busy)
        before = max(busy, end_us)
    yield "waits for workers and links", waited
    yield "way out", max(0.0, (frame.ended_us or before) - before)


def worst_window(run: Run, most_batches: int) -> tuple[int, int]:
    """The stretch of time with the most frames dropped or late that holds at most so many batches; the
    beginning where all is alike.
    """
    sent = [batch.sent_us for batch in run.batches]
    last = max([0, *sent, *(frame.arrived_us for frame in run.frames.values())])
    if len(sent) <= most_batches:
        return 0, last + 1
    missed = sorted(
        frame.arrived_us
        for frame in run.frames.values()
        if frame.why or (frame.latency_us or 0) > run.served.slo_us
    )
    best, found = -1, (0, sent[most_batches - 1])
    for first in range(0, len(sent) - most_batches + 1, max(1, most_batches // 4)):
        window = (sent[first] if first else 0, sent[first + most_batches - 1])
        count = _between(missed, *window)
        if count > best:
            best, found = count, window
    return found


def _between(ascending: Sequence[int], low: int, high: int) -> int:
    return bisect_left(ascending, high) - bisect_left(ascending, low)
