"""`ppipe kubernetes` and `ppipe compose`: files to files, and messages instead of tracebacks."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from model_repo_generator.kubernetes import KubernetesOptions, render_bundle
from planner.deployment import Deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from planner.profile import Profile
from ppipe.cli import run
from ppipe.workspace import Workspace, save
from tests.kubernetes.conftest import deployment_data, model_profile


@pytest.fixture
def work(tmp_path: Path, fleet_manifest: DeploymentManifest, fleet_plan: Plan) -> Path:
    """A deployment file and what profile, plan and generate have left."""
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(deployment_data()))
    workspace = Workspace(tmp_path / "work")
    save(Profile(models=(model_profile("cars"), model_profile("faces"))), workspace.profile)
    save(fleet_plan, workspace.plan)
    save(fleet_manifest, workspace.repository / MANIFEST_NAME)
    return tmp_path


def command(name: str, work: Path, *words: str) -> int:
    return run([name, str(work / "deployment.yaml"), "--work", str(work / "work"), *words])


def test_kubernetes_writes_the_bundle(
    work: Path,
    fleet_manifest: DeploymentManifest,
    fleet_deployment: Deployment,
    fleet_plan: Plan,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = work / "out"
    assert command("kubernetes", work, "--image", "triton:1", "--namespace", "vision", "-o", str(folder)) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    options = KubernetesOptions(image="triton:1", namespace="vision")
    for path, text in render_bundle(fleet_manifest, fleet_deployment, fleet_plan, options).items():
        assert (folder / path).read_text() == text


def test_an_edited_file_is_not_overwritten(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--image", "triton:1")
    assert command("kubernetes", work, *words) == 0
    edited = work / "work" / "kubernetes" / "services.yaml"
    edited.write_text("mine")
    assert command("kubernetes", work, *words) == 1
    assert "services.yaml" in capsys.readouterr().err
    assert edited.read_text() == "mine"
    assert command("kubernetes", work, *words, "--force") == 0


def test_faults_are_messages(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("kubernetes", work) == 1
    assert "options: image: Field required; give it with --image" in capsys.readouterr().err
    assert command("compose", work, "--image", "not an image") == 1
    assert "options: image: 'not an image' is not an image reference" in capsys.readouterr().err
    (work / "work" / "repository" / MANIFEST_NAME).unlink()
    assert command("kubernetes", work, "--image", "triton:1") == 1
    assert "make it with ppipe generate" in " ".join(capsys.readouterr().err.split())


def test_hosts_prints_a_cluster_that_parses(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("kubernetes", work, "--hosts") == 0
    printed: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    data = deployment_data()
    assert printed["cluster"]["entry"] == data["cluster"]["entry"]
    assert [group["servers"] for group in printed["cluster"]["groups"]] == [
        group["servers"] for group in data["cluster"]["groups"]
    ]


def test_compose_mounts_the_repository_from_where_it_is(work: Path) -> None:
    assert command("compose", work, "--image", "triton:1", "-o", str(work / "out")) == 0
    document = yaml.safe_load((work / "out" / "compose.yaml").read_text())
    source = document["services"]["entry"]["volumes"][0]["source"]
    assert Path(source) == work / "work" / "repository"
    assert (work / "out" / "launch" / "servers.json").is_file()
