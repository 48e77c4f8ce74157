"""What a dispatcher's Triton model takes of a request that another entry passes on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from python_backend.wire.forwarded import Forwarded

MODULES = ("python_backend.triton.replies", "python_backend.triton.dispatcher")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    triton = SimpleNamespace(TritonError=Exception, InferenceResponse=object, Tensor=object)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    made = importlib.import_module(MODULES[1]).TritonPythonModel()
    made._longest_us = 50_000
    yield made
    for name in MODULES:
        sys.modules.pop(name, None)


def test_a_mark_is_of_one_frame(model: Any) -> None:
    mark = Forwarded("d", "m", "a", "b", 60_000, priority=-3, stream="camera", place=4)
    assert model._wanted({}, mark, 0, 1) == (50_000, -3, "camera", 4, True)
    with pytest.raises(ValueError, match="ppipe_forwarded: a request of 2 frames; expected one"):
        model._wanted({}, mark, 0, 2)
