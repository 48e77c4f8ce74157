"""How stages' true latencies differ from planned ones. Data only; not compiled, so that it can be pickled."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StageJitter:
    """One stage's own: it takes `factor` times what is planned, with a standard deviation of `share`."""

    share: float
    factor: float = 1.0


@dataclass(frozen=True)
class Jitter:
    """How stage latencies vary: Gaussian with standard deviation `share`, and now and then a straggler.

    stages: by pipeline and stage, in place of `share` where there are any.
    """

    share: float = 0.0
    straggler_probability: float = 0.0
    straggler_factor: float = 3.0
    seed: int = 0
    stages: tuple[tuple[StageJitter, ...], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and 0 <= self.share < 1):
            raise ValueError(f"jitter share {self.share} must be at least 0 and below 1")
        if not 0 <= self.straggler_probability <= 1:
            raise ValueError(f"straggler_probability {self.straggler_probability} must lie in [0, 1]")
        if not (math.isfinite(self.straggler_factor) and self.straggler_factor >= 1):
            raise ValueError(f"straggler_factor {self.straggler_factor} must be at least 1")

    @property
    def varies(self) -> bool:
        """Whether anything takes other than what was planned."""
        stages = any(stage.share or stage.factor != 1 for pipeline in self.stages for stage in pipeline)
        return self.share > 0 or self.straggler_probability > 0 or stages
