"""Parameters that the Python backend reads."""

from __future__ import annotations

from collections.abc import Iterator

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.text import Path

_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"
_FORCE_CPU = "FORCE_CPU_ONLY_INPUT_TENSORS"
_ENVIRONMENT = "EXECUTION_ENV_PATH"


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on them."""
    if model.backend != "python":
        return
    parameters = model.config.parameters
    if _FORCE_CPU in parameters and parameters[_FORCE_CPU].string_value not in ("yes", "no"):
        said = f"{_FORCE_CPU} is {parameters[_FORCE_CPU].string_value!r}; it takes 'yes' or 'no'"
        yield model.finding("python-parameter", _path(model, _FORCE_CPU), said)
    if _ENVIRONMENT in parameters:
        yield from _environment(model, parameters[_ENVIRONMENT].string_value)


def _environment(model: LintedModel, value: str) -> Iterator[Finding]:
    path = _path(model, _ENVIRONMENT)
    if value.startswith(_MODEL_DIRECTORY):
        inside = value.removeprefix(_MODEL_DIRECTORY).lstrip("/") or "."
        if not model.folder.there(inside):
            said = f"{_ENVIRONMENT}: {inside!r} is not in {model.folder.shown}/"
            yield model.finding("execution-env", path, said)
    elif not model.host.same_machine:
        said = (
            f"{_ENVIRONMENT} {value!r} must be on every server; begin it with {_MODEL_DIRECTORY} to ship it"
        )
        yield model.finding("execution-env-elsewhere", path, said)
    elif not model.folder.there(value):
        yield model.finding("execution-env", path, f"{_ENVIRONMENT}: there is no {value!r}")


def _path(model: LintedModel, key: str) -> Path:
    keys = [entry[0] for entry in model.tree.entries("parameters")]
    return ("parameters", keys.index(key)) if key in keys else ("parameters",)
