"""The page of a cascade: every series is there from the start, and what was counted is in it."""

from __future__ import annotations

from python_backend.cascade.counts import CascadeCounts, End
from python_backend.cascade.page import PREFIX, CascadePage, cascade_families
from tests.cascade.test_parent import CASCADE, parent


def lines(counts: CascadeCounts) -> dict[str, float]:
    body, _ = CascadePage(lambda: CASCADE, counts, lambda: 0).make()
    rows = (line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
    return {name.removeprefix(PREFIX): float(value) for name, value in rows}


def test_every_series_is_there_before_the_first_frame() -> None:
    found = lines(CascadeCounts())
    assert {name.partition("{")[0] for name in found} == {name for name, _, _ in cascade_families()}
    assert found['part_us{cascade="street",model="letters"}'] == 300_000
    assert sum(value for name, value in found.items() if "_total" in name) == 0


def test_frames_are_open_until_they_end() -> None:
    counts = CascadeCounts()
    counts.arrived()
    counts.arrived()
    counts.asked([parent().begin()])
    counts.answered("detector", 1500)
    counts.missed("kinds", 2)
    counts.ended(End.PARTIAL, 9_000)
    counts.ended(End.COMPLETE, 5_000)
    counts.arrived()
    found = lines(counts)
    assert found['open_frames{cascade="street"}'] == 1
    assert found['latency_us_total{cascade="street"}'] == 5_000, "of complete frames alone"
    assert found['ended_total{cascade="street",end="partial"}'] == 1
    assert found['missing_total{cascade="street",model="kinds"}'] == 2
    assert found['answer_us_total{cascade="street",model="detector"}'] == 1500
