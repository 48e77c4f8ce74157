"""For all tests: examples that hypothesis makes have no time limit, since a busy machine is no wrong answer;
in CI they are the same ones each time.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow,),
    derandomize="CI" in os.environ,
    print_blob=True,
)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts servers first: it takes longest, and waits most, while tests beside it compute."""
    items.sort(key=lambda item: item.get_closest_marker("live") is None)
