"""A program file is code, so only the one that is meant is opened."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from planner.profiling.networks.loading import ModelError, load_program


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_a_file_with_another_hash_is_not_opened(tmp_path: Path) -> None:
    path, ran = tmp_path / "net.pt2", tmp_path / "ran"
    path.write_bytes(pickle.dumps(_Evil(ran)))
    with pytest.raises(ModelError, match=r"SHA-256 [0-9a-f]{64}, program.sha256 is 0{64}: it is not"):
        load_program(path, "model m", sha256="0" * 64)
    assert not ran.exists()


def test_the_file_that_is_meant_is(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_program(path, "model m", sha256=sha256).module()(torch.zeros(1, 2))
    assert found.shape == (1, 2)
