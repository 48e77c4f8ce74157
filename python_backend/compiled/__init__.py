"""Runs the modules in COMPILED_MODULES as compiled by mypyc where a build of these very sources is found.

Builds are in .compiled/<key>/ beside this package, where the key is a hash of the sources and of this Python,
so that a stale build is never used. Without one, or with PPIPE_PURE=1, the sources run. `python -m
python_backend.compiled` builds.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import sys
import warnings
from pathlib import Path

from python_backend.compiled.modules import COMPILED_MODULES, GROUP

_ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = (*COMPILED_MODULES, "python_backend.compiled.records")
"""Modules that a build depends on: those that are compiled, and what writes their records out."""


def build_folder() -> Path:
    """Where a build of these sources by this Python belongs; it need not exist."""
    digest = hashlib.sha256(sys.version.encode())
    for module in BUILT_FROM:
        path = _ROOT / (module.replace(".", "/") + ".py")
        digest.update(path.read_bytes() if path.exists() else b"absent")
    return _ROOT / ".compiled" / digest.hexdigest()[:16]


def compiled_path(package: str) -> list[str]:
    """What to search first for the modules of a subpackage: its compiled ones, or nothing."""
    return [str(_BUILD / package.replace(".", "/"))] if _BUILD is not None else []


def _load_build() -> tuple[Path | None, str]:
    """Load the compiled library where there is one that fits: its folder, or None and why the sources run.

    A library that is there and does not load is a warning, because everything works without it, slower.
    """
    if os.environ.get("PPIPE_PURE") == "1":
        return None, "PPIPE_PURE is 1"
    folder = build_folder()
    name = f"{GROUP}__mypyc"
    path = folder / (name + importlib.machinery.EXTENSION_SUFFIXES[0])
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.exists() or spec is None or spec.loader is None:
        return None, "no build of these sources is there"
    try:
        library = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(library)
    except ImportError as error:
        reason = f"the build {path} does not load: {error}"
        warnings.warn(f"ppipe runs as plain Python: {reason}", RuntimeWarning, stacklevel=2)
        return None, reason
    sys.modules[name] = library
    return folder, ""


_BUILD, WHY_NOT_COMPILED = _load_build()
"""The folder of the build that runs, and why none does ('' where one does)."""
IS_COMPILED = _BUILD is not None
"""Whether the compiled build runs."""


def code_in_use() -> str:
    """For logs: which code runs, and why where it is the sources."""
    return "runs compiled" if IS_COMPILED else f"runs as plain Python: {WHY_NOT_COMPILED}"
