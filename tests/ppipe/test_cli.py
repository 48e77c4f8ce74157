"""The command line on bad input: one clear message, status 1, nothing touched. No server is started here."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from planner import serial
from planner.deployment import load_deployment
from planner.manifest import MANIFEST_NAME, DeploymentManifest, ServerAddress
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec
from ppipe.cli import app, is_the_users, run
from ppipe.commands.demo import on_free_ports
from ppipe.serving.ports import PortInUse, free_base
from ppipe.serving.server_command import NotLocal, cluster_ports

DEPLOYMENT = {
    "name": "small",
    "planner": {"slo_margin": 0.4},
    "cluster": {
        "base_port": 27_000,
        "gpu_classes": [
            {"name": "fast", "executor": "emulated", "stated": {"gflop_per_s": 1, "gbyte_per_s": 1}},
            {"name": "slow", "executor": "emulated", "stated": {"gflop_per_s": 1, "gbyte_per_s": 1}},
        ],
        "groups": [
            {"gpu": "fast", "count": 1, "gpus_per_server": 1},
            {"gpu": "slow", "count": 1, "gpus_per_server": 2},
        ],
    },
    "models": [
        {
            "name": "net",
            "program": {"factory": "tests.ppipe.test_cli:Branching"},
            "input": {"name": "image", "dtype": "FP32", "shape": [3, 8, 8]},
            "slo_ms": 100,
            "batch_sizes": [1],
        }
    ],
}
IMAGE = TensorSpec(name="image", dtype="FP32", shape=(3, 8, 8))
CUT = TensorSpec(name="cut", dtype="FP32", shape=(4,))
SCORES = TensorSpec(name="scores", dtype="FP32", shape=(10,))


def Branching() -> object:  # noqa: N802 - it stands for a class
    """A network whose control flow depends on the data, which torch.export cannot follow."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return x.mean(dim=(2, 3))
            return x.amax(dim=(2, 3))

    return Net()


@pytest.fixture
def deployment_file(tmp_path: Path) -> Path:
    return write(tmp_path, DEPLOYMENT)


def write(folder: Path, plain: object) -> Path:
    path = folder / "deployment.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def write_profile(work: Path) -> None:
    """Two blocks: 20 ms each on fast, 40 ms each on slow."""
    tables = tuple(
        LatencyTable(
            gpu=gpu, slices_per_gpu=1, batch_sizes=(1,), latency_us=((us,), (us,)), source=Source.STATED
        )
        for gpu, us in (("fast", 20_000.0), ("slow", 40_000.0))
    )
    profile = Profile(
        models=(
            ModelProfile(
                model="net", cut_bytes=(16,), tables=tables, cut_tensors=((CUT,),), inputs=(IMAGE,),
                outputs=(SCORES,), split="abc",
            ),
        )
    )  # fmt: skip
    work.mkdir()
    (work / "profile.json").write_text(serial.dumps(profile))


def fails(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """The message of a command that must fail; one line per fault and nothing on standard output."""
    assert run(list(arguments)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    errors = [line for line in said.err.splitlines() if line.startswith("ppipe: error: ")]
    assert errors, said.err
    assert "Traceback" not in said.err
    return "\n".join(errors)


def test_an_unknown_gpu_class_is_named_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads(json.dumps(DEPLOYMENT))
    plain["cluster"]["groups"][0]["gpu"] = "fsat"
    said = fails(capsys, ["profile", str(write(tmp_path, plain))])
    assert "unknown GPU class 'fsat' (did you mean 'fast'?); gpu_classes has fast, slow" in said


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml: No such file" in fails(capsys, ["plan", str(tmp_path / "nowhere.yaml")])


@pytest.mark.parametrize("command", ["plan", "generate"])
def test_a_step_out_of_turn_says_which_comes_first(
    command: str, deployment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, [command, str(deployment_file), "--work", str(tmp_path / "work")])
    assert "profile.json is not there yet; make it with ppipe profile" in said


def test_serve_without_a_repository_says_how_to_make_one(
    deployment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, ["serve", str(deployment_file), "--work", str(tmp_path / "work")])
    assert "make a repository with ppipe generate" in said


def write_manifest(work: Path, port: int) -> None:
    """One that names an entry server at `port`."""
    entry = ServerAddress(
        name="entry", group="entry", host="127.0.0.1", http_port=port + 1, grpc_port=port,
        metrics_port=port + 2, repository="groups/entry", models=("net",),
    )  # fmt: skip
    manifest = DeploymentManifest(
        deployment="small", epoch=1, plan_hash="", entry=entry, servers=(), models=()
    )
    (work / "repository").mkdir(parents=True)
    (work / "repository" / MANIFEST_NAME).write_text(serial.dumps(manifest))


def test_status_of_what_is_not_running_says_so(
    deployment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(tmp_path / "work", free_base(27_500, 3))
    assert run(["status", str(deployment_file), "--work", str(tmp_path / "work")]) == 1
    said = capsys.readouterr().out
    assert "entry" in said
    assert "0 of 1" in said


def test_an_slo_that_nothing_can_meet_says_what_is_fastest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = json.loads(json.dumps(DEPLOYMENT))
    plain["models"][0]["slo_ms"] = 10
    write_profile(tmp_path / "work")
    said = fails(capsys, ["plan", str(write(tmp_path, plain)), "--work", str(tmp_path / "work")])
    assert "net" in said
    assert "fast" in said
    assert "40" in said


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--planner", "best"), "planner 'best' is not one of ppipe, np, dart-r"),
        (("--mode", "slow"), "mode 'slow' is not one of fast, proven"),
        (("--picture", "plan.jpg"), "--picture: 'plan.jpg' does not end in .png or .svg"),
    ],
)
def test_a_choice_that_is_none_names_the_choices(
    deployment_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: tuple[str, str],
    message: str,
) -> None:
    write_profile(tmp_path / "work")
    said = fails(capsys, ["plan", str(deployment_file), "--work", str(tmp_path / "work"), *option])
    assert said == f"ppipe: error: {message}"
    assert not (tmp_path / "work" / "plan.json").exists()


@pytest.mark.parametrize(
    ("arrivals", "message"),
    [
        ("gamma:cv=-1", "cv -1.0 must be a finite number above 0"),
        ("cameras:speed=3", "'speed=3'; expected fps="),
        ("trace:path=one.csv", "1 arrival time; a trace needs at least two"),
        ("trace:path=nowhere.csv", "nowhere.csv: No such file"),
    ],
)
def test_expected_arrivals_that_cannot_be_are_said_at_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arrivals: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.csv").write_text("0.5\n")
    write_profile(tmp_path / "work")
    plain = DEPLOYMENT | {"expect": {"arrivals": arrivals}}
    said = fails(capsys, ["plan", str(write(tmp_path, plain)), "--work", str(tmp_path / "work")])
    assert said.startswith("ppipe: error: expect.arrivals: ")
    assert message in said
    assert not (tmp_path / "work" / "plan.json").exists()


def test_foreign_files_are_neither_overwritten_nor_deleted(
    deployment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    write_profile(work)
    assert run(["plan", str(deployment_file), "--work", str(work)]) == 0
    capsys.readouterr()
    theirs = work / "repository" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    said = fails(capsys, ["generate", str(deployment_file), "--work", str(work), "--force"])
    assert "notes.txt" in said
    assert [path.name for path in theirs.parent.iterdir()] == ["notes.txt"]
    assert theirs.read_text() == "mine"


def test_a_model_that_cannot_be_exported_names_the_failing_place(
    deployment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(capsys, ["profile", str(deployment_file), "--work", str(tmp_path / "work")])
    assert "net" in said
    assert "test_cli.py" in said or "x.sum()" in said
    assert not (tmp_path / "work" / "profile.json").exists()


def test_a_wrong_command_line_is_status_2(deployment_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(deployment_file), "--load", "much"]) == 2
    assert "--load" in capsys.readouterr().err


def test_every_command_tells_what_it_does() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert (command.callback.__doc__ or "").strip().endswith("."), command.callback


def test_only_our_own_errors_are_the_users() -> None:
    assert is_the_users(PortInUse("x"))
    assert is_the_users(FileNotFoundError("x"))
    assert not is_the_users(KeyError("x"))
    assert not is_the_users(AssertionError("x"))


def test_the_demo_moves_to_free_ports_by_itself_but_not_when_told_where(tmp_path: Path) -> None:
    import socket

    plain = json.loads(json.dumps(DEPLOYMENT))
    plain["cluster"]["base_port"] = free_base(27_000, 20)
    deployment = load_deployment(write(tmp_path, plain))
    assert on_free_ports(deployment, None) == deployment
    taken = cluster_ports(deployment)[4].port
    with socket.create_server(("127.0.0.1", taken)):
        moved = on_free_ports(deployment, None)
        assert taken not in [use.port for use in cluster_ports(moved)]
        with pytest.raises(PortInUse, match=str(taken)):
            on_free_ports(deployment, plain["cluster"]["base_port"])


def test_servers_elsewhere_are_not_started_here(tmp_path: Path) -> None:
    plain = json.loads(json.dumps(DEPLOYMENT))
    plain["cluster"]["groups"][1]["host"] = "gpu-node-7"
    with pytest.raises(NotLocal, match="server 'slow-0': host 'gpu-node-7' is not this machine"):
        on_free_ports(load_deployment(write(tmp_path, plain)), None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_every_context_and_gives_its_status(number: signal.Signals) -> None:
    script = (
        "import contextlib, time, ppipe.signals as s\n"
        "@contextlib.contextmanager\n"
        "def tidy():\n"
        "    try: yield\n"
        "    finally: time.sleep(0.3); print('tidied', flush=True)\n"
        "s.end_on_signals()\n"
        "with tidy():\n"
        "    print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.send_signal(signal.SIGTERM)  # a second one does not cut the tidying short
        assert process.stdout.readline() == "tidied\n"
    assert process.returncode == 128 + number


@pytest.mark.parametrize("name", [None, *sorted(typer.main.get_command(app).commands)])  # type: ignore[attr-defined]
def test_a_command_says_all_of_its_help_in_80_columns(
    name: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    group: Any = typer.main.get_command(app)
    with contextlib.suppress(SystemExit):  # lint's own parser
        run([*([] if name is None else [name]), "--help"])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # colours may be forced
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "…" not in shown
    words = set(re.findall(r"[^\s│]+", shown))
    if name is None:
        assert set(group.commands) <= words
    for option in [] if name in (None, "lint") else group.commands[name].params:
        assert (option.help or "").endswith((".", "]")), f"{option.name}: no sentence of help"
        assert set(option.help.split()) <= words, option.name
        if isinstance(option.show_default, str):
            assert set(option.show_default.split()) <= {word.strip("()[]") for word in words}, option.name
