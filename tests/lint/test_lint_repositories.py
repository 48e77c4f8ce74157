"""Several repositories of one server, and what cannot be read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model_repo_generator.lint import Context, Finding, Host, lint
from model_repo_generator.lint.command import main
from tests.lint.battery.case import config, ensemble_text, python_model, step


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_step_may_be_in_another_repository(tmp_path: Path) -> None:
    ensembles = write(
        tmp_path / "ensembles", {"e/config.pbtxt": ensemble_text(step("m"), name="e"), "e/1/x": ""}
    )
    models = write(tmp_path / "models", python_model(config("m"), "m"))
    assert [finding.code for finding in lint(ensembles)] == ["step-model"]
    assert lint([ensembles, models]) == ()
    assert lint([models, ensembles]) == ()
    assert lint([models, ensembles], context=Context(host=Host(namespacing=True))) == ()


def test_files_of_several_begin_with_the_folder_as_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", python_model(config("m", batch="max_batch_size: -1"), "m"))
    write(tmp_path / "b", python_model(config("m"), "m"))
    monkeypatch.chdir(tmp_path)
    assert main(["a", "b", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [(each["file"], each["code"]) for each in found] == [
        ("a/m", "model-twice"),
        ("a/m/config.pbtxt", "max-batch-size"),
        ("b/m", "model-twice"),
    ]
    assert main(["a", "b", "--model-namespacing", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [each["code"] for each in found] == ["max-batch-size"]


def test_one_repository_given_twice_is_one(tmp_path: Path) -> None:
    write(tmp_path, python_model(config("m"), "m"))
    assert lint([tmp_path, tmp_path]) == ()


def test_an_ensemble_of_a_name_that_two_others_have(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, python_model(config("m"), "m"))
    write(tmp_path / "c", {"e/config.pbtxt": ensemble_text(step("m"), name="e"), "e/1/x": ""})
    folders = [tmp_path / name for name in "abc"]
    (finding,) = lint(folders, context=Context(host=Host(namespacing=True)))
    assert (finding.code, finding.message) == ("step-model", "2 repositories have a model 'm'")


def test_an_ensemble_of_a_faulty_model_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "a", python_model(config("m", batch="max_batch_size: -1"), "m"))
    write(tmp_path / "b", {"e/config.pbtxt": ensemble_text(step("m"), name="e"), "e/1/x": ""})
    findings = lint([tmp_path / "a", tmp_path / "b"])
    assert [finding.code for finding in findings] == ["max-batch-size", "step-refused"]


def as_another_user(look: Callable[[], tuple[Finding, ...]]) -> list[tuple[str, str]]:
    """File and code of what is found; by a process that is not root, to which all is readable."""
    if os.geteuid() != 0:
        return [(finding.file, finding.code) for finding in look()]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "no answer"
        try:
            os.setgid(65534)
            os.setuid(65534)
            said = json.dumps([(finding.file, finding.code) for finding in look()])
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return [tuple(pair) for pair in json.loads(text)]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("lost+found", [("lost+found", "unreadable")]),
        ("m/2", [("m/2", "unreadable")]),
        ("m/configs", [("m/configs", "unreadable")]),
        (".cache", [(".cache", "stray-folder")]),
    ],
)
def test_a_folder_that_cannot_be_read_is_a_finding_and_the_rest_is_linted(
    path: str, wanted: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = opened(tmp_path_factory.mktemp("r"))
    write(root, python_model(config("m"), "m"))
    write(root, python_model(config("z", batch="max_batch_size: -1"), "z"))
    (root / path).mkdir()
    (root / path).chmod(0)
    try:
        assert as_another_user(lambda: lint(root)) == [*wanted, ("z/config.pbtxt", "max-batch-size")]
    finally:
        (root / path).chmod(0o755)


def test_a_folder_that_can_be_listed_and_not_entered(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = write(opened(tmp_path_factory.mktemp("r")), python_model(config("m"), "m"))
    write(root, python_model(config("z"), "z"))
    (root / "m").chmod(0o444)
    try:
        found = as_another_user(lambda: lint(root))
    finally:
        (root / "m").chmod(0o755)
    assert {code for _, code in found} == {"unreadable"}
    assert all(file.startswith("m/") for file, _ in found)


@pytest.mark.parametrize("file", ["m/config.pbtxt", "m/1/model.py"])
def test_a_file_that_cannot_be_read_is_a_finding(file: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = write(opened(tmp_path_factory.mktemp("r")), python_model(config("m"), "m"))
    (root / file).chmod(0)
    assert as_another_user(lambda: lint(root)) == [(file, "unreadable")]


def opened(folder: Path) -> Path:
    """With the folders above it that pytest made for its own user alone."""
    top = Path(tempfile.gettempdir()).resolve()
    for each in (folder, *folder.parents):
        if each == top:
            break
        each.chmod(0o755)
    return folder
