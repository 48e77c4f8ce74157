"""A program file is code, so only the one that is meant is opened."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
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


class _Sizes(torch.nn.Module):
    """Sizes that follow from the batch, a buffer, and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.register_buffer("gain", torch.rand(8, 1, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (self.first(x) * self.gain).relu().reshape(x.shape[0] * 2, 4, -1)
        return x.reshape(x.shape[0] // 2, 8, -1).mean(-1), torch.arange(x.shape[0])[:, None] * 0.5


@pytest.fixture
def program(tmp_path: Path) -> Path:
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    path = tmp_path / "net.pt2"
    exported = torch.export.export(_Sizes(), (torch.rand(2, 3, 16, 16),), dynamic_shapes={"x": batch})
    torch.export.save(exported, path)
    return path


def changed(path: Path, end: str, change: Callable[[bytes], bytes]) -> None:
    """Rewrite the entries of the archive whose names end so."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change(content) if name.endswith(end) else content)


def test_a_program_as_torch_saves_it_needs_no_hash(program: Path) -> None:
    found = load_program(program, "model m").module()(torch.zeros(3, 3, 16, 16))
    assert [len(each) for each in found] == [3, 6]


@pytest.mark.parametrize(
    ("end", "old", "new", "said"),
    [
        ("_weights_config.json", b'"use_pickle": false', b'"use_pickle": true', "as a pickled object"),
        ("model.json", b"torch.ops.aten.relu.default", b"torch.serialization.os.system", "calls torch.s"),
        ("model.json", b"Symbol('s", b"__import__('s", "has the size"),
    ],
)  # fmt: skip
def test_a_file_that_would_run_code_is_not_opened_without_its_hash(
    program: Path, end: str, old: bytes, new: bytes, said: str
) -> None:
    changed(program, end, lambda content: content.replace(old, new, 1))
    with pytest.raises(ModelError, match=rf"{said}.*would run code.*sha256: [0-9a-f]{{64}}"):
        load_program(program, "model m")


def test_example_inputs_that_are_more_than_tensors_are_not_unpickled(program: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    held = io.BytesIO()
    torch.save(((_Evil(ran),), {}), held)
    changed(program, "sample_inputs/model.pt", lambda content: held.getvalue())
    with pytest.raises(ModelError, match="more than tensors"):
        load_program(program, "model m")
    assert not ran.exists()
