"""Arrival processes: rate, shape, seeds, chunks, files, and what cannot be."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from python_backend.simulator.arrivals import ArrivalError, parse_arrivals

KINDS = ("poisson", "gamma:cv=2", "gamma:cv=4", "mmpp:burst=3", "cameras:fps=30,jitter_us=2000")


@pytest.mark.parametrize("kind", KINDS)
def test_times_are_seeded_ascending_and_at_the_rate(kind: str) -> None:
    arrivals = parse_arrivals(kind, 2_000.0)
    times = list(arrivals.times_us(200.0, seed=3))
    assert times == list(arrivals.times_us(200.0, seed=3))
    assert times != list(arrivals.times_us(200.0, seed=4))
    assert times != list(arrivals.times_us(200.0, seed=3, stream="another model"))
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 200_000_000
    assert len(times) == pytest.approx(400_000, rel=0.1 if kind.startswith("mmpp") else 0.05)


@pytest.mark.parametrize(
    ("kind", "cv"), [("poisson", 1.0), ("gamma:cv=2", 2.0), ("gamma:cv=4", 4.0), ("gamma:cv=0.5", 0.5)]
)
def test_gaps_have_the_wanted_variation(kind: str, cv: float) -> None:
    gaps = np.diff(list(parse_arrivals(kind, 1_000.0).times_us(300.0, seed=1)))
    assert float(np.std(gaps) / np.mean(gaps)) == pytest.approx(cv, rel=0.05)


def test_modulated_poisson_is_burstier_than_poisson_over_its_own_time_scale() -> None:
    def variance_over_mean(kind: str) -> float:
        counts = np.bincount(np.array(list(parse_arrivals(kind, 1_000.0).times_us(300.0, seed=1))) // 200_000)
        return float(np.var(counts) / np.mean(counts))

    assert variance_over_mean("poisson") == pytest.approx(1.0, rel=0.2)
    assert variance_over_mean("mmpp:burst=3,busy_share=0.2,busy_seconds=0.5") > 20


def test_cameras_send_at_their_frame_rate() -> None:
    times = np.array(list(parse_arrivals("cameras:fps=25,jitter_us=0", 100.0).times_us(10.0, seed=1)))
    assert len(times) == 1_000
    # Four cameras: the same four phases return every 40 ms.
    assert np.abs(times[4:] - times[:-4] - 40_000).max() <= 1


def test_a_long_stream_is_not_made_at_once() -> None:
    first = list(itertools.islice(parse_arrivals("poisson", 1e6).times_us(1e6, seed=1), 5))
    assert len(first) == 5


def test_a_trace_is_scaled_and_repeated(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("timestamp\n0\n1\n3\n", encoding="utf-8")
    times = list(parse_arrivals(f"trace:path={path}", 3.0).times_us(2.0, seed=1))
    assert len(times) == 6
    assert times[1] * 3 == pytest.approx(times[2], abs=3)
    assert times[3] == pytest.approx(1_000_000, abs=1)


def test_the_azure_layout_starts_at_end_less_duration(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "app,func,end_timestamp,duration\na,f,10.5,0.5\na,g,11.0,2.0\na,f,13,0\n", encoding="utf-8"
    )
    times = list(parse_arrivals(f"trace:path={path}", 3.0).times_us(1.0, seed=1))
    # Starts are 9, 10 and 13 s.
    assert times[1] / times[2] == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "rate", "message"),
    [
        ("poisson", 0.0, "rate_rps 0.0 must be a finite number above 0"),
        ("poisson", float("nan"), "rate_rps nan"),
        ("poisson", -5.0, "rate_rps -5.0"),
        ("gamma:cv=0", 1.0, "cv 0.0"),
        ("gamma:cx=1", 1.0, "'cx=1'; expected cv=..."),
        ("gamma:cv=x", 1.0, "cv 'x' is not a number"),
        ("fractal", 1.0, "unknown arrivals 'fractal'; known: poisson"),
        ("mmpp:busy_share=1", 1.0, "busy_share 1.0"),
        ("cameras:jitter_us=-1", 1.0, "jitter_us -1.0"),
    ],
)
def test_bad_processes_are_named(kind: str, rate: float, message: str) -> None:
    with pytest.raises(ArrivalError, match=message.replace("(", r"\(")):
        parse_arrivals(kind, rate)


@pytest.mark.parametrize(
    "content", ["", "timestamp\n1\n", "timestamp\n1\nx\n", "timestamp\n1\ninf\n", "timestamp\n2\n2\n"]
)
def test_bad_traces_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ArrivalError, match=r"bad\.csv"):
        list(parse_arrivals(f"trace:path={path}", 1.0).times_us(1.0, seed=1))
    with pytest.raises(ArrivalError, match=r"none\.csv"):
        list(parse_arrivals(f"trace:path={tmp_path / 'none.csv'}", 1.0).times_us(1.0, seed=1))
    with pytest.raises(ArrivalError, match="seconds 0"):
        list(parse_arrivals("poisson", 1.0).times_us(0, seed=1))
