"""Text from what a reader of lines answers: pure functions.

A network trained with connectionist temporal classification says, for each step from left to right, how
likely each symbol is; symbol 0 is the blank. The best symbol of each step is taken, repeats are joined,
blanks dropped (Graves et al., Connectionist Temporal Classification, ICML 2006: best path decoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.floating[Any]]
BLANK = 0


def read_line(probabilities: Probabilities, symbols: Sequence[str]) -> tuple[str, float]:
    """The text in probabilities [steps, symbols], and the mean probability of its symbols; '' and 0 where
    there is none.
    """
    best = probabilities.argmax(axis=1)
    begins = np.concatenate([[True], best[1:] != best[:-1]]) & (best != BLANK)
    if not begins.any():
        return "", 0.0
    score = float(probabilities[begins, best[begins]].mean())
    return "".join(symbols[symbol] for symbol in best[begins]), score
