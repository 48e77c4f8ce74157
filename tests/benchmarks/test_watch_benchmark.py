"""The benchmark of `ppipe watch`: one that is interrupted says what it has."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import pytest

from benchmarks import watch

CHILD = "import sys, time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: sys.exit({status})"


def command(status: int) -> list[str]:
    return [sys.executable, "-c", CHILD.format(status=status)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_was_watched(number: int) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    threading.Timer(1.0, os.kill, (os.getpid(), number)).start()
    watched = watch._watched(command(130), 30.0)
    assert watched.interrupted
    assert 0.5 < watched.seconds < 20
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_the_whole_time_is_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOK_S", 0.5)
    watched = watch._watched(command(130), 2.0)
    assert not watched.interrupted
    assert watched.seconds == pytest.approx(2.0, abs=0.5)
    assert len(watched.resident) >= 3
    assert min(watched.resident) > 0


def test_another_end_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="ended with status 3"):
        watch._watched([sys.executable, "-c", "raise SystemExit(3)"], 0.5)


def test_figures_are_of_what_is_there() -> None:
    assert watch._figures([], []) == {"results": 0, "answered": 0}
    lines = [{"stream": "a", "place": place, "pts": 0.1, "age_ms": 5.0, "answer": {}} for place in (0, 1, 3)]
    dropped = [{"stream": "a", "place": 4, "age_ms": 9.0, "dropped": "overload"}]
    found = watch._figures(lines + dropped, [1_000_000, 2_000_000])
    assert (found["results"], found["answered"]) == (4, 3)
    assert (found["places_missing"], found["without_stream_or_pts"]) == (1, 1)
    assert found["age_ms_p50"] == found["age_ms_p50_last_third"] == 5.0
    assert json.loads(json.dumps(found)) == found
