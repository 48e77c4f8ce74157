"""A repository for other versions is refused with both named; what does not matter is not asked."""

import platform

import pytest

from python_backend.triton.versions import VersionMismatch, check_versions, installed_versions

PYTHON = platform.python_version()


def test_the_same_versions_pass_whatever_the_patch_and_the_build() -> None:
    import importlib.metadata

    torch = importlib.metadata.version("torch").partition("+")[0]
    check_versions({"python": ".".join(PYTHON.split(".")[:2]), "torch": torch}, runs_programs=True)
    check_versions({"torch": ".".join([*torch.split(".")[:2], "99+cu126"])}, runs_programs=True)


def test_another_torch_is_refused_with_both_named_where_programs_run() -> None:
    with pytest.raises(VersionMismatch, match=r"generated for torch 1\.0\.1, but this server has torch 2\."):
        check_versions({"torch": "1.0.1"}, runs_programs=True)
    check_versions({"torch": "1.0.1"}, runs_programs=False)


def test_another_python_is_refused() -> None:
    with pytest.raises(VersionMismatch, match=rf"python 3\.1, but this server has python {PYTHON}"):
        check_versions({"python": "3.1"}, runs_programs=False)


def test_a_repository_is_of_no_release_of_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_SERVER_VERSION", "2.40.0")
    check_versions({"triton": "2.51.0"}, runs_programs=True)
    assert "triton" not in installed_versions()
