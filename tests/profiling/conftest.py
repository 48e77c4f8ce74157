"""Model specs for the small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def spec() -> Callable[..., ModelSpec]:
    """spec(nets.Chain) or spec('package.module:factory', size=..., **program fields)."""

    def make(factory: Any, shape: tuple[int, ...] = (3, 8, 8), blocks: int = 10, **program: Any) -> ModelSpec:
        path = factory if isinstance(factory, str) else f"{factory.__module__}:{factory.__name__}"
        source = program if "pt2" in program else {"factory": path, **program}
        return ModelSpec(
            name="net",
            program=ProgramSpec(**source),
            input=TensorSpecModel(name="image", shape=shape),
            slo_ms=1000,
            blocks=blocks,
        )

    return make
