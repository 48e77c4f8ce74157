"""Elements of BYTES tensors are views of what came, whatever their sizes."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backend.triton.bytes_elements import use_views, views_of
from python_backend.wire.kserve import Array


def encoded(elements: list[bytes]) -> Array:
    text = b"".join(len(each).to_bytes(4, "little") + each for each in elements)
    return np.frombuffer(text, np.uint8).copy()


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_elements_come_back_as_they_were(elements: list[bytes]) -> None:
    views = views_of(encoded(elements))
    assert [bytes(view) for view in views.tolist()] == elements
    assert views.reshape(len(elements), 1).shape == (len(elements), 1), "as the stub shapes them"


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=3), st.integers(1, 8))
def test_a_tensor_that_is_cut_off_is_refused(elements: list[bytes], missing: int) -> None:
    whole = encoded(elements)
    left = whole[: max(1, len(whole) - min(missing, len(elements[-1])))]
    with pytest.raises(ValueError, match="ends inside an element"):
        views_of(left)


def test_nothing_is_copied_and_the_tensor_lives_as_long_as_a_view() -> None:
    whole = encoded([b"one", b"two"])
    first = views_of(whole)[0]
    whole[4] = ord("O")
    assert bytes(first) == b"One"
    del whole
    gc.collect()
    assert bytes(first) == b"One"


def test_the_stubs_function_is_replaced() -> None:
    utils = SimpleNamespace(deserialize_bytes_tensor=None)
    use_views(utils)
    assert utils.deserialize_bytes_tensor is views_of
