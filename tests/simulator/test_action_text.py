"""Actions read back from an event log's texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason, Hop, Ticket, WakeAt
from python_backend.scheduler.errors import EventLogError
from python_backend.simulator.action_text import action_of

times = st.integers(0, 1 << 50)
hops = st.builds(Hop, st.text(), times, times, times, times, times)
tickets = st.builds(
    Ticket, times, times, times, times, st.lists(hops, min_size=1, max_size=3).map(tuple), times, times
)
actions = st.one_of(
    st.builds(Dispatch, tickets, st.lists(times, max_size=4).map(tuple)),
    st.builds(Drop, times, st.sampled_from(DropReason)),
    st.builds(WakeAt, times),
)


@given(actions)
def test_every_action_comes_back(action: Action) -> None:
    assert action_of(repr(action)) == action


@pytest.mark.parametrize("text", ["", "Drop(1, <DropReason.X: 'boredom'>)", "Send(3)", "WakeAt(soon)"])
def test_what_is_no_action_is_told(text: str) -> None:
    with pytest.raises(EventLogError, match="no action"):
        action_of(text)
