"""Recordings are asked for with a signature only, are bounded, and never stop the serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.serving import ServedModel
from python_backend.dispatcher import recording
from python_backend.dispatcher.recording import (
    FOLDER_VARIABLE,
    Recording,
    WantedRecording,
    decode,
    encode,
    size_at_start,
)
from python_backend.scheduler.events import TimerFired
from python_backend.wire.signing.keys import Keys
from tests.simulator.test_simulation import mixed_model

WANTED = WantedRecording("mixed", seconds=0.0, most_mb=1.0)


def keys(tmp_path: Path, name: str = "key") -> Keys:
    path = tmp_path / name
    path.write_text(name.ljust(64, "0") + "\n")
    return Keys(path)


def begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: WantedRecording, said: list[str]
) -> Recording | None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    served: ServedModel = mixed_model()
    return Recording.begin("mixed_dispatch", served, "adaptive", 0, True, wanted, said.append)


def test_only_a_signed_request_is_taken(tmp_path: Path) -> None:
    ours, theirs = keys(tmp_path), keys(tmp_path, "other")
    datagram = encode(WANTED, ours)
    assert decode(datagram, ours) == WANTED
    assert decode(datagram, theirs) is None
    assert decode(datagram[:-1] + b"x", ours) is None
    assert decode(encode(WANTED, Keys.none()), Keys.none()) is None, (
        "without a key anybody could fill the disk"
    )
    assert decode(b"PPR1" + datagram[4:], ours) is None


def test_it_ends_at_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = begun(tmp_path, monkeypatch, WantedRecording("mixed", 0.0, 0.01), [])
    assert found is not None
    lines = 0
    while found.handled(TimerFired(), lines, []):
        lines += 1
    (file,) = tmp_path.glob("*.events.jsonl")
    assert 100 < lines < 1000
    assert 10_000 <= file.stat().st_size < 10_100


def test_it_ends_at_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000]
    monkeypatch.setattr(recording, "now_us", lambda: now[0])
    found = begun(tmp_path, monkeypatch, WantedRecording("mixed", 2.0, 1.0), [])
    assert found is not None
    assert found.handled(TimerFired(), 0, [])
    now[0] += 2_000_000
    assert not found.handled(TimerFired(), 0, [])


def test_a_folder_that_is_not_there_is_said_and_serving_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    assert begun(tmp_path / "nowhere", monkeypatch, WANTED, said) is None
    assert "no event log" in said[0]
    assert "No such file" in said[0]


@pytest.mark.parametrize("text", ["-1", "x", "1e9", "nan"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"event_log_mb: .* is not a number of megabytes"):
        size_at_start({"event_log_mb": text})
