"""scripts/ci-regenerate: what a pull request gets to see, and what stops it."""

import copy
import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner import serial
from planner.deployment import parse_deployment
from planner.plan import Plan
from planner.planning import plan as make_plan
from planner.profile import Profile
from ppipe import regenerate
from ppipe.cli import run
from ppipe.workspace import Workspace, save
from python_backend import compiled
from tests.kubernetes.conftest import deployment_data, model_profile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data() -> dict[str, Any]:
    """Emulated GPUs only: no program has to be exported."""
    data = copy.deepcopy(deployment_data())
    data["cluster"]["gpu_classes"] = [data["cluster"]["gpu_classes"][2]]
    group = data["cluster"]["groups"][2]
    group["servers"].append({**group["servers"][0], "name": "fake-1", "host": "street-fake-1"})
    data["cluster"]["groups"] = [group]
    data["models"] = data["models"][:1]
    data["planner"] = {"slo_margin": 0.4}
    return data


@pytest.fixture
def folder(tmp_path: Path, data: dict[str, Any]) -> Path:
    """A deployment that was never generated."""
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(data))
    save(Profile(models=(model_profile("cars"),)), Workspace(tmp_path).profile)
    return tmp_path


def change_slo(folder: Path, data: dict[str, Any], slo_ms: float) -> None:
    data["models"][0]["slo_ms"] = slo_ms
    (folder / "deployment.yaml").write_text(yaml.safe_dump(data))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_first_run_makes_all_and_the_second_changes_nothing(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "changes.md"
    assert regenerate.main([str(folder), "--summary", str(report)]) == 0
    text = report.read_text()
    assert "| added | cars_body | on entry |" in text
    assert "| cars | 100.0% |" in text
    assert "Lint: no findings." in text
    report.unlink()
    made = snapshot(folder)
    assert regenerate.main([str(folder)]) == 0
    assert regenerate.main([str(folder), "--check"]) == 0
    assert snapshot(folder) == made


def test_a_changed_deployment_is_planned_anew(
    folder: Path, data: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path_factory: Any
) -> None:
    page = tmp_path_factory.mktemp("reports") / "cars.html"
    assert regenerate.main([str(folder), "--report", str(page)]) == 0
    assert 'id="differences"' not in page.read_text(encoding="utf-8"), "there was no plan before"
    old = serial.load(Plan, folder / "plan.json")
    change_slo(folder, data, 60)
    before = snapshot(folder)
    assert regenerate.main([str(folder), "--check", "--report", str(page)]) == 1
    text = page.read_text(encoding="utf-8")
    assert "A: before. B: now." in text
    assert 'class="changed' in text
    assert "deployment.json" in capsys.readouterr().err
    assert snapshot(folder) == before, "--check must change nothing"
    assert regenerate.main([str(folder)]) == 0
    new = serial.load(Plan, folder / "plan.json")
    assert (old.models[0].slo_us, new.models[0].slo_us) == (100_000, 60_000)
    assert regenerate.main([str(folder), "--check"]) == 0


def test_a_plan_that_somebody_chose_stays(folder: Path) -> None:
    assert regenerate.main([str(folder)]) == 0
    plan = serial.load(Plan, folder / "plan.json")
    chosen = dataclasses.replace(plan, planner="by hand")
    save(chosen, folder / "plan.json")
    assert regenerate.main([str(folder)]) == 0
    assert serial.load(Plan, folder / "plan.json") == chosen


def test_a_changed_port_leaves_a_plan_with_the_margin_that_its_option_gave(
    folder: Path, data: dict[str, Any]
) -> None:
    file = folder / "deployment.yaml"
    assert run(["plan", str(file), "--work", str(folder), "--margin", "0.3"]) == 0
    assert regenerate.main([str(folder)]) == 0
    chosen = (folder / "plan.json").read_bytes()
    data["cluster"]["groups"][0]["servers"][0]["http_port"] = 9123
    file.write_text(yaml.safe_dump(data))
    assert regenerate.main([str(folder), "--check"]) == 1, "the repository names the port"
    assert regenerate.main([str(folder)]) == 0
    assert (folder / "plan.json").read_bytes() == chosen
    assert regenerate.main([str(folder), "--check"]) == 0


def test_an_edited_repository_stops_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert regenerate.main([str(folder)]) == 0
    edited = folder / "repository" / "groups" / "entry" / "cars" / "config.pbtxt"
    edited.write_text("# mine\n")
    assert regenerate.main([str(folder)]) == 1
    assert "groups/entry/cars/config.pbtxt' was edited" in capsys.readouterr().err
    assert edited.read_text() == "# mine\n"


def test_low_attainment_stops_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice the planned rate cannot be served."""
    assert regenerate.main([str(folder), "--load", "2"]) == 1
    assert "**Not to be merged:**" in capsys.readouterr().out


def test_faults_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "profile.json").unlink()
    assert regenerate.main([str(folder)]) == 1
    assert "make it with ppipe profile" in capsys.readouterr().err


def test_the_bundle_is_kept_up_to_date_where_there_are_options(folder: Path, data: dict[str, Any]) -> None:
    (folder / "kubernetes.yaml").write_text("image: registry.example/ppipe:24.10\n")
    assert regenerate.main([str(folder)]) == 0
    assert (folder / "kubernetes" / "kustomization.yaml").is_file()
    assert regenerate.main([str(folder), "--check"]) == 0
    (folder / "kubernetes.yaml").write_text("image: registry.example/ppipe:24.11\n")
    assert regenerate.main([str(folder), "--check"]) == 1
    assert regenerate.main([str(folder)]) == 0
    assert "24.11" in (folder / "kubernetes" / "servers-street-entry-server.yaml").read_text()


def test_the_script_takes_several_folders_and_makes_a_page_of_each(
    folder: Path, data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    script, reports = ROOT / "scripts" / "ci-regenerate", tmp_path_factory.mktemp("ci") / "reports"
    ended = subprocess.run([script, folder, "/nowhere"], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "| added | cars_body | on entry |" in ended.stdout
    assert "/nowhere/deployment.yaml" in ended.stderr
    assert subprocess.run([script], capture_output=True, timeout=60).returncode == 2
    change_slo(folder, data, 60)
    command = [script, "--reports", reports, "--check", folder]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 1
    (page,) = reports.iterdir()
    assert page.name == f"{folder.name}.html"
    text = page.read_text(encoding="utf-8")
    assert "A: before. B: now." in text
    assert 'class="changed' in text


def test_the_workflow_runs_the_script() -> None:
    workflow = yaml.safe_load((ROOT / "docs" / "ci" / "regenerate.yml").read_text())
    triggers = workflow[True]  # YAML 1.1 reads `on` as true
    assert "deployments/**/deployment.yaml" in triggers["pull_request"]["paths"]
    steps = [step.get("run", "") for step in workflow["jobs"]["regenerate"]["steps"]]
    assert sum("ppipe/scripts/ci-regenerate" in step for step in steps) == 2
    compiling = next(step for step in steps if "pip install" in step)
    assert compiling.splitlines()[1] == f"python -m {compiled.__name__}", "margins are searched compiled"
    assert not any("${{" in step for step in steps), "texts of a pull request stay out of shell commands"


def test_a_cascades_whole_frames_are_what_is_simulated(data: dict[str, Any]) -> None:
    """Members by themselves see neither bunches of crops nor frames that lack one."""
    data["cluster"]["groups"][0]["gpus_per_server"] = 4
    data["models"] = [{**data["models"][0], "name": name} for name in ("cars", "faces", "signs")]
    for model in data["models"][:2]:
        del model["slo_ms"]
    members = [{"model": "cars"}, {"model": "faces", "of": "cars", "count": 3, "make": "a.b:c"}]
    data["cascades"] = [{"name": "seen", "slo_ms": 100, "models": members}]
    deployment = parse_deployment(data, "test")
    profile = Profile(models=tuple(model_profile(one["name"]) for one in data["models"]))
    plan = make_plan(deployment.to_problem(profile), mode="fast")
    quiet, busy = (regenerate.attained(deployment, profile, plan, load) for load in (0.3, 2.0))
    assert set(quiet) == set(busy) == {"seen", "signs"}
    assert quiet["seen"] > 0.99 > 0.7 > busy["seen"]
