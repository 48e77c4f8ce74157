"""A recorded log served again: exactly as it was, and as another policy or plan would have served its frames.

Rules
- As it was: the same core is told the same at the same times, and its actions are compared as text. Where the
  log began with its core they must be equal. A log that was begun later starts from an idle core, and may
  choose other workers ever after. What was served is counted from the recorded actions in either case.
- Otherwise: the same arrivals go through the simulator, where stages take what their tables say. A frame that
  was offered several times counts once, from its first offer, with its SLO.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from planner import serial
from planner.serving import ServedModel
from python_backend.scheduler.actions import Dispatch, Drop
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.event_log import LogHeader, LogLine, replay
from python_backend.scheduler.events import Event, RequestArrived, StageCompleted
from python_backend.simulator.action_text import action_of
from python_backend.simulator.driver import SimulatedDriver


@dataclass(frozen=True)
class FirstDifference:
    """The first line whose actions are others now. `line` counts from 1 after the header."""

    line: int
    event: str
    recorded: tuple[str, ...]
    now: tuple[str, ...]


@dataclass(frozen=True)
class Served:
    """What became of a log's frames. Latencies in us, of answered frames, 0 without any."""

    frames: int
    in_time: int
    late: int
    dropped: dict[str, int]
    latency_p50_us: float
    latency_p99_us: float

    @property
    def attainment(self) -> float:
        """Frames answered within the SLO over all frames; 1.0 without frames."""
        return self.in_time / self.frames if self.frames else 1.0


@dataclass(frozen=True)
class Replayed:
    """A log replayed as it was."""

    header: LogHeader
    served_model: ServedModel
    lines: int
    equal_lines: int
    difference: FirstDifference | None
    arrivals_us: tuple[int, ...]
    """First offers, ascending, counted from the first one."""
    served: Served


def replay_as_it_was(header: LogHeader, lines: Iterable[LogLine], where: str = "") -> Replayed:
    """Tell a core of the header's model and policy all that the log's core was told.

    where: prefix of messages. Raises EventLogError, planner.serial.FormatError, ValueError (unknown policy).
    """
    model = serial.from_plain(ServedModel, header.served, f"{where}served")
    core = SchedulerCore(model, header.policy, header.batch_ids_from, header.told)
    book = _Book(model)
    count = equal = 0
    difference: FirstDifference | None = None
    for line in lines:
        count += 1
        book.take(line)
        try:
            actions = replay(core, line)
        except ValueError:
            if header.from_start:
                raise
            continue  # it speaks of what the core had before the log began
        now = tuple(repr(action) for action in actions)
        if now == line.actions:
            equal += 1
        elif difference is None:
            difference = FirstDifference(count, repr(line.events[0]), line.actions, now)
    return Replayed(header, model, count, equal, difference, book.arrivals_us(), book.served())


def simulate_again(replayed: Replayed, served: ServedModel, policy: str) -> Served:
    """The log's arrivals on the tables of `served` under `policy`. Raises ValueError for unknown policies."""
    counts = SimulatedDriver(served, SchedulerCore(served, policy)).run(iter(replayed.arrivals_us))
    return Served(
        frames=counts.offered,
        in_time=counts.in_time,
        late=counts.late,
        dropped={reason.value: number for reason, number in counts.drops.items() if number},
        latency_p50_us=counts.latency_us(0.5),
        latency_p99_us=counts.latency_us(0.99),
    )


class _Book:
    """What became of each frame: its last end counts, because a dropped frame may be offered again."""

    def __init__(self, served: ServedModel) -> None:
        self._slo_us = served.slo_us
        self._last_stage = [len(pipeline.stages) - 1 for pipeline in served.pipelines]
        self._first_us: dict[int, int] = {}
        self._end_us: dict[int, int] = {}
        self._why: dict[int, str] = {}
        self._under_way: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}
        """Pipeline and frames by batch and attempt."""

    def take(self, line: LogLine) -> None:
        for event in line.events:
            self.told(event, line.now_us)
        for text in line.actions:
            if not text.startswith(("Dispatch(", "Drop(")):
                continue
            action = action_of(text)
            if isinstance(action, Dispatch):
                self.sent(action)
            elif isinstance(action, Drop):
                self._why[action.request_id] = action.reason.value

    def told(self, event: Event, now_us: int) -> None:
        if isinstance(event, RequestArrived):
            self._first_us.setdefault(event.request_id, now_us)
            self._why.pop(event.request_id, None)
        elif isinstance(event, StageCompleted):
            key = (event.batch_id, event.attempt)
            pipeline, request_ids = self._under_way.get(key, (0, ()))
            if request_ids and event.stage == self._last_stage[pipeline]:
                del self._under_way[key]
                for request_id in request_ids:
                    self._end_us.setdefault(request_id, event.ended_us)

    def sent(self, dispatch: Dispatch) -> None:
        """A batch was sent."""
        ticket = dispatch.ticket
        self._under_way[ticket.batch_id, ticket.attempt] = (ticket.pipeline, dispatch.request_ids)

    def arrivals_us(self) -> tuple[int, ...]:
        times = sorted(self._first_us.values())
        return tuple(time_us - times[0] for time_us in times)

    def served(self) -> Served:
        latencies = sorted(
            max(0, end_us - self._first_us[request_id])
            for request_id, end_us in self._end_us.items()
            if request_id in self._first_us
        )
        in_time = sum(latency_us <= self._slo_us for latency_us in latencies)
        dropped: dict[str, int] = {}
        for request_id, why in self._why.items():
            if request_id not in self._end_us:
                dropped[why] = dropped.get(why, 0) + 1
        return Served(
            frames=len(self._first_us),
            in_time=in_time,
            late=len(latencies) - in_time,
            dropped=dict(sorted(dropped.items())),
            latency_p50_us=_quantile(latencies, 0.5),
            latency_p99_us=_quantile(latencies, 0.99),
        )


def _quantile(ascending: list[int], share: float) -> float:
    return float(ascending[min(len(ascending) - 1, int(share * len(ascending)))]) if ascending else 0.0
