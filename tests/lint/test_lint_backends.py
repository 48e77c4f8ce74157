"""Backends that cannot be run here: which files they need, and what they complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo_generator.lint import Context, Finding, Host, lint
from tests.lint.battery.case import X, Y, config, ensemble_text, step

COMPLETING = Context(host=Host(auto_complete=True))
NAMES = {"inputs": 'input [ { name: "x" } ]', "outputs": 'output [ { name: "y" } ]'}


def write(root: Path, *files: str, text: str, model: str = "m") -> Path:
    for file in files:
        (root / model / file).parent.mkdir(parents=True, exist_ok=True)
        (root / model / file).write_text("")
    (root / model).mkdir(exist_ok=True)
    (root / model / "config.pbtxt").write_text(text)
    return root


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


RUNTIME = 'backend: "pytorch" runtime: "model.py"'


@pytest.mark.parametrize("file", ["1/model.py", "1/model.pt", "1/other.py"])
def test_the_python_runtime_of_pytorch_takes_a_class_or_a_script(file: str, tmp_path: Path) -> None:
    head = RUNTIME + (' default_model_filename: "other.py"' if "other" in file else "")
    write(tmp_path, file, text=config("m", head=head))
    for host in (Host(), Host(auto_complete=True), Host(backends=frozenset({"pytorch"}))):
        assert lint(tmp_path, context=Context(host=host)) == ()


def test_it_needs_one_of_them(tmp_path: Path) -> None:
    write(tmp_path, "1/readme", text=config("m", head=RUNTIME))
    (finding,) = lint(tmp_path)
    assert (finding.code, finding.file) == ("model-file", "m/1")
    assert "model.py" in finding.message
    assert "model.pt" in finding.message


CAPABILITIES = (
    'cc_model_filenames { key: "7.5" value: "t4.plan" } cc_model_filenames { key: "8.9" value: "l4.plan" }'
)


@pytest.mark.parametrize(
    ("files", "host", "wanted"),
    [
        (("1/t4.plan", "1/l4.plan"), Host(), []),
        (("1/t4.plan", "1/l4.plan", "1/model.plan"), Host(), []),
        (("1/t4.plan",), Host(), ["model-file-capability"]),
        (("1/model.plan",), Host(), ["model-file-capability"] * 2),
        (("1/readme",), Host(), ["model-file"]),
        (("1/t4.plan", "1/l4.plan"), Host(gpus=0), ["model-file"]),
    ],
)
def test_files_per_compute_capability(
    files: tuple[str, ...], host: Host, wanted: list[str], tmp_path: Path
) -> None:
    write(tmp_path, *files, text=config("m", head='platform: "tensorrt_plan"', rest=CAPABILITIES))
    assert codes(lint(tmp_path, context=Context(host=host))) == wanted


def test_a_cpu_instance_reads_the_default_file(tmp_path: Path) -> None:
    rest = 'instance_group [ { kind: KIND_CPU } ] cc_model_filenames { key: "8.0" value: "a.onnx" }'
    write(tmp_path, "1/a.onnx", text=config("m", head='backend: "onnxruntime"', rest=rest))
    assert codes(lint(tmp_path)) == ["model-file"]


@pytest.mark.parametrize(
    ("profile", "wanted"), [('"0"', []), ('["0", "12"]', []), ('"1abc"', ["profile-misread"])]
)
def test_profiles_that_the_server_takes(profile: str, wanted: list[str], tmp_path: Path) -> None:
    rest = f"instance_group [ {{ kind: KIND_GPU profile: {profile} }} ]"
    write(tmp_path, "1/model.plan", text=config("m", head='platform: "tensorrt_plan"', rest=rest))
    assert codes(lint(tmp_path)) == wanted


@pytest.mark.parametrize(
    ("head", "file"),
    [
        ('backend: "dali"', "1/model.dali"),
        ('backend: "onnxruntime"', "1/model.onnx"),
        ('platform: "tensorrt_plan"', "1/model.plan"),
        ('backend: "openvino"', "1/model.xml"),
        ('backend: "identity"', "1/readme"),
        ('backend: "pytorch" runtime: "model.py"', "1/model.py"),
    ],
)
def test_what_a_backend_may_complete_is_no_error_where_servers_let_it(
    head: str, file: str, tmp_path: Path
) -> None:
    write(tmp_path, file, text=config("m", head=head, **NAMES))
    assert set(codes(lint(tmp_path, context=COMPLETING))) == {"tensor-completed"}
    assert {"dims", "data-type"} <= set(codes(lint(tmp_path)))


def test_torchscript_has_nothing_to_complete_with(tmp_path: Path) -> None:
    write(tmp_path, "1/model.pt", text=config("m", head='backend: "pytorch"', **NAMES))
    assert {"dims", "data-type"} <= set(codes(lint(tmp_path, context=COMPLETING)))


def test_only_what_is_missing_may_be_completed(tmp_path: Path) -> None:
    inputs = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 0 ] } ]'
    write(tmp_path, "1/model.onnx", text=config("m", head='backend: "onnxruntime"', inputs=inputs))
    assert codes(lint(tmp_path, context=COMPLETING)) == ["dims"]


BARE = 'backend: "onnxruntime"'
"""Of a model whose backend knows the rest."""


@pytest.mark.parametrize(
    ("inner", "wanted"),
    [
        (BARE, {"step-completed"}),
        (config("a", head=BARE, batch="", **NAMES), {"tensor-completed"}),
        (config("a", head=BARE, batch=""), set()),
        (config("a", head=BARE, batch="max_batch_size: 2"), {"ensemble-batch"}),
        (config("a", head=BARE, inputs=X.replace("FP32", "INT8"), outputs=Y), {"ensemble-type"}),
        (config("a", head=BARE, inputs=X.replace("4", "5"), outputs=Y), {"ensemble-shape"}),
    ],
)
def test_steps_are_held_against_what_is_said_of_them(inner: str, wanted: set[str], tmp_path: Path) -> None:
    write(tmp_path, "1/model.onnx", text=inner, model="a")
    write(tmp_path, "1/keep", text=ensemble_text(step("a"), name="e"), model="e")
    assert set(codes(lint(tmp_path, context=COMPLETING))) == wanted
