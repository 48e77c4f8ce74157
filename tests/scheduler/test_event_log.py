"""What is written comes back as it was; what is no log is refused with file and line."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.scheduler.errors import EventLogError
from python_backend.scheduler.event_log import EventLog, LogHeader, LogLine, read_logs
from python_backend.scheduler.events import (
    BatchFailed,
    Event,
    RequestArrived,
    RequestCancelled,
    StageCompleted,
    TimerFired,
    WorkerBack,
    WorkerLost,
)

HEADER = LogHeader("net", "adaptive", 3, True, {"model": "net"})
NUMBER = st.integers(min_value=0, max_value=2**60)
ARRIVAL = st.builds(RequestArrived, NUMBER, NUMBER, st.integers(-5, 5))
EVENT: st.SearchStrategy[Event] = st.one_of(
    ARRIVAL,
    st.builds(TimerFired),
    st.builds(StageCompleted, NUMBER, NUMBER, NUMBER, NUMBER),
    st.builds(BatchFailed, NUMBER, NUMBER, NUMBER),
    st.builds(WorkerLost, st.text()),
    st.builds(WorkerBack, st.text()),
    st.builds(RequestCancelled, NUMBER),
)


def read(text: str) -> list[tuple[LogHeader, list[LogLine]]]:
    return [(header, list(lines)) for header, lines in read_logs(iter(io.StringIO(text)), "a.jsonl")]


@given(st.lists(st.tuples(NUMBER, EVENT)), st.lists(ARRIVAL, min_size=1))
def test_every_event_comes_back_as_it_was(
    events: list[tuple[int, Event]], arrivals: list[RequestArrived]
) -> None:
    file = io.StringIO()
    log = EventLog(file)
    log.begin(HEADER)
    for now_us, event in events:
        log(event, now_us, [])
    log.together(arrivals, 7, [])
    ((header, lines),) = read(file.getvalue())
    assert header == HEADER
    assert [(line.now_us, line.events) for line in lines[:-1]] == [
        (now_us, (event,)) for now_us, event in events
    ]
    assert lines[-1] == LogLine(7, tuple(arrivals), True, ())


def test_logs_of_several_models_stay_apart() -> None:
    file = io.StringIO()
    log = EventLog(file)
    for name in ("a", "b"):
        log.begin(LogHeader(name, "reference", 0, True, {}))
        log(TimerFired(), len(name), [])
    assert [(header.model, len(lines)) for header, lines in read(file.getvalue())] == [("a", 1), ("b", 1)]


def test_a_log_that_is_full_is_whole_up_to_there_and_says_so() -> None:
    file = io.StringIO()
    log = EventLog(file, most_bytes=400)
    log.begin(HEADER)
    for now_us in range(100):
        log(TimerFired(), now_us, [])
    assert log.full
    assert len(file.getvalue()) < 450
    assert file.getvalue().endswith('["Full"]\n')
    ((_, lines),) = read(file.getvalue())
    assert [line.now_us for line in lines] == list(range(len(lines)))


def test_a_last_line_cut_in_the_middle_is_left_out() -> None:
    file = io.StringIO()
    log = EventLog(file)
    log.begin(HEADER)
    log(TimerFired(), 1, [])
    log(TimerFired(), 2, [])
    ((_, lines),) = read(file.getvalue()[:-5])
    assert [line.now_us for line in lines] == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n', "a.jsonl: no event log"),
        ("[1,2]\n", "a.jsonl: no event log"),
        ("nonsense\n", "a.jsonl: line 1: "),
        ('{"event_log":1,"model":"m"}\n', "a.jsonl: the header of the event log: "),
    ],
)
def test_what_is_no_log_is_refused(text: str, message: str) -> None:
    with pytest.raises(EventLogError, match=message):
        read(text)


@pytest.mark.parametrize(
    "line",
    ['[1,"Nothing",[]]', '[1,"TimerFired",5,[]]', '["x","TimerFired",[]]', "[]", '[1,"Together",3,[]]'],
)
def test_a_wrong_line_is_named(line: str) -> None:
    file = io.StringIO()
    EventLog(file).begin(HEADER)
    with pytest.raises(EventLogError, match=r"a\.jsonl: line 2: "):
        read(file.getvalue() + line + "\n")
