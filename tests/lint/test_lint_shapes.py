"""No false refusal: nothing is found of valid configurations in the shapes that people publish."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo_generator.lint import Context, Host, lint
from model_repo_generator.lint.releases import READ
from tests.lint.shapes import Shape, shapes
from tests.lint.shapes_whole import whole_repositories

SHAPES = (*shapes(), *whole_repositories())
INSTALLED = frozenset({"dali", "fil", "identity", "onnxruntime", "openvino", "ours", "python", "pytorch"})
INSTALLED |= {"tensorflow", "tensorrt", "vllm", "tensorrtllm"}
HOSTS = (
    Host(),
    Host(auto_complete=True),
    Host(gpus=4, backends=INSTALLED),
    Host(auto_complete=True, triton=READ, backends=INSTALLED),
)


def test_there_are_over_300_of_different_names() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) > 300


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_nothing_is_found(shape: Shape, tmp_path: Path) -> None:
    for path, text in shape.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(text.encode())
    for host in HOSTS:
        assert lint(tmp_path, context=Context(host=host)) == ()
