"""Networks as people write them, served by real tritonservers: each answer is the unsplit network's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from planner.deployment import load_deployment
from ppipe.bench.frames import make_inputs_of
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate
from ppipe.bench.reference import make_references
from ppipe.bench.target import served_target
from ppipe.bench.workload import make_workload
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment, ServeError
from ppipe.serving.ports import free_base

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

FRAMES = 8
DEPLOYMENT = """
name: wild
cluster:
  base_port: {base_port}
  gpu_classes:
    - {{name: fast, executor: cpu, stated: {{gflop_per_s: 0.05, gbyte_per_s: 0.2, overhead_us: 200}}}}
    - {{name: slow, executor: cpu, stated: {{gflop_per_s: 0.02, gbyte_per_s: 0.15, overhead_us: 200}}}}
  groups:
    - {{gpu: fast, count: 1, gpus_per_server: {gpus}}}
    - {{gpu: slow, count: 1, gpus_per_server: {gpus}}}
models:
{models}
planner: {{max_stages: 2, slo_margin: 0.6}}
"""
MODEL = """
  - name: {name}
    program: {{factory: "tests.profiling.wild_nets:{factory}", arguments: {arguments}, imports: [{imports}]}}
    input: {{name: image, dtype: FP32, shape: [3, 16, 16]}}
    slo_ms: 800
    batch_sizes: [1, 2]
    blocks: 4
"""
SERVED = {
    "everything": ("Returns", "{what: everything}", ""),
    "halves": ("Plain", "{region: cpu}", ""),
    "foreign": ("Foreign", "{}", "tests.profiling.wild_nets"),
}


def write(folder: Path, models: dict[str, tuple[str, str, str]]) -> Path:
    path = folder / "deployment.yaml"
    text = "".join(
        MODEL.format(name=name, factory=factory, arguments=arguments, imports=imports)
        for name, (factory, arguments, imports) in models.items()
    )
    base_port = free_base(first=24_000, count=40)
    path.write_text(DEPLOYMENT.format(base_port=base_port, models=text, gpus=len(models)), encoding="utf-8")
    return path


def make(folder: Path, models: dict[str, tuple[str, str, str]]) -> Path:
    path = write(folder, models)
    for command in ("profile", "plan", "generate"):
        assert run([command, str(path), "--work", str(folder / "work")]) == 0
    return path


@dataclass
class Wild:
    deployment_file: Path
    work: Path
    served: ServedDeployment


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wild]:
    folder = tmp_path_factory.mktemp("wild")
    path = make(folder, SERVED)
    with ServedDeployment(folder / "work" / "repository", folder / "work" / "logs") as served:
        served.start()
        yield Wild(path, folder / "work", served)


@pytest.mark.parametrize("model", SERVED)
def test_every_answer_is_the_networks(wild: Wild, model: str) -> None:
    spec = load_deployment(wild.deployment_file).model(model)
    entry = wild.served.manifest.model(model)
    tensors = {model: make_inputs_of(entry.network_inputs, FRAMES, seed=3)}
    references = make_references([spec], wild.served.manifest, wild.work / "repository", [], tensors)
    others = {other.model: tensors[model] for other in wild.served.manifest.models}
    outcomes = send_load(
        served_target(wild.served.manifest, [], {**others, **tensors}),
        make_workload({model: 20.0}, seconds=2.0, seed=5, frames=FRAMES),
        references,
        LoadOptions(slo_us={model: 800_000}),
    )
    answered = [outcome for outcome in outcomes if outcome.fate is Fate.ANSWERED]
    assert len(answered) >= 20
    assert all(outcome.matched for outcome in answered)


def test_the_bench_takes_models_without_preprocessing(wild: Wild) -> None:
    arguments = ["--work", str(wild.work), "--seconds", "2", "--load", "0.3", "--json"]
    assert run(["bench", str(wild.deployment_file), *arguments]) == 0


def test_a_program_that_fails_on_every_batch_ends_serve_with_the_reason(tmp_path: Path) -> None:
    """It computes what warms it up, and fails from then on, as a GPU that has fallen off the bus does."""
    make(tmp_path, {"failing": ("Failing", "{}", "tests.profiling.wild_nets")})
    with ServedDeployment(tmp_path / "work" / "repository", tmp_path / "work" / "logs") as served:
        with pytest.raises(ServeError, match=r"server '\w+-0': .*fails on every batch.*no device"):
            served.start()
        boards = [status.detail for status in served.statuses]
        assert any("no device" in detail for detail in boards)
