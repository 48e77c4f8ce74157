"""The part of scripts/gpu that serves, rehearsed on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.test_gpu import rehearse

pytestmark = [pytest.mark.live, pytest.mark.unhurried]


@pytest.mark.slow
def test_a_rehearsal_serves_on_real_tritonservers(tmp_path: Path) -> None:
    assert rehearse(tmp_path, "serve") == 0
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert results["serve"]["figures"]["answered"] > 0
    assert results["serve"]["figures"]["mismatched"] == 0
