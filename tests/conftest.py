"""For all tests: examples that hypothesis makes have no time limit, since a busy machine is no wrong answer;
in CI they are the same ones each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow,),
    derandomize="CI" in os.environ,
    print_blob=True,
)
settings.load_profile("suite")
