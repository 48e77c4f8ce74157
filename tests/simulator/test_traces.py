"""Traces as people have them: read rightly, or refused with file and line; never read as something else."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.simulator.errors import ArrivalError
from python_backend.simulator.traces import read_trace

TIMES = (12.25, 12.5, 12.5, 17.0, 30.125, 30.25, 41.5)
"""Two arrivals at one moment, and gaps of very different length."""
BASE = datetime.datetime(2024, 2, 29, 23, 59, 50)


def lines(times: Sequence[float], form: Callable[[int, float], str], header: str = "") -> str:
    rows = [form(index, time) for index, time in enumerate(times)]
    return "\n".join([header, *rows] if header else rows) + "\n"


def date(time: float, form: str = "%Y-%m-%d %H:%M:%S.%f") -> str:
    return (BASE + datetime.timedelta(seconds=time)).strftime(form)


PLAIN = lines(TIMES, lambda _, time: f"{time}", "timestamp")
ACCEPTED: dict[str, str | bytes] = {
    "plain": PLAIN,
    "no header": lines(TIMES, lambda _, time: f"   {time} ") + "   \n\n",
    "byte order mark, CRLF": b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 big endian": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16 big endian without a mark": PLAIN.encode("utf-16-be"),
    "separator in the first line": "sep=;\n" + lines(TIMES, lambda i, time: f"{time};{i}", "timestamp;n"),
    "dates with decimal commas": lines(
        TIMES, lambda i, time: f"{date(time).replace('.', ',')};{i}", "timestamp;n"
    ),
    "a running number beside": lines(TIMES, lambda i, time: f"{i},{time}", ",timestamp"),
    "empty cells at the end": lines(TIMES, lambda i, time: f"{time},x,,", "timestamp,app"),
    "tokens and sizes beside": lines(
        TIMES, lambda i, time: f"{time},{i},{i * i}", "timestamp,num_prefill_tokens,total_bytes"
    ),
    "comments and blank lines": "# at the gate\n\n# seconds\n" + PLAIN.replace("17.0\n", "17.0\n\n# night\n"),
    "not in order": lines(TIMES[3:] + TIMES[:3], lambda _, time: f"{time}", "timestamp"),
    "quoted, commas inside": lines(TIMES, lambda i, time: f'"a,{i}","{time}"', '"app","Timestamp"'),
    "semicolons, decimal commas": lines(
        TIMES, lambda i, time: f"{time};{i}".replace(".", ","), "timestamp;value"
    ),
    "tabs": lines(TIMES, lambda i, time: f"{i}\t{time}", "id\tarrival_time"),
    "milliseconds in scientific form": lines(TIMES, lambda _, time: f"{time * 1e3:.7e}", "timestamp"),
    "nanoseconds since 1970": lines(
        TIMES, lambda _, time: str(1_700_000_000_000_000_000 + round(time * 1e9)), "timestamp"
    ),
    "dates": lines(TIMES, lambda i, time: f"{date(time)},{i}", "TIMESTAMP,tokens"),
    "dates with seven decimals": lines(TIMES, lambda i, time: f"{date(time)}0,{i}", "TIMESTAMP,tokens"),
    "dates with a zone": lines(TIMES, lambda _, time: f"{date(time, '%Y-%m-%dT%H:%M:%S.%f')}+02:00", "time"),
    "dates, no header": lines(TIMES, lambda _, time: f"{date(time, '%Y-%m-%dT%H:%M:%S.%f')}Z"),
    "end and duration": lines(
        TIMES, lambda i, time: f"a,{time + 0.25 * (i % 3)},{0.25 * (i % 3)}", "app,end_timestamp,duration"
    ),
    "end and duration from before the trace": lines(
        TIMES, lambda _, time: f"a,{time - 12.25},5", "app,end_timestamp,duration"
    ),
}
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a column of counts": (lines(TIMES, lambda i, time: f"{time},{i}", "timestamp,count"), "column 'count'"),
    "a column of requests": (
        lines(TIMES, lambda i, time: f"{time};{i}", "time;Requests"),
        "a table of counts",
    ),
    "counts per minute": (
        "app,trigger," + ",".join(map(str, range(1, 61))) + "\na,http," + ",".join(["3"] * 60) + "\n",
        "60 columns are numbered intervals",
    ),
    "columns without a header": (
        lines(TIMES, lambda i, time: f"{i},{time}"),
        "line 1: several columns and no header",
    ),
    "columns and words without a header": (
        lines(TIMES, lambda i, time: f"{i},{time},POST"),
        "line 1: several columns and no header",
    ),
    "another name": (
        lines(TIMES, lambda i, time: f"{i},{time}", "id,when"),
        "no column of arrival times; there are id, when",
    ),
    "a running number": (lines(TIMES, lambda i, _: str(i)), "count up by 1"),
    "a running number with a header": (lines(TIMES, lambda i, _: str(i + 7), "timestamp"), "count up by 1"),
    "a running number with holes": (
        lines([n for n in range(60) if n % 7], lambda _, time: f"{time}", "timestamp"),
        "count up by 1",
    ),
    "counts per minute, no such name": (
        lines(range(20), lambda _, n: f"{1_700_000_000 + 60 * int(n)},{n}", "timestamp,gate"),
        "a row every 60,",
    ),
    "counts per minute, quiet ones left out": (
        lines([n for n in range(40) if n % 5], lambda _, n: f"{60 * int(n)},{n}", "time,gate"),
        "every 60,",
    ),
    "counts per minute, dates": (
        lines(range(20), lambda _, n: f"2024-01-01 00:{int(n):02d},{n}", "time,gate"),
        "a row every 60,",
    ),
    "counts per minute of several functions": (
        lines(range(30), lambda _, n: f"{60 * (int(n) // 3)},f{int(n) % 3},{n}", "time,function,n"),
        "a table of",
    ),
    "counts per minute of several gates": (
        lines(range(30), lambda _, n: f"{60 * (int(n) // 3)},f{int(n) % 3},{n}", "time,gate,people"),
        "a row every 60,",
    ),
    "counts a second in words": (
        lines(TIMES, lambda i, time: f"{time},{i}", "timestamp,Number of requests per second"),
        "of counts",
    ),
    "counts, one a line": ("3\n0\n7\n7\n1\n", "whole numbers that go up and down"),
    "commas within numbers": ("timestamp\n1,000.5\n2,000.5\n", "line 2: 2 cells under 1 names"),
    "gzip": (b"\x1f\x8b\x08\x00rest", "a packed file"),
    "far too small": ("timestamp\n1e-400000000\n" + "9" * 100 + "\n", "line 3: '999"),
    "underscores": ("timestamp\n1_000\n2_000\n", "line 2: '1_000' is no time"),
    "JSON lines": (lines(TIMES, lambda _, time: f'{{"timestamp": {time}}}'), "JSON"),
    "nan": (PLAIN.replace("17.0", "nan"), "line 5: 'nan' is no time"),
    "infinity": (PLAIN.replace("17.0", "inf"), "line 5: 'inf' is no time"),
    "an empty cell": (
        lines(TIMES, lambda i, time: f"{time if i != 2 else ''},x", "timestamp,a"),
        "line 4: ''",
    ),
    "a short row": ("a,timestamp\n1,2.5\n7\n", "line 3: '' is no time"),
    "a date of the 30th of February": ("timestamp\n2024-02-30 00:00:00\n1\n", "line 2: '2024-02-30"),
    "no text": (b"timestamp\n1.5\n\xff\x80\x81\n", "line 3: no text in UTF-8"),
    "zero bytes": (b"timestamp\n1.5\n\x00\x00\n", "line 3"),
    "nothing": ("", "no rows"),
    "only a header": ("timestamp\n", "0 arrival time"),
    "one arrival": ("timestamp\n4.5\n", "1 arrival time"),
}


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_read_are_the_arrivals(name: str, tmp_path: Path) -> None:
    times = read_trace(write(tmp_path, ACCEPTED[name]))
    scale = (TIMES[-1] - TIMES[0]) / (times[-1] - times[0])
    assert np.allclose((times - times[0]) * scale, np.array(TIMES) - TIMES[0], atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_trace_is_refused_with_file_and_reason(name: str, tmp_path: Path) -> None:
    content, reason = REFUSED[name]
    path = write(tmp_path, content)
    with pytest.raises(ArrivalError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_arrivals_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = write(tmp_path_factory.mktemp("trace"), data)
    try:
        times = read_trace(path)
    except ArrivalError as refused:
        reason = str(refused)
    else:
        reason = f"{path}: "
        assert len(times) >= 2
        assert (np.diff(times) >= 0).all()
    assert reason.startswith(f"{path}: ")


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ArrivalError, match="Is a directory"):
        read_trace(tmp_path)


def test_a_large_file_is_read_in_seconds(tmp_path: Path) -> None:
    rows = np.sort(np.random.default_rng(3).uniform(0, 1e5, 30_000))
    path = write(tmp_path, lines(rows, lambda i, time: f"a{i},{time:.6f},0.5", "app,end_timestamp,duration"))
    began = time.monotonic()
    assert len(read_trace(path)) == 30_000
    assert time.monotonic() - began < 5.0
