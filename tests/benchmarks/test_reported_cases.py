"""Inputs that people reported, where their folder is at hand: each gives what is called right for it.

What they stand for is held by made inputs in the tests of lint, profiling, frames, deployments and traces,
and by `scripts/benchmarks wild`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from ensembles.steps import FrameFault, decode
from model_repo_generator.lint.command import main as lint
from planner.deployment import DeploymentError, load_deployment, parse_deployment
from planner.profiling.networks.checked import checked_program
from planner.profiling.networks.errors import ModelError
from python_backend.simulator.arrivals import ArrivalError, read_trace

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"the folder of reported cases {CASES} is absent")


def case(start: str) -> Path:
    """The folder whose name begins so."""
    (found,) = CASES.glob(f"{start}-*")
    return found


def linted(
    folder: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[dict[str, set[str]], list[dict[str, str]]]:
    """Models by level, and all findings."""
    lint(["--json", *options, str(folder)])
    findings = json.loads(capsys.readouterr().out)["findings"]
    levels: dict[str, set[str]] = {"error": set(), "warning": set()}
    for each in findings:
        levels[each["level"]].add(each["model"] or each["file"].partition("/")[0])
    return levels, findings


def test_partial_configurations_are_left_to_a_backend_that_completes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = case("A-1") / "repository"
    levels, _ = linted(repository, capsys, "--auto-complete")
    assert levels["error"] == set()
    assert levels["warning"] <= {"decode_resize", "decode_video"}
    levels, findings = linted(repository, capsys)
    assert levels["error"] == {"decode_resize", "decode_video"}
    assert {each["code"] for each in findings} == {"dims", "data-type"}


@pytest.mark.parametrize("options", [(), ("--auto-complete", "--backend", "pytorch")])
def test_a_class_with_the_python_runtime_needs_no_script(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    levels, findings = linted(case("A-2") / "repository", capsys, *options)
    assert levels["error"] == {"broken_nothing"}
    (broken,) = (each["message"] for each in findings if each["model"] == "broken_nothing")
    assert "model.py" in broken
    assert "model.pt" in broken


def test_initial_states_are_checked_as_the_server_does(capsys: pytest.CaptureFixture[str]) -> None:
    levels, findings = linted(case("A-4") / "repository", capsys)
    told = levels["error"] | levels["warning"]
    assert told == {
        "no_name", "no_file", "short_file", "variable", "other_type", "rank", "two", "swapped",
    }  # fmt: skip
    effects = {each["model"]: each["effect"] for each in findings}
    assert effects.pop("swapped") == "misbehaves"
    assert set(effects.values()) == {"refused"}


@pytest.mark.parametrize("options", [(), ("--auto-complete",)])
def test_strays_are_findings_and_models_are_not(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    levels, _ = linted(case("A-6") / "repository", capsys, *options)
    assert levels["error"] == {".ipynb_checkpoints", "reports"}


REFUSED = {
    "squeeze": r"net\.py:\d+.*flatten\(1\)|squeeze\(\(2, 3\)\)",
    "gate": r"net\.py:\d+.*squeeze",
    "branch": r"net\.py:\d+.*branch on the batch size",
    "dataclass": r"register_dataclass",
    "anchors": r"output_2.*the same for every frame",
}
"""By file, and what is said; all others are taken."""


def networks() -> list[tuple[str, str]]:
    starts = ("B-1", "B-3", "B-6") if CASES.is_dir() else ()
    return [(start, file.stem) for start in starts for file in sorted(case(start).glob("*.yaml"))]


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Each folder has a module `net` of its own."""
    sys.modules.pop("net", None)
    yield monkeypatch
    sys.modules.pop("net", None)


@pytest.mark.parametrize(("start", "name"), networks())
def test_networks_are_taken_or_refused_in_one_line(
    start: str, name: str, own_module: pytest.MonkeyPatch
) -> None:
    own_module.syspath_prepend(case(start))
    (spec,) = load_deployment(case(start) / f"{name}.yaml").models
    if name not in REFUSED:
        checked_program(spec)
        return
    with pytest.raises(ModelError) as caught:
        checked_program(spec)
    assert "\n" not in str(caught.value)
    assert re.search(REFUSED[name], str(caught.value)), caught.value


def made_by(folder: Path, into: Path) -> Path:
    """What the folder's make.py writes."""
    subprocess.run([sys.executable, str(folder / "make.py"), str(into)], check=True, timeout=120)
    return into


MAY_BE_EITHER = ("answered or refused", "or refused", "or scaled")


def test_frames_are_decoded_rightly_or_refused(tmp_path: Path) -> None:
    folder = made_by(case("C-3"), tmp_path)
    for name, wanted in json.loads((folder / "expected.json").read_text()).items():
        try:
            frame = decode((folder / name).read_bytes(), (128, 128))
        except FrameFault:
            assert "refused" in wanted["answer"], name
            continue
        either = any(each in wanted["answer"] for each in MAY_BE_EITHER)
        assert either or "refused" not in wanted["answer"], name
        if wanted["pixel"]:
            across, down, colour, tolerance = wanted["pixel"]
            found = frame[int(down * (frame.shape[0] - 1)), int(across * (frame.shape[1] - 1))]
            assert np.abs(found.astype(int) - colour).max() <= tolerance, name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pools", ""),
        ("class-without-servers", ""),
        ("pool-at-zero", r"groups\.1\.count: a pool without servers is left out"),
        ("bandwidth-as-the-catalogue-says", r"cluster\.groups\.0\.bandwidth_gbps: .*number"),
    ],
)
def test_pools_of_one_class(name: str, said: str) -> None:
    if said:
        with pytest.raises(DeploymentError, match=said):
            load_deployment(case("D-1") / f"{name}.yaml")
        return
    servers = [server.name for server in load_deployment(case("D-1") / f"{name}.yaml").to_cluster().servers]
    assert len(set(servers)) == len(servers)


def test_hosts_and_ports() -> None:
    text = (case("D-4") / "try.py").read_text(encoding="utf-8")
    (table,) = re.findall(r"^HOSTS = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)
    for host, wanted in eval(table):
        plain = yaml.safe_load((case("D-4") / "base.yaml").read_text(encoding="utf-8"))
        groups = plain["cluster"]["groups"]
        for owner in (plain["cluster"]["entry"], *(s for group in groups for s in group["servers"])):
            owner["host"] = host
        try:
            parse_deployment(plain, "base.yaml").to_cluster()
        except DeploymentError:
            assert "refused" in wanted or wanted == "as ::1", host
        else:
            assert not wanted.startswith("refused") or " or " in wanted, host
    with pytest.raises(DeploymentError) as caught:
        load_deployment(case("D-4") / "ports.yaml")
    assert re.search(r"18006 of 10\.0\.0\.7.*8000 of 10\.0\.0\.9", str(caught.value))


def test_traces(tmp_path: Path) -> None:
    folder = made_by(case("D-5"), tmp_path)
    shutil.copy(folder / "plain.csv", tmp_path / "control.csv")
    for name, wanted in json.loads((folder / "wanted.json").read_text()).items():
        try:
            stamps = read_trace(folder / name)
        except ArrivalError:
            assert "refused" in wanted["verdict"], name
            continue
        assert wanted["verdict"].startswith("accepted") or "or accepted" in wanted["verdict"], name
        gaps = np.diff(stamps)
        assert (len(stamps), gaps.std() / gaps.mean() > 5) == (200, True), name
