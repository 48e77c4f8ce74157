"""The compiled core is the same core: its log of a simulation equals that of the sources, byte for byte."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from python_backend import compiled
from python_backend.compiled import COMPILED_MODULES, IS_COMPILED, build_folder

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import hashlib, io, sys
sys.path.insert(0, "tests/simulator")
from python_backend import compiled
from test_simulation import log_of
from python_backend.simulator.jitter import Jitter
logs = [log_of(policy, 1, Jitter(share=0.03)) for policy in ("adaptive", "reference", "reactive")]
print(compiled.IS_COMPILED, hashlib.sha256("".join(logs).encode()).hexdigest())
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_compiled_and_pure_decide_alike() -> None:
    if not IS_COMPILED:
        pytest.skip("the core is not compiled here")
    compiled, pure = run(PPIPE_PURE="0"), run(PPIPE_PURE="1")
    assert (compiled[0], pure[0]) == ("True", "False")
    assert compiled[1] == pure[1]


def test_every_compiled_module_exists_and_the_build_depends_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [f"{module.replace('.', '/')}.py" for module in compiled.BUILT_FROM]
    for source in sources:
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, tmp_path / source)
    assert build_folder().parent == ROOT / ".compiled"
    unchanged = build_folder().name
    monkeypatch.setattr(compiled, "_ROOT", tmp_path)
    assert build_folder() == tmp_path / ".compiled" / unchanged
    for source in sources:
        text = (tmp_path / source).read_text()
        (tmp_path / source).write_text(text + "# changed")
        assert build_folder().name != unchanged, source
        (tmp_path / source).write_text(text)


def test_every_room_with_compiled_modules_looks_for_them_first() -> None:
    """A room that does not runs its sources, and nobody notices."""
    for room in sorted({module.rpartition(".")[0] for module in COMPILED_MODULES}):
        text = (ROOT / room.replace(".", "/") / "__init__.py").read_text()
        assert "__path__[:0] = compiled_path(__name__)" in text, room


def test_nothing_is_called_in_the_bounds_of_a_slice() -> None:
    # mypyc 2.4 calls it twice where what is sliced is no list, tuple, str or bytes.
    for module in COMPILED_MODULES:
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        bounds = [
            bound
            for node in ast.walk(tree)
            if isinstance(node, ast.Slice)
            for bound in (node.lower, node.upper)
            if bound is not None
        ]
        calls = [node for bound in bounds for node in ast.walk(bound) if isinstance(node, ast.Call)]
        assert not calls, f"{module}, line {calls[0].lineno}"
