"""Operators that torch alone does not have, and what registers them.

Rules
- A stage's process imports torch and the modules of `program.imports`, nothing else of the model's owner. So
  whether these are enough is tried in a process of its own, when the model is profiled.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

import torch

from planner.profiling.networks.counting import TORCHS_OWN, full_name, namespace
from planner.profiling.networks.errors import ModelError

_TIMEOUT_S = 120.0
_TRY = """
import importlib, sys, torch
for name in sys.argv[1].split(","):
    if name: importlib.import_module(name)
missing = []
for name in sys.argv[2].split(","):
    space, _, operator = name.partition("::")
    if not hasattr(getattr(torch.ops, space), operator): missing.append(name)
print("missing:" + ",".join(missing))
"""
_FROM = {"torchvision": "torchvision", "quantized_decomposed": "torch.ao.quantization.fx._decomposed"}


def require_imports(program: torch.export.ExportedProgram, imports: Sequence[str], where: str) -> None:
    """Raises ModelError where stages would not find an operator, with the imports that they need."""
    names = sorted(
        {full_name(node) for node in program.graph.nodes if namespace(node) not in ("", *TORCHS_OWN)}
    )
    if not names:
        return
    missing = _missing(names, imports, where)
    if missing:
        needed = sorted({_registered_by(name) for name in missing} | set(imports))
        raise ModelError(
            f"{where}: uses {', '.join(missing)}, which torch alone does not have: stages must import what "
            f"registers it. Give the program  imports: [{', '.join(needed)}]  and have it on every host"
        )


def _missing(names: Sequence[str], imports: Sequence[str], where: str) -> list[str]:
    """Those of the operators that a process with torch and the imports does not have. Raises ModelError."""
    done = subprocess.run(
        [sys.executable, "-c", _TRY, ",".join(imports), ",".join(names)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("missing:"):
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise ModelError(f"{where}: program.imports: {', '.join(imports)}: {said}")
    return [name for name in last.removeprefix("missing:").split(",") if name]


def _registered_by(name: str) -> str:
    """The module that most likely registers an operator."""
    definition = torch._library.custom_ops.OPDEFS.get(name)
    if definition is not None:
        return str(definition._init_fn.__module__)
    space = name.partition("::")[0]
    if space in _FROM or importlib.util.find_spec(space) is None:
        return _FROM.get(space, f"MODULE_OF_{space.upper()}")
    return space
