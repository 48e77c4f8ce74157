"""Messages name file, line, field and what would be right; backends other than Python; what is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo_generator.lint import (
    Context,
    Effect,
    Finding,
    Host,
    Level,
    NotReadable,
    lint,
)
from model_repo_generator.lint.codes import EFFECTS
from model_repo_generator.lint.rules import releases
from tests.lint.battery import COMPLETED_CASES, DIES_CASES, HANGS_CASES, LOADED_CASES
from tests.lint.battery.case import MODEL_PY, X, Y, config, ensemble_text, python_model, step
from tests.lint.battery.roots import ROOT_CASES


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def one(root: Path, text: str, **files: str) -> Finding:
    """The only finding of a Python model `m` with this config."""
    named = {"m/" + path.replace("__", "/"): content for path, content in files.items()}
    findings = lint(write(root, {"m/config.pbtxt": text, "m/1/model.py": MODEL_PY, **named}))
    assert len(findings) == 1, findings
    return findings[0]


def test_a_finding_names_everything(tmp_path: Path) -> None:
    text = config("m", inputs='input [\n  { name: "x" data_type: TYPE_FP32 dims: [ 4,\n 0 ] }\n]')
    assert one(tmp_path, text) == Finding(
        level=Level.ERROR,
        code="dims",
        model="m",
        file="m/config.pbtxt",
        line=6,
        field="input[0].dims[1]",
        message="0 is neither a size of at least 1 nor -1 for any size",
        effect=Effect.REFUSED,
    )


def test_text_form_is_a_link() -> None:
    finding = Finding(
        level=Level.WARNING, code="c", model="m", file="m/config.pbtxt", line=3, field="f", message="said"
    )
    assert finding.to_text() == "m/config.pbtxt:3: warning: f: said [c: doubtful]"


def test_an_unknown_field_gets_the_nearest_name(tmp_path: Path) -> None:
    finding = one(tmp_path, config("m", rest="dynamic_batching {\n  prefered_batch_size: 4\n}"))
    assert (finding.code, finding.line, finding.field) == (
        "unknown-field",
        7,
        "dynamic_batching.prefered_batch_size",
    )
    assert "'preferred_batch_size'" in finding.message


def test_all_unknown_fields_are_found_at_once(tmp_path: Path) -> None:
    text = config("m", rest="one: 1\ntwo { three: 3 }\noptimization { four: 4 }")
    findings = lint(write(tmp_path, {"m/config.pbtxt": text, "m/1/model.py": MODEL_PY}))
    assert [finding.field for finding in findings] == ["one", "two", "optimization.four"]


def test_syntax_names_the_line(tmp_path: Path) -> None:
    finding = one(tmp_path, config("m", rest="dynamic_batching {\n  preserve_ordering: maybe\n}"))
    assert (finding.code, finding.line) == ("syntax", 7)


def test_broken_python_names_the_line(tmp_path: Path) -> None:
    finding = one(tmp_path, config("m"), **{"1__model.py": "x = 1\ndef broken(:\n"})
    assert (finding.code, finding.file, finding.line) == ("model-code", "m/1/model.py", 2)


@pytest.mark.parametrize(
    ("head", "file"),
    [
        ('backend: "onnxruntime"', "model.onnx"),
        ('platform: "onnxruntime_onnx"', "model.onnx"),
        ('backend: "tensorrt"', "model.plan"),
        ('platform: "tensorrt_plan"', "model.plan"),
        ('backend: "pytorch"', "model.pt"),
        ('platform: "pytorch_libtorch"', "model.pt"),
        ('platform: "tensorflow_graphdef"', "model.graphdef"),
        ('backend: "openvino"', "model.xml"),
        ('backend: "onnxruntime" default_model_filename: "net.onnx"', "net.onnx"),
    ],
)
def test_other_backends_need_their_file(head: str, file: str, tmp_path: Path) -> None:
    write(tmp_path, {"m/config.pbtxt": config("m", head=head), "m/1/readme": ""})
    assert [(f.code, f.file) for f in lint(tmp_path)] == [("model-file", f"m/1/{file}")]
    write(tmp_path, {f"m/1/{file}": ""})
    assert lint(tmp_path) == ()


def test_the_backend_is_told_by_the_file_there(tmp_path: Path) -> None:
    write(tmp_path, {"m/config.pbtxt": config("m", head=""), "m/1/model.onnx": ""})
    assert lint(tmp_path) == ()
    assert [f.code for f in lint(tmp_path, context=Context(host=Host(backends=frozenset({"python"}))))] == [
        "backend"
    ]


def test_a_misspelt_backend_is_a_warning_where_backends_are_not_known(tmp_path: Path) -> None:
    write(tmp_path, {"m/config.pbtxt": config("m", head='backend: "onnxruntme"'), "m/1/x": ""})
    (finding,) = lint(tmp_path)
    assert (finding.code, finding.level) == ("backend-unknown", Level.WARNING)
    assert "'onnxruntime'" in finding.message


def test_tensorrt_may_have_what_is_its_own(tmp_path: Path) -> None:
    text = config(
        "m",
        head='platform: "tensorrt_plan"',
        inputs='input [ { name: "x" data_type: TYPE_INT32 dims: [ 4 ] is_shape_tensor: true } ]',
        rest='instance_group [ { kind: KIND_GPU gpus: [ 0 ] profile: [ "0" ] } ]',
    )
    assert lint(write(tmp_path, {"m/config.pbtxt": text, "m/1/model.plan": ""})) == ()


def test_gpus_are_checked_where_their_number_is_known(tmp_path: Path) -> None:
    text = config("m", rest="instance_group [ { kind: KIND_GPU gpus: [ 0, 3 ] } ]")
    write(tmp_path, python_model(text, "m"))
    assert lint(tmp_path) == ()
    assert lint(tmp_path, context=Context(host=Host(gpus=4))) == ()
    (finding,) = lint(tmp_path, context=Context(host=Host(gpus=2)))
    assert (finding.code, finding.message) == ("gpu", "GPU 3 is not on a server with 2 GPUs (0 to 1)")


def test_configs_by_name_are_linted_too(tmp_path: Path) -> None:
    files = python_model(config("m"), "m")
    write(tmp_path, {**files, "m/configs/h100.pbtxt": config("m", batch="max_batch_size: -1")})
    (finding,) = lint(tmp_path)
    assert (finding.code, finding.file) == ("max-batch-size", "m/configs/h100.pbtxt")


def test_across_models_the_config_that_is_asked_for_holds(tmp_path: Path) -> None:
    outer = ensemble_text(step("a"), name="m", batch="max_batch_size: 4")
    inner = {**python_model(config("a"), "a"), "a/configs/l4.pbtxt": config("a", batch="max_batch_size: 2")}
    write(tmp_path, {"m/config.pbtxt": outer, "m/1/keep": "", **inner})
    assert lint(tmp_path) == ()
    assert [f.code for f in lint(tmp_path, context=Context(config_name="l4"))] == ["ensemble-batch"]


def test_a_hidden_folder_is_as_fatal_as_any_other(tmp_path: Path) -> None:
    write(tmp_path, {**python_model(config("m"), "m"), ".git/HEAD": "", "README.md": ""})
    (finding,) = lint(tmp_path)
    assert (finding.code, finding.file, finding.level) == ("stray-folder", ".git", Level.ERROR)
    assert lint(tmp_path, context=Context(host=Host(loads_all=False))) == ()


def test_an_empty_repository_is_said(tmp_path: Path) -> None:
    assert [finding.code for finding in lint(tmp_path)] == ["repository-empty"]


def test_no_folder_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotReadable, match="is not a folder"):
        lint(tmp_path / "gone")


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    write(tmp_path, python_model(config("m"), "m"))
    (tmp_path / "m" / "1" / "again").symlink_to(tmp_path / "m", target_is_directory=True)
    assert lint(tmp_path) == ()


def test_every_code_of_one_model_is_in_the_battery() -> None:
    """So that every effect was seen on a server; what needs a deployment, another host, backend or release
    is not there."""
    cases = (*LOADED_CASES, *COMPLETED_CASES, *HANGS_CASES, *DIES_CASES, *ROOT_CASES)
    shown = {code for case in cases for code in case.codes}
    elsewhere = {code for code in EFFECTS if code.startswith(("manifest", "gpu-", "host-"))} | {
        "config-completed", "model-file", "model-file-capability", "backend-unknown", "unreadable",
        "execution-env-elsewhere", "profile-misread", "queue-full-stuck", "client-shm",
    }  # fmt: skip
    elsewhere |= {rule.code for rule in releases.RULES}
    assert set(EFFECTS) - elsewhere <= shown


def test_good_parts_of_the_battery_are_good(tmp_path: Path) -> None:
    assert lint(write(tmp_path, python_model(config("m", inputs=X, outputs=Y), "m"))) == ()
