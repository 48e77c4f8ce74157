"""Lines of text from a reader's probabilities, against joining repeats and dropping blanks by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.finish import Finisher
from ensembles.reading import read_line
from planner.ingress import FinishRecipe

SYMBOLS = ("", "a", "b", "ü", " ")


def steps(path: list[int], sure: float = 0.9) -> np.ndarray:
    """Probabilities whose best path is this."""
    found = np.full((len(path), len(SYMBOLS)), (1 - sure) / (len(SYMBOLS) - 1), np.float32)
    found[np.arange(len(path)), path] = sure
    return found


@given(st.lists(st.integers(0, len(SYMBOLS) - 1), min_size=1, max_size=12))
def test_repeats_are_joined_and_blanks_dropped(path: list[int]) -> None:
    text, score = read_line(steps(path), SYMBOLS)
    assert text == "".join(SYMBOLS[symbol] for symbol, _ in itertools.groupby(path))
    assert score == pytest.approx(0.9 if any(path) else 0.0)


def test_a_batch_is_answered_with_a_text_for_each_frame() -> None:
    recipe = FinishRecipe("reading", ("steps",), ())
    batch = np.stack([steps([1, 1, 0, 1, 3]), steps([0, 0, 0, 0, 0])])
    answer = Finisher(recipe, SYMBOLS)({"steps": batch}, ())
    assert answer["read_text"].tolist() == [["aaü".encode()], [b""]]
    assert answer["read_score"].dtype == np.float32
    assert answer["read_score"].shape == (2, 1)
