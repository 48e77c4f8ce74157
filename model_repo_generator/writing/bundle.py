"""A pure-Python copy of the run time, so that servers of a repository need not have this package installed.

What is copied: the data plane (scheduler, dispatcher, stage, wire, triton) and every module of ours that it
imports, found by reading the import statements. No solver, no simulator, no compiled modules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

BUNDLE = "runtime"
"""Folder of the copy, beside deployment.json."""
PACKAGES = ("ensembles", "planner", "python_backend")
SHIPPED = tuple(
    f"python_backend/{folder}" for folder in ("cascade", "dispatcher", "scheduler", "stage", "triton", "wire")
)


def bundle_files() -> dict[str, str]:
    """The copy: text by path relative to deployment.json's folder. Deterministic for a given checkout."""
    root = Path(__file__).parents[2]  # our packages lie side by side, in a checkout and when installed
    waiting = [
        path.relative_to(root).as_posix() for folder in SHIPPED for path in (root / folder).rglob("*.py")
    ]
    found: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if path not in found and (root / path).is_file():
            found[path] = (root / path).read_text(encoding="utf-8")
            waiting += imported_paths(found[path])
    packages = {f"{parent}/__init__.py" for path in found for parent in Path(path).parents if parent.name}
    found |= {path: (root / path).read_text(encoding="utf-8") for path in packages - set(found)}
    return {f"{BUNDLE}/{path}": found[path] for path in sorted(found)}


def imported_paths(source: str) -> Iterator[str]:
    """Files that may hold what `source` imports of ours; some do not exist: not every name is a module."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.partition(".")[0] in PACKAGES:
                path = name.replace(".", "/")
                yield from (f"{path}.py", f"{path}/__init__.py")
