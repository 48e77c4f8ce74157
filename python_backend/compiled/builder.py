"""Compiles the scheduler's core, what drives it at run time and the simulator's loop with mypyc: one source,
several times as fast.

What is built goes into `.compiled/<key>/` in the repository root, where the key is a hash of the sources
and of the Python that builds, so a stale build is never used: python_backend.compiled looks for the key
of what it finds. Without a C compiler, Python's headers or mypyc nothing is built, and the same sources run
as they are.

Run: python -m python_backend.compiled
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from python_backend.compiled import build_folder
from python_backend.compiled.modules import COMPILED_MODULES, GROUP
from python_backend.compiled.records import written_out

_SETUP = """
from mypyc.build import mypycify
from setuptools import setup
setup(name={group!r}, packages=[], py_modules=[], ext_modules=mypycify(
    ["--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary", *{files!r}],
    opt_level="3", group_name={group!r},
))
"""


def main() -> int:
    """Build unless it is built. Always 0: without a build everything works, slower."""
    target = build_folder()
    if target.exists():
        print(f"compile: {target.name} is up to date")
        return 0
    print("compile: building the scheduler, what runs it and the simulator with mypyc (a minute or two)")
    problem = build(target)
    if problem:
        print(f"compile: not compiled, running as plain Python: {problem}", file=sys.stderr)
    return 0


def build(target: Path) -> str:
    """Build into `target`, whole or not at all; returns what stood in the way, or ''."""
    root = Path(__file__).resolve().parents[2]
    target.parent.mkdir(parents=True, exist_ok=True)
    files = [module.replace(".", "/") + ".py" for module in COMPILED_MODULES]
    with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as scratch:
        work = Path(scratch, "work")
        for package in ("planner", "python_backend"):
            shutil.copytree(
                root / package,
                work / package,
                ignore=shutil.ignore_patterns("__pycache__", "*.so", "profiling"),
            )
        for file in files:
            path = work / file
            path.write_text(written_out(path.read_text(encoding="utf-8")), encoding="utf-8")
        (work / "setup.py").write_text(_SETUP.format(group=GROUP, files=files), encoding="utf-8")
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        built = sorted(work.rglob("*.so"))
        if done.returncode != 0 or not built:
            lines = (done.stderr.strip() or done.stdout.strip() or "nothing was built").splitlines()
            return lines[-1]
        ready = Path(scratch, "ready")
        for path in built:
            place = ready / path.relative_to(work).parent
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
        # Another process may have been faster: its build is as good.
        with contextlib.suppress(OSError):
            os.rename(ready, target)
    return ""
