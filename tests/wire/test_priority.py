"""A frame's priority is a small whole number of its client's, 1 first; anything else is refused."""

from __future__ import annotations

from typing import Any

import pytest

from python_backend.dispatcher.frames.open_frames import drop_text
from python_backend.scheduler.actions import DropReason
from python_backend.wire.parameters.priority import PRIORITY, priority_of


def test_the_default_goes_first_and_nine_last() -> None:
    assert priority_of({}) == priority_of({PRIORITY: 1}) == priority_of({PRIORITY: "1"}) == 0
    assert [priority_of({PRIORITY: value}) for value in (2, "3", 9)] == [-1, -2, -8]


@pytest.mark.parametrize("value", [0, 10, -1, 2**63, "", "urgent", "1.0", "\u0663", 1.5, True, None, [1]])
def test_anything_else_is_refused_with_what_is_wanted(value: Any) -> None:
    with pytest.raises(ValueError, match=r"ppipe_priority: .* from 1 \(first, the default\) to 9"):
        priority_of({PRIORITY: value})


def test_a_timeout_of_two_microseconds_is_told_as_such() -> None:
    said = drop_text("m", DropReason.EXPIRED, 400, 2)
    assert "(it had 2 us)" in said
    assert "reason=expired" in said
    assert "(it had 525.0 ms)" in drop_text("m", DropReason.OVERLOAD, -1000, 525_000)
