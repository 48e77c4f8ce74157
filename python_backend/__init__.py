"""Data plane: the scheduler core and what runs it, live on Triton or in virtual time.

The modules in COMPILED_MODULES may have been compiled from their sources by ppipe.compile, into
.compiled/<key>/ beside this package. They are used when the key, a hash of the sources and of this Python,
fits; PPIPE_PURE=1 says not to.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

COMPILED_MODULES = (
    "python_backend.scheduler.record",
    "python_backend.scheduler.events",
    "python_backend.scheduler.actions",
    "python_backend.scheduler.batches",
    "python_backend.scheduler.waiting",
    "python_backend.scheduler.links",
    "python_backend.scheduler.timelines",
    "python_backend.scheduler.state",
    "python_backend.scheduler.policy",
    "python_backend.scheduler.adaptive",
    "python_backend.scheduler.reference",
    "python_backend.scheduler.reactive",
    "python_backend.scheduler.policies",
    "python_backend.scheduler.core",
    "python_backend.runtime.clock",
    "python_backend.runtime.kserve",
    "python_backend.runtime.ticket_codec",
    "python_backend.runtime.frame",
    "python_backend.runtime.counts",
    "python_backend.runtime.drift",
    "python_backend.runtime.lateness",
    "python_backend.runtime.budget",
    "python_backend.runtime.overdue",
    "python_backend.runtime.under_way",
    "python_backend.runtime.offers",
    "python_backend.runtime.answers",
    "python_backend.runtime.open_frames",
    "python_backend.runtime.turns",
    "python_backend.runtime.threads",
    "python_backend.runtime.transport",
    "python_backend.runtime.http_connections",
    "python_backend.runtime.http_wire",
    "python_backend.runtime.http_transport",
    "python_backend.runtime.shm_layout",
    "python_backend.runtime.shm_arena",
    "python_backend.runtime.shm_reader",
    "python_backend.runtime.shm_transport",
    "python_backend.runtime.null_transport",
    "python_backend.runtime.chain_transport",
    "python_backend.runtime.hops",
    "python_backend.runtime.feedback",
    "python_backend.runtime.driver",
    "python_backend.runtime.stage_identity",
    "python_backend.runtime.stage_worker",
    "python_backend.simulator.counts",
    "python_backend.simulator.execution",
    "python_backend.simulator.driver",
    "python_backend.simulator.fluid",
)
GROUP = "ppipe_core"
"""Name of the library that holds all compiled modules."""
_ROOT = Path(__file__).resolve().parent.parent


def build_folder() -> Path:
    """Where a build of these sources by this Python belongs; it need not exist."""
    digest = hashlib.sha256(sys.version.encode())
    for module in COMPILED_MODULES:
        path = _ROOT / (module.replace(".", "/") + ".py")
        digest.update(path.read_bytes() if path.exists() else b"absent")
    return _ROOT / ".compiled" / digest.hexdigest()[:16]


def compiled_path(package: str) -> list[str]:
    """What to search first for the modules of a subpackage: its compiled ones, or nothing."""
    return [str(_BUILD / package.replace(".", "/"))] if _BUILD is not None else []


def _load_build() -> Path | None:
    """Load the compiled library where there is one that fits; None to run the sources."""
    if os.environ.get("PPIPE_PURE") == "1" or not (_ROOT / ".compiled").is_dir():
        return None
    folder = build_folder()
    name = f"{GROUP}__mypyc"
    path = folder / (name + importlib.machinery.EXTENSION_SUFFIXES[0])
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.exists() or spec is None or spec.loader is None:
        return None
    try:
        library = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(library)
    except ImportError:
        return None
    sys.modules[name] = library
    return folder


_BUILD = _load_build()
IS_COMPILED = _BUILD is not None
"""Whether the scheduler runs compiled."""
