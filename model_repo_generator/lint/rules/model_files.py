"""The file of each version that the backend reads, and what a model.py holds."""

from __future__ import annotations

from collections.abc import Iterator

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint import backends, python_code
from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.folders import NotReadable
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.versions import served_versions

_CPU_KINDS = (triton.ModelInstanceGroup.KIND_CPU,)


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on the files of versions; ensembles have none."""
    if model.is_ensemble:
        return
    served = served_versions(model.config, model.folder.versions)
    for version, name in model.folder.versions.numbers.items():
        if name in model.folder.unreadable:
            continue
        if model.config.runtime == backends.PYTHON_RUNTIME and model.backend != "python":
            yield from _python_runtime(model, name, version in served)
        else:
            yield from _model_file(model, name, version in served)


def _model_file(model: LintedModel, folder: str, served: bool) -> Iterator[Finding]:
    wanted = backends.model_file(model.config, model.backend)
    if not wanted:
        return
    relative = f"{folder}/{wanted}"
    python = model.backend == "python"
    if not python and model.config.cc_model_filenames:
        yield from _by_capability(model, folder, wanted, served)
    elif not model.folder.has(relative):
        code = "model-file-hangs" if python else "model-file"
        yield _missing(model, relative, served, code, "; the server waits for it for ever" if python else "")
    elif python and served:
        yield from _python_code(model, relative)


def _missing(model: LintedModel, relative: str, served: bool, code: str, more: str) -> Finding:
    if served:
        return model.file_finding(code, relative, f"is missing{more}")
    said = "is missing; version_policy does not serve this version"
    return model.file_finding("model-file-unserved", relative, said)


def _by_capability(model: LintedModel, folder: str, wanted: str, served: bool) -> Iterator[Finding]:
    """An instance on a GPU reads the file of its compute capability, or the default one where it has none."""
    named = dict(sorted(model.config.cc_model_filenames.items()))
    absent = {key: file for key, file in named.items() if not model.folder.has(f"{folder}/{file}")}
    default = model.folder.has(f"{folder}/{wanted}")
    groups = model.config.instance_group
    needs_default = model.host.gpus == 0 or (bool(groups) and all(g.kind in _CPU_KINDS for g in groups))
    if not default and (needs_default or len(absent) == len(named)):
        more = "; instances on the CPU read it" if needs_default else ", and so is every cc_model_filenames"
        yield _missing(model, f"{folder}/{wanted}", served, "model-file", more)
        return
    for key, file in absent.items():
        said = f"is missing; a GPU of compute capability {key} would need it (cc_model_filenames)"
        yield model.file_finding("model-file-capability", f"{folder}/{file}", said)


def _python_runtime(model: LintedModel, folder: str, served: bool) -> Iterator[Finding]:
    """A backend written in Python: that of PyTorch takes a class in model.py or a TorchScript in model.pt."""
    if model.backend != "pytorch":
        return
    given = model.config.default_model_filename
    wanted = [name for name in (given, *backends.PYTORCH_RUNTIME_FILES) if name]
    if not any(model.folder.has(f"{folder}/{name}") for name in wanted):
        said = f"holds neither {' nor '.join(dict.fromkeys(wanted))}"
        if served:
            yield model.file_finding("model-file", folder, f"{said}; the Python runtime needs one of them")
        else:
            said += "; version_policy does not serve this version"
            yield model.file_finding("model-file-unserved", folder, said)


def _python_code(model: LintedModel, relative: str) -> Iterator[Finding]:
    try:
        tree = python_code.parse(model.folder.read(relative), relative)
    except NotReadable as error:
        said = f"cannot be read here ({error.why}); a server that may not read it either refuses the model"
        yield model.file_finding("unreadable", relative, said)
        return
    except (SyntaxError, ValueError) as error:
        line = (error.lineno or 0) if isinstance(error, SyntaxError) else 0
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        yield model.file_finding("model-code", relative, f"is not Python: {said}", line)
        return
    if not python_code.has_class(tree):
        yield model.file_finding("model-code", relative, f"has no class {python_code.CLASS}")
    for node in python_code.classes_without_execute(tree):
        said = f"{python_code.CLASS} has no method execute: it loads, and every request fails"
        yield model.file_finding("model-code-incomplete", relative, said, node.lineno)
