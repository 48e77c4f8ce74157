"""What a worker's log says of how its frames are prepared."""

from __future__ import annotations

from typing import NoReturn

import pytest

from planner.profile import TensorSpec
from python_backend.stage import real_preparer
from python_backend.stage.pool.connecting import NoPool
from tests.ensembles.recipes import recipe

TARGET = TensorSpec("image", "FP32", (3, 8, 16))


def no_pool(*_: object) -> NoReturn:
    raise NoPool("no python3 on PATH to start it with")


def said(kind: str) -> list[str]:
    log: list[str] = []
    real_preparer.real_preparer(recipe(kind=kind), TARGET, "net.0", 1, log.append).close()
    return log


def test_a_host_without_libturbojpeg_or_a_pool_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_preparer, "library", lambda: None)
    monkeypatch.setattr(real_preparer, "PoolPreparer", no_pool)
    without_library, without_pool = said("jpeg")
    assert "net.0: no libturbojpeg.so.0 on this host" in without_library
    assert "net.0: frames are prepared by threads" in without_pool
    assert "no python3 on PATH" in without_pool


def test_raw_pixels_need_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_preparer, "library", lambda: None)
    monkeypatch.setattr(real_preparer, "PoolPreparer", no_pool)
    assert said("raw") == []
