"""The cameras of the streams benchmark: what they send, and that its simulation says what it should."""

from __future__ import annotations

import pytest

from benchmarks.streams import OVERLOAD, POLICY, cameras


def test_every_camera_sends_its_share_at_least_and_some_twice_that() -> None:
    sent = cameras(200, OVERLOAD * 1_000.0)
    assert sum(camera.fps for camera in sent) == pytest.approx(1_500.0)
    weights = {camera.name: POLICY.weight_of(camera.name) for camera in sent}
    share_rps = 1_000.0 / sum(weights.values())
    loud = [camera.fps / weights[camera.name] / share_rps for camera in sent]
    assert min(loud) == pytest.approx(1.0, abs=0.02)
    assert max(loud) == pytest.approx(2.0, abs=0.04)
    assert {camera.name.split("-")[0] for camera in sent} == {"w1", "w2", "w4"}
