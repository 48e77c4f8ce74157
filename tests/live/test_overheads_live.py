"""What stages and hops cost beside computing, of two real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.manifest import DeploymentManifest
from planner.serial import load
from ppipe.overheads.measured import measure_there
from ppipe.overheads.rig import addresses_of, write_rig
from ppipe.serving.launcher import ServedDeployment
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE

pytestmark = pytest.mark.live

SIZES = (4_096, 4_194_304)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_overheads_of_two_real_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repository = tmp_path / "repository"
    manifest = write_rig(repository, SIZES)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "logs" / "ticket.key"))
    with ServedDeployment(repository, tmp_path / "logs") as deployment:
        deployment.start()
        found = measure_there(addresses_of(manifest), repository, None, SIZES, repeats=30)
    assert load(DeploymentManifest, repository / "deployment.json") == manifest, (
        "the rig that is served is used"
    )
    assert found.times.one_stage_us > 0
    assert found.times.two_stages_us[4_096] > found.times.one_stage_us
    assert 0 < found.overheads.stage_us < found.times.one_stage_us
    assert found.overheads.hop_us > 0
