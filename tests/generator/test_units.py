"""systemd units: one for each host, read by systemd's own tools, with no more rights than serving takes."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from model_repo_generator.systemd import UnitFault, UnitOptions, render_units
from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from ppipe.cli import run
from tests.golden.cases import three_hosts


@pytest.fixture
def manifest() -> DeploymentManifest:
    return three_hosts()


def settings(text: str) -> dict[str, dict[str, str]]:
    """A unit's last value of each setting, by section."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def test_systemd_finds_no_fault(manifest: DeploymentManifest, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    ppipe = tmp_path / "ppipe"
    ppipe.write_text("#!/bin/sh\n")
    ppipe.chmod(0o755)
    for path, text in render_units(manifest, UnitOptions()).items():
        unit = tmp_path / Path(path).parent.name / Path(path).name
        unit.parent.mkdir()
        unit.write_text(text.replace("/opt/ppipe/bin/ppipe", str(ppipe)))
        done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
        about_it = [line for line in (done.stderr + done.stdout).splitlines() if unit.name in line]
        assert (done.returncode, about_it) == (0, [])


def test_a_unit_is_exposed_as_little_as_one_that_listens_can_be(
    manifest: DeploymentManifest, tmp_path: Path
) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    for path, text in render_units(manifest, UnitOptions()).items():
        unit = tmp_path / Path(path).parent.name / Path(path).name
        unit.parent.mkdir()
        unit.write_text(text)
        command = [analyze, "security", "--offline=true", "--no-pager", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"exposure level for \S+: (\d+\.\d+)", done.stdout)
        assert found, done.stdout + done.stderr
        assert float(found[1]) < 2.5, "OK by systemd's own scale"


def test_only_hosts_with_gpus_get_their_devices(manifest: DeploymentManifest) -> None:
    units = render_units(manifest, UnitOptions())
    with_gpus = units["10.0.0.2/ppipe-street.service"]
    without = units["10.0.0.1/ppipe-street.service"]
    assert "DeviceAllow=char-nvidia-uvm rw" in with_gpus
    assert "PrivateDevices" not in settings(with_gpus)["Service"]
    assert settings(without)["Service"]["PrivateDevices"] == "yes"
    assert "DeviceAllow" not in without


def test_a_unit_serves_its_host_and_stops_what_it_started(manifest: DeploymentManifest) -> None:
    options = UnitOptions(ppipe=Path("/usr/bin/ppipe"), user="cams", old_triton=True)
    service = settings(render_units(manifest, options)["fd00--7/ppipe-street.service"])["Service"]
    assert service["ExecStart"] == (
        "/usr/bin/ppipe serve /srv/ppipe/street/repository --host fd00::7 "
        "--ticket-keys /etc/ppipe/street.keys --work /var/lib/ppipe-street --old-triton"
    )
    assert service["User"] == service["Group"] == "cams"
    assert service["KillMode"] == "mixed"


def test_a_unit_may_write_the_folder_that_hosts_share_where_there_is_one(
    manifest: DeploymentManifest,
) -> None:
    fleet = Path("/srv/ppipe/three/fleet")
    for text in render_units(manifest, UnitOptions(fleet=fleet)).values():
        service = settings(text)["Service"]
        assert f"--fleet {fleet}" in service["ExecStart"]
        assert service["ReadWritePaths"] == str(fleet)
    for text in render_units(manifest, UnitOptions()).values():
        assert "--fleet" not in text
        assert "ReadWritePaths" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (UnitOptions(ppipe=Path("bin/ppipe")), "--ppipe 'bin/ppipe': expected an absolute path"),
        (UnitOptions(repository=Path("/srv/a b")), "--repository '/srv/a b': expected an absolute path"),
        (UnitOptions(ticket_keys=Path("/etc/a;b")), "--ticket-keys '/etc/a;b'"),
        (UnitOptions(ppipe=Path("/home/me/.venv/bin/ppipe")), "units see nothing below /home"),
        (UnitOptions(user="root"), "--user 'root': expected a user of its own"),
        (UnitOptions(user="a b"), "--user 'a b'"),
    ],
)
def test_units_that_would_not_start_or_be_safe_are_not_made(
    manifest: DeploymentManifest, options: UnitOptions, said: str
) -> None:
    with pytest.raises(UnitFault, match=re.escape(said)):
        render_units(manifest, options)


def test_the_command_writes_a_folder_for_each_host(
    manifest: DeploymentManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / MANIFEST_NAME).write_text(serial.dumps(manifest))
    command = ["units", str(tmp_path / "repository"), "-o", str(tmp_path / "units")]
    assert run(command) == 0
    assert sorted(path.parent.name for path in tmp_path.glob("units/*/*.service")) == [
        "10.0.0.1", "10.0.0.2", "fd00--7",
    ]  # fmt: skip
    assert run([*command, "--user", "root"]) == 1
    assert "a user of its own" in " ".join(capsys.readouterr().err.split())
