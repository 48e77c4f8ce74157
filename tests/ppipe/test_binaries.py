"""ppipe.serving.binaries against made-up folders; tests/live/test_binaries_live.py starts the real ones."""

import os
import sys
from pathlib import Path

import pytest

from ppipe.serving.binaries import BinaryMissing, find_perf_analyzer, find_tritonserver

LIBPYTHON = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


@pytest.fixture(autouse=True)
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that holds nothing, with nothing on PATH."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python3"))
    monkeypatch.setattr("sysconfig.get_config_var", {"LIBDIR": str(tmp_path / "lib")}.get)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return tmp_path / "venv"


@pytest.fixture
def unpacked(prefix: Path, tmp_path: Path) -> Path:
    """What scripts/setup leaves behind, and a Python with a shared library."""
    root = prefix / "triton"
    executable(root / "pytriton/tritonserver/bin/tritonserver")
    executable(root / "pytriton/tritonserver/backends/python/triton_python_backend_stub")
    executable(root / "perf_analyzer/perf_analyzer")
    executable(tmp_path / "lib" / LIBPYTHON)
    return root


def test_a_server_on_path_wins_and_keeps_its_own_backends(unpacked: Path, tmp_path: Path) -> None:
    server = executable(tmp_path / "path" / "tritonserver")
    install = find_tritonserver()
    assert install.command() == [str(server)]
    assert "LD_LIBRARY_PATH" not in install.environment


def test_the_unpacked_server_comes_with_backends_and_libraries(unpacked: Path, tmp_path: Path) -> None:
    install = find_tritonserver()
    home = unpacked / "pytriton" / "tritonserver"
    assert install.command() == [f"{home}/bin/tritonserver", f"--backend-directory={home}/backends"]
    assert install.environment["LD_LIBRARY_PATH"] == f"{unpacked}/nvidia_pytriton.libs:{tmp_path}/lib"


def test_stubs_find_this_python_first_and_large_messages_are_cheap(unpacked: Path, prefix: Path) -> None:
    environment = find_tritonserver().environment
    assert environment["PATH"] == f"{prefix}/bin:{os.environ['PATH']}"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "1073741824"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "4294967296"
    assert environment["MALLOC_ARENA_MAX"] == "1"


def test_library_folders_of_the_caller_come_after_ours(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/theirs")
    assert find_tritonserver().environment["LD_LIBRARY_PATH"].endswith(f":{tmp_path}/lib:/theirs")


def test_without_a_server_the_error_says_what_to_do() -> None:
    with pytest.raises(BinaryMissing, match=r"tritonserver is neither on PATH nor at .*: run scripts/setup"):
        find_tritonserver()


def test_without_a_shared_libpython_the_error_names_it(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "lib" / LIBPYTHON).unlink()
    with pytest.raises(BinaryMissing, match=rf"{LIBPYTHON} is in none of .*--enable-shared"):
        find_tritonserver()


def test_perf_analyzer_on_path_wins(unpacked: Path, tmp_path: Path) -> None:
    path = executable(tmp_path / "path" / "perf_analyzer")
    assert (find_perf_analyzer().path, find_perf_analyzer().environment) == (path, {})


def test_the_unpacked_perf_analyzer_comes_with_its_libraries(unpacked: Path) -> None:
    analyzer = find_perf_analyzer()
    assert analyzer.path == unpacked / "perf_analyzer" / "perf_analyzer"
    assert analyzer.environment == {"LD_LIBRARY_PATH": f"{unpacked}/perf_analyzer/lib"}


def test_without_perf_analyzer_the_error_says_what_to_do() -> None:
    with pytest.raises(BinaryMissing, match=r"perf_analyzer is neither on PATH nor at .*: run scripts/setup"):
        find_perf_analyzer()
