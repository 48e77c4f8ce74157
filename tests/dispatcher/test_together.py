"""Frames of one request are answered together, or refused with which failed; never both, never twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from python_backend.dispatcher.frames.frame import ErrorCode
from python_backend.dispatcher.frames.together import Together


class Request:
    """Notes what it is answered."""

    def __init__(self, rows: int) -> None:
        self.sent: list[Any] = []
        self.asked = 0
        self.together = Together(rows, self.sent.append, lambda *error: self.sent.append(error), self._asked)

    def _asked(self) -> bool:
        assert not self.sent, "Triton frees a request with its answer"
        self.asked += 1
        return False


def answer(row: int) -> dict[str, Any]:
    return {"scores": np.array([[float(row)]])}


@given(st.permutations(range(5)))
def test_the_last_answer_sends_all_of_them_in_the_requests_order(order: list[int]) -> None:
    request = Request(5)
    for count, row in enumerate(order, start=1):
        assert not request.together.is_cancelled()
        request.together.outputs_of(row)(answer(row))
        assert len(request.sent) == (count == 5)
    (outputs,) = request.sent
    np.testing.assert_array_equal(outputs["scores"], [[0.0], [1.0], [2.0], [3.0], [4.0]])
    assert request.asked == 5


@given(st.permutations(range(4)), st.sets(st.integers(0, 3), min_size=1))
def test_the_first_failure_refuses_the_request_and_the_rest_is_not_wanted(
    order: list[int], failing: set[int]
) -> None:
    request = Request(4)
    for row in order:
        if row in failing:
            request.together.error_of(row)(ErrorCode.UNAVAILABLE, "too late")
        else:
            request.together.outputs_of(row)(answer(row))
        assert request.together.is_cancelled() == bool(request.sent)
    first = next(row for row in order if row in failing)
    assert request.sent == [(ErrorCode.UNAVAILABLE, f"frame {first} of 4: too late")]
