"""What a model's dispatcher does with frames that name their stream: a camera, or whatever else sends frames
that belong together.

Only the run time reads it: a plan does not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

PLAIN_WEIGHT = 1.0
"""Of streams that no pattern fits, and of all frames together that name no stream."""


@dataclass(frozen=True)
class StreamWeight:
    """The weight of every stream whose name fits `pattern` (as in fnmatch: * ? [a-z])."""

    pattern: str
    weight: float


@dataclass(frozen=True)
class StreamPolicy:
    """order: whether answers of one stream are sent in the order of its frames. keep: whether a waiting frame
    gives way to a newer one of its stream. share: whether streams are served by weight under overload.
    most_rps: what one stream may send; None: any rate. weights: the first pattern that fits counts.
    """

    order: Literal["arrival", "stream"] = "arrival"
    keep: Literal["all", "newest"] = "all"
    share: Literal["none", "weighted"] = "none"
    most_rps: float | None = None
    weights: tuple[StreamWeight, ...] = ()

    def weight_of(self, stream: str) -> float:
        """Of the stream of this name."""
        for each in self.weights:
            if fnmatchcase(stream, each.pattern):
                return each.weight
        return PLAIN_WEIGHT
