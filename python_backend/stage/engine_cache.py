"""Where TensorRT's engines are kept, and for how long: building one takes minutes.

    <cache>/<kind of GPU>-<driver>/<SHA-256 of the program>/

Rules
- An engine is of one kind of GPU, one driver and one program: ONNX Runtime names it after the graph, without
  its weights, so each program has a folder of its own.
- What nobody has opened for KEPT_S goes when a stage opens another: engines of earlier drivers, weights and
  cuts would fill the disk. Of the cache nothing else is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from pathlib import Path
from typing import Final

CACHE: Final = "PPIPE_ENGINE_CACHE"
"""Environment variable: the folder of TensorRT's engines. Default: ~/.cache/ppipe/engines."""
KEPT_S: Final = 60 * 86_400.0
_PROC: Final = Path("/proc/driver/nvidia")
_PROGRAM: Final = re.compile(r"[0-9a-f]{64}")


def engines_of(program: bytes, number: int) -> Path:
    """The folder of a program's engines for GPU `number` of this host; it is made, and counts as opened now.
    Raises OSError.
    """
    engines = engine_folder(number) / hashlib.sha256(program).hexdigest()
    engines.mkdir(parents=True, exist_ok=True)
    os.utime(engines)
    forget_old(engines.parent.parent, time.time())
    return engines


def forget_old(cache: Path, now_s: float) -> None:
    """Remove what nobody has opened for KEPT_S, and kinds of GPU and driver of which nothing is left. What
    cannot be removed stays.
    """
    for kind in cache.iterdir():
        programs = _programs(kind)
        old = [each for each in programs if _opened_s(each) < now_s - KEPT_S]
        for each in old:
            shutil.rmtree(each, ignore_errors=True)
        if old and len(old) == len(programs):
            shutil.rmtree(kind, ignore_errors=True)


def engine_folder(number: int, proc: Path = _PROC) -> Path:
    """Where engines for GPU `number` of this host lie: one folder for each kind of GPU and driver."""
    root = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "ppipe" / "engines")
    return root / f"{_gpu_name(number, proc)}-{_driver(proc)}"


def _gpu_name(number: int, proc: Path) -> str:
    """As the driver says it; 'gpu' where it does not."""
    files = sorted(proc.glob("gpus/*/information"))
    text = files[number].read_text(encoding="utf-8") if number < len(files) else ""
    found = re.search(r"^Model:\s*(.+)$", text, re.MULTILINE)
    return re.sub(r"[^A-Za-z0-9]+", "-", found[1]).strip("-") if found else "gpu"


def _driver(proc: Path) -> str:
    try:
        text = (proc / "version").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"\b\d{3,4}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else "unknown"


def _programs(kind: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [each for each in kind.iterdir() if _PROGRAM.fullmatch(each.name) and each.is_dir()]
    return []


def _opened_s(engines: Path) -> float:
    """Now, for one that another process removes meanwhile."""
    try:
        return engines.stat().st_mtime
    except OSError:
        return float("inf")
