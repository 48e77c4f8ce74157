"""`streams:` of a model in a deployment file: what is done with frames that name their stream."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from planner.deployment.spec import Spec
from planner.streams import StreamPolicy, StreamWeight

Pattern = Annotated[str, Field(min_length=1, max_length=256)]
Weight = Annotated[float, Field(ge=0.001, le=1000)]


class StreamsSpec(Spec):
    """See planner.streams.StreamPolicy. weights: by pattern of the stream's name, as in {"gate-*": 4}; the
    first that fits counts, and streams that none fits have 1.
    """

    order: Literal["arrival", "stream"] = "arrival"
    keep: Literal["all", "newest"] = "all"
    share: Literal["none", "weighted"] = "none"
    most_rps: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    weights: dict[Pattern, Weight] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _weights_are_used(self) -> StreamsSpec:
        if self.weights and self.share != "weighted":
            raise ValueError("weights: they count with 'share: weighted' only")
        return self

    @property
    def decides(self) -> bool:
        """Whether there is more to it than the order of answers: which frames are served."""
        return self.keep != "all" or self.share != "none" or self.most_rps is not None

    def to_policy(self) -> StreamPolicy:
        """As the run time's type."""
        return StreamPolicy(
            order=self.order,
            keep=self.keep,
            share=self.share,
            most_rps=self.most_rps,
            weights=tuple(StreamWeight(pattern, weight) for pattern, weight in self.weights.items()),
        )
