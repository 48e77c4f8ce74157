"""`expect:` in a deployment file: what plans are to hold under."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from planner.deployment.spec import Spec
from planner.expectation import Expectation

ARRIVALS = ("poisson", "gamma", "mmpp", "cameras", "trace")


def _shares(value: Any) -> Any:
    """Raises ValueError unless it is one share or one for each of some classes."""
    for gpu, share in value.items() if isinstance(value, Mapping) else [("", value)]:
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not (share is None or (number and math.isfinite(share) and 0 <= share < 1)):
            of_class = f"{gpu}: {share!r} is not; " if gpu else ""
            raise ValueError(f"{of_class}expected a share from 0 to below 1, or one for each GPU class")
    return value


def _known(arrivals: str) -> str:
    if arrivals.partition(":")[0] not in ARRIVALS:
        raise ValueError(f"unknown arrivals; known: {', '.join(ARRIVALS)}, as in gamma:cv=4")
    return arrivals


Shares = Annotated[float | dict[str, float] | None, BeforeValidator(_shares)]


class ExpectSpec(Spec):
    """See planner.expectation.Expectation. jitter, slowdown: one share for all GPU classes, or by class; of a
    class that is left out, and where nothing is stated, the profile's own.
    """

    jitter: Shares = None
    stragglers: float = Field(default=0.0, ge=0, le=1)
    straggler_factor: float = Field(default=3.0, ge=1)
    slowdown: Shares = None
    arrivals: Annotated[str, AfterValidator(_known)] = "poisson"
    held_in: float = Field(default=0.95, gt=0, le=1)

    def to_expectation(self) -> Expectation:
        """As the planner's type."""
        return Expectation(
            jitter=None if isinstance(self.jitter, Mapping) else self.jitter,
            jitter_by_class=dict(self.jitter) if isinstance(self.jitter, Mapping) else {},
            stragglers=self.stragglers,
            straggler_factor=self.straggler_factor,
            slowdown=None if isinstance(self.slowdown, Mapping) else self.slowdown,
            slowdown_by_class=dict(self.slowdown) if isinstance(self.slowdown, Mapping) else {},
            arrivals=self.arrivals,
            held_in=self.held_in,
        )
