"""`ppipe generate` on the command line: a plan that is not of this deployment, rehearsals, --check."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.profile import Profile
from ppipe.cli import run


@pytest.fixture
def emulated(data: dict[str, Any], profile: Profile, tmp_path: Path) -> dict[str, Any]:
    """Planned and generated in tmp_path/work; nothing has to be exported."""
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    write(tmp_path, data)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "profile.json").write_text(serial.dumps(profile))
    for step in (("plan", "--margin", "0.4"), ("generate",)):
        assert command(tmp_path, *step) == 0
    return data


def write(folder: Path, data: dict[str, Any]) -> None:
    (folder / "street.yaml").write_text(yaml.safe_dump(data))


def command(folder: Path, *arguments: str) -> int:
    return run([arguments[0], str(folder / "street.yaml"), "--work", str(folder / "work"), *arguments[1:]])


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", [[], ["--check"]])
def test_a_changed_slo_is_refused_with_both_values_and_what_to_run(
    emulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    emulated["models"][0]["slo_ms"] = 60
    write(tmp_path, emulated)
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert command(tmp_path, "generate", *option) == 1
    said = capsys.readouterr().err
    assert "models.net.slo_ms: " in said
    assert "60" in said
    assert "made for 100" in said
    assert "plan again" in said
    assert snapshot(tmp_path) == before


def test_check_finds_a_changed_weight_and_generate_only_tells_of_it(
    emulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulated["models"][0]["weight"] = 3
    write(tmp_path, emulated)
    said = "models.net.weight: now 3, but the plan was made for 1"
    assert command(tmp_path, "generate", "--check") == 1
    assert f"ppipe: error: {said}\n" in capsys.readouterr().err
    assert command(tmp_path, "generate") == 0
    assert f"note: {said}\n" in capsys.readouterr().err


def test_a_margin_from_the_command_line_is_no_fault(
    emulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, "plan", "--margin", "0.2") == 0
    assert command(tmp_path, "generate") == 0
    assert command(tmp_path, "generate", "--check") == 0
    assert "note: planner.slo_margin: now 0.4, but the plan was made for 0.2" in capsys.readouterr().err


def test_a_rehearsal_is_beside_the_repository_and_checked_by_itself(
    emulated: dict[str, Any], tmp_path: Path
) -> None:
    before = snapshot(tmp_path / "work" / "repository")
    rehearse = ("--rehearse", "emulated", "--workers-per-pool", "1", "--slower", "5")
    assert command(tmp_path, "generate", *rehearse) == 0
    assert command(tmp_path, "generate", "--check", *rehearse) == 0
    assert command(tmp_path, "generate", "--check", *rehearse[:-1], "6") == 1
    assert snapshot(tmp_path / "work" / "repository") == before
    manifest = serial.load(DeploymentManifest, tmp_path / "work" / "rehearsal" / MANIFEST_NAME)
    assert manifest.models[0].served.slo_us == 500_000


@pytest.mark.parametrize("option", [["--slower", "2"], ["--workers-per-pool", "1"], ["--rehearse", "gpu"]])
def test_options_of_a_rehearsal_that_make_no_sense_are_named(
    emulated: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert command(tmp_path, "generate", *option) == 1
    assert option[0] in capsys.readouterr().err
