"""A frame goes the ways of the table and no other; it is answered once, from any state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.frames.frame_state import MOVES, FrameState, IllegalMove

WAYS = {
    FrameState.NEW: (),
    FrameState.QUEUED: (FrameState.QUEUED,),
    FrameState.SENT: (FrameState.QUEUED, FrameState.SENT),
    FrameState.PAUSED: (FrameState.QUEUED, FrameState.PAUSED),
}
"""A way to each state."""


def frame(way: Sequence[FrameState] = ()) -> Frame:
    made = Frame(1, memoryview(b""), 0, 10, lambda outputs: None, lambda code, text: None)
    for state in way:
        made.move(state)
    return made


@pytest.mark.parametrize(("source", "target"), list(itertools.product(WAYS, FrameState)))
def test_the_table_is_what_a_frame_can_do(source: FrameState, target: FrameState) -> None:
    made = frame(WAYS[source])
    assert made.state is source
    if (source, target) in MOVES:
        made.move(target)
        assert made.state is target
    else:
        with pytest.raises(IllegalMove, match=f"from {source.value} to {target.value}"):
            made.move(target)
        assert made.state is source


@pytest.mark.parametrize("state", WAYS)
def test_a_frame_is_answered_once_in_any_state_and_waits_no_more(state: FrameState) -> None:
    made = frame(WAYS[state])
    assert made.waits is (state is not FrameState.SENT)
    assert [made.claim(), made.claim()] == [True, False]
    assert made.answered
    assert not made.waits


@given(st.lists(st.sampled_from(list(FrameState)), max_size=12))
def test_no_sequence_of_moves_leaves_the_table(wanted: list[FrameState]) -> None:
    made = frame()
    for state in wanted:
        before = made.state
        try:
            made.move(state)
        except IllegalMove:
            assert made.state is before
        else:
            assert (before, made.state) in MOVES
