"""Every example but the demo and README's fleet, whose tests are their own: profile, three planners,
generate, check, lint, serve.

The fleets are of GPUs that are not here. So each example's own repository is generated, checked and linted,
and what is loaded and asked is its rehearsal (ppipe generate --rehearse) on real tritonservers: emulated with
one worker of each pool for the fleets, and with the real programs on the CPU for the workstation, whose
answers must be the unsplit network's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ensembles.steps import top_k
from model_repo_generator.lint.command import main as lint
from planner import serial
from planner.deployment import load_deployment
from planner.manifest import ModelEntry
from planner.plan import Plan
from planner.profile import Profile, Source
from ppipe.bench.frames import make_pictures
from ppipe.bench.reference import make_inputs, make_reference
from ppipe.bench.target import public_request
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from ppipe.workspace import Workspace

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

EXAMPLES = Path(__file__).parents[2] / "ensembles" / "examples"
DEMO = "demo"
FLEET = "three-classes"
READMES = "l4-t4"
"""README's commands go through it: tests/docs/example_fleet.py."""
WORKSTATION = "workstation"
TEXT = "text-detection"
"""Served by test_onnx_live."""
POOLS = "pools"
"""The commands of docs/fleets.md go through it."""
HEAL = "heal"
"""Of ppipe demo --heal: test_heal_demo_live.py, with smaller networks."""
READING = "reading"
"""Of ppipe demo --video: test_demo_live."""
PATIENCE_US = 20_000_000
"""Asked of the dispatcher as a timeout: what is tested here are answers, on machines of any speed."""


def test_every_example_is_tested() -> None:
    tested = {DEMO, FLEET, READMES, WORKSTATION, TEXT, POOLS, HEAL, READING}
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == tested


def example(name: str, folder: Path) -> Path:
    """A copy of the example, with ports that nothing else here has taken, for callers with patience."""
    base_port = free_base(first=25_000, count=100)
    text = (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")
    path = folder / f"{name}.yaml"
    text = re.sub(r"^  base_port: \d+$", f"  base_port: {base_port}", text, flags=re.MULTILINE)
    patient = rf"\1\n    longest_timeout_ms: {PATIENCE_US / 1000:.0f}"
    path.write_text(re.sub(r"^(    slo_ms: .*)$", patient, text, flags=re.MULTILINE))
    return path


def ppipe(file: Path, *arguments: str) -> None:
    assert run([arguments[0], str(file), "--work", str(file.parent), *arguments[1:]]) == 0


def planned_rates(file: Path) -> dict[str, float]:
    """The weighted rate that each planner's plan serves; PPipe's plan is the one that stays."""
    rates = {}
    for planner in ("np", "dart-r", "ppipe"):
        ppipe(file, "plan", "--planner", planner, "--margin", "0.4")
        rates[planner] = serial.load(Plan, file.parent / "plan.json").objective
    return rates


@contextmanager
def served(repository: Path) -> Iterator[tuple[ServedDeployment, service_pb2_grpc.GRPCInferenceServiceStub]]:
    with ServedDeployment(repository, repository.parent / "logs") as deployment:
        deployment.start()
        entry = deployment.manifest.entry
        unlimited = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"{entry.host}:{entry.grpc_port}", options=unlimited) as channel:
            yield deployment, service_pb2_grpc.GRPCInferenceServiceStub(channel)


def ask(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, entry: ModelEntry, number: int
) -> service_pb2.ModelInferResponse:
    request = public_request(entry, make_pictures(number + 1, seed=5)[number])
    request.model_name = entry.dispatcher
    request.parameters["timeout"].int64_param = PATIENCE_US
    return stub.ModelInfer(request, timeout=60)


@pytest.mark.timeout(600)
def test_a_fleet_is_planned_checked_and_rehearsed(tmp_path: Path) -> None:
    file = example(FLEET, tmp_path)
    ppipe(file, "profile", "--estimate", "all")
    profile = serial.load(Profile, tmp_path / "profile.json")
    assert {table.source for model in profile.models for table in model.tables} == {Source.ESTIMATED}
    rates = planned_rates(file)
    assert rates["ppipe"] > 1.15 * max(rates["np"], rates["dart-r"]), rates
    ppipe(file, "generate", "--no-programs")
    ppipe(file, "generate", "--no-programs", "--check")
    assert lint_errors(file) == 0
    rehearsal = ("--rehearse", "emulated", "--workers-per-pool", "1", "--slower", "10")
    ppipe(file, "generate", *rehearsal)
    ppipe(file, "generate", "--check", *rehearsal)
    assert lint([str(tmp_path / "rehearsal"), "--strict"]) == 0
    plan = serial.load(Plan, tmp_path / "plan.json")
    with served(tmp_path / "rehearsal") as (deployment, stub):
        groups = {server.group for server in deployment.manifest.servers}
        # Servers of one class with unlike links are planned as pools: <class>-x<GPUs>.
        used = {re.sub(r"-x\d+$", "", gpu) for gpu, count in plan.gpus_used.items() if count}
        assert groups == used, "every class is there"
        for entry in deployment.manifest.models:
            answer = ask(stub, entry, 0)
            assert {output.name for output in answer.outputs} == {spec.name for spec in entry.outputs}


def lint_errors(file: Path) -> int:
    """Status of lint with all that is known; programs that were not exported are warnings."""
    work = file.parent
    known = ["--deployment", str(file), "--profile", str(work / "profile.json")]
    return lint([str(work / "repository"), *known])


@pytest.mark.timeout(600)
def test_the_workstation_answers_as_its_network_does(tmp_path: Path) -> None:
    file = example(WORKSTATION, tmp_path)
    ppipe(file, "profile", "--estimate", "all")
    rates = planned_rates(file)
    assert rates["ppipe"] > 1.15 * max(rates["np"], rates["dart-r"]), rates
    ppipe(file, "generate")
    ppipe(file, "generate", "--check")
    # The last release for cards as old as its P4.
    known = ["--triton", "24.10", "--deployment", str(file), "--profile", str(tmp_path / "profile.json")]
    assert lint([str(tmp_path / "repository"), "--strict", *known]) == 0
    ppipe(file, "generate", "--rehearse", "cpu", "--workers-per-pool", "1", "--slower", "100")
    assert lint([str(tmp_path / "rehearsal"), "--strict"]) == 0
    (spec,) = load_deployment(file).models
    with served(Workspace(tmp_path).rehearsal) as (deployment, stub):
        (entry,) = deployment.manifest.models
        assert entry.finish is not None
        pictures = make_pictures(2, seed=5)
        frames = make_inputs(spec, pictures)
        reference = make_reference(spec, entry, Workspace(tmp_path).rehearsal, frames, pictures)
        for number in range(2):
            answer = ask(stub, entry, number)
            assert reference.compare(number, answer)[1]
            classes, _ = top_k(reference.answers[number][entry.finish.inputs[0]], entry.finish.top_k)
            assert output(answer, "classes", np.int32).tolist() == classes.tolist()


def output(answer: service_pb2.ModelInferResponse, name: str, dtype: type[np.generic]) -> np.ndarray:
    (index,) = [index for index, each in enumerate(answer.outputs) if each.name == name]
    return np.frombuffer(answer.raw_output_contents[index], dtype=dtype)
