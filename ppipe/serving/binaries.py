"""Finds the two binaries that come from outside: tritonserver and perf_analyzer.

One on PATH wins, as on a production node. Otherwise it is what `scripts/setup` unpacked into the virtual
environment. Nothing is downloaded or started here.

The `environment` of an answer holds only the variables to set: start the binary with
`env=os.environ | install.environment`.
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model_repo_generator.heap import HEAP_VARIABLES


class BinaryMissing(Exception):
    """A binary, or a library it needs, is neither on this machine's paths nor set up."""


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """A tritonserver and how to start it."""

    server: Path
    backend_directory: Path | None
    """For --backend-directory; None where the server knows its own."""
    environment: dict[str, str]

    def command(self) -> list[str]:
        """The start of its command line."""
        backends = [] if self.backend_directory is None else [f"--backend-directory={self.backend_directory}"]
        return [str(self.server), *backends]


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """A perf_analyzer and how to start it."""

    path: Path
    environment: dict[str, str]


def find_tritonserver() -> TritonInstall:
    """The tritonserver to use, with a Python backend whose models run in this very Python environment.

    A server on PATH brings its own stub, so its Python and this one must be of one minor version.
    Raises BinaryMissing.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return TritonInstall(Path(on_path), None, HEAP_VARIABLES | _search_paths())
    root = _unpacked()
    home = root / "pytriton" / "tritonserver"
    server = _require(home / "bin" / "tritonserver")
    backends = home / "backends"
    _require(backends / "python" / "triton_python_backend_stub")
    libraries = (root / "nvidia_pytriton.libs", _libpython_folder(_libpython_candidates()))
    return TritonInstall(server, backends, HEAP_VARIABLES | _search_paths(libraries))


def find_perf_analyzer() -> PerfAnalyzer:
    """The perf_analyzer to use. Raises BinaryMissing."""
    on_path = shutil.which("perf_analyzer")
    if on_path is not None:
        return PerfAnalyzer(Path(on_path), {})
    home = _unpacked() / "perf_analyzer"
    return PerfAnalyzer(_require(home / "perf_analyzer"), _library_path([home / "lib"]))


def _unpacked() -> Path:
    """Where scripts/setup unpacks binaries."""
    return Path(sys.prefix) / "triton"


def _require(path: Path) -> Path:
    if not path.is_file():
        raise BinaryMissing(f"{path.name} is neither on PATH nor at {path}: run scripts/setup")
    return path


def _search_paths(libraries: Iterable[Path] = ()) -> dict[str, str]:
    """The stub takes the environment of the first python3 on PATH, which therefore must be ours."""
    executables = _joined([Path(sys.executable).parent], os.environ.get("PATH"))
    return {"PATH": executables, **_library_path(libraries)}


def _library_path(folders: Iterable[Path]) -> dict[str, str]:
    joined = _joined(folders, os.environ.get("LD_LIBRARY_PATH"))
    return {"LD_LIBRARY_PATH": joined} if joined else {}


def _joined(first: Iterable[Path], rest: str | None) -> str:
    return os.pathsep.join([*map(str, first), *([rest] if rest else [])])


def _libpython_candidates() -> list[Path]:
    """The interpreter's own library folder, then the system's (Debian: package libpython3.X)."""
    own = sysconfig.get_config_var("LIBDIR")
    architecture = sysconfig.get_config_var("MULTIARCH")
    system = f"/usr/lib/{architecture}" if architecture else None
    return [Path(folder) for folder in (own, system) if folder]


def _libpython_folder(candidates: Iterable[Path]) -> Path:
    """The folder that holds the libpython that the stub is linked with."""
    library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = list(candidates)
    for folder in folders:
        if (folder / library).is_file():
            return folder
    raise BinaryMissing(
        f"{library} is in none of {', '.join(map(str, folders))}, and the Python backend needs it: "
        "use a Python built with --enable-shared, or run scripts/setup to get Debian's"
    )
