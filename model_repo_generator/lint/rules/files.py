"""Name, backend, version folders and files of one model, and what its model.py holds."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from model_repo_generator.lint import backends
from model_repo_generator.lint.codes import NEVER_SINCE
from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.versions import served_versions

_SHELL_UNSAFE = re.compile(r"[\s$;&'\"()|\\`<>]")
"""The Python backend starts a model's stub through a shell and quotes nothing."""


def check_folder(model: LintedModel) -> Iterator[Finding]:
    """What can be said without a configuration."""
    for folder, why in model.folder.unreadable.items():
        said = f"cannot be read here ({why}); a server that may not read it either does not load the model"
        yield model.file_finding("unreadable", folder, said)
    for name in model.folder.dangling:
        said = "is a link that leads nowhere; a server cannot look at it and does not load the model"
        yield model.file_finding("dangling-link-inside", name, said)
    versions = model.folder.versions
    for name in versions.huge:
        yield model.file_finding("version-huge", name, f"{name!r} is beyond 64 bits; the server ends")
    for name in versions.padded:
        yield model.file_finding("version-folder", name, f"{name!r} has leading zeros and is passed over")
    if 0 in versions.numbers:
        said = "version 0 cannot be asked for: in requests and ensemble steps 0 is no version"
        yield model.file_finding("version-zero", versions.numbers[0], said)


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on names and files."""
    yield from _name(model)
    yield from _backend(model)
    yield from _versions(model)
    if not model.is_ensemble:
        yield from _runtime(model)
    for index, agent in enumerate(model.config.model_repository_agents.agents):
        if model.host.agents is not None and agent.name not in model.host.agents:
            path = ("model_repository_agents", "agents", index)
            yield model.finding("agent", path, f"the server has no repository agent {agent.name!r}")


def _name(model: LintedModel) -> Iterator[Finding]:
    if model.config.name != model.name:
        said = f"{model.config.name!r} is not the folder's name {model.name!r}"
        yield model.finding("name", ("name",), said)
    if model.backend != "python":
        return
    if not model.name.isascii() and not model.host.utf8:
        said = "a Python model's folder name must be ASCII unless the server's locale is UTF-8"
        yield model.file_finding("folder-name", "", said)
    unsafe = sorted(set(_SHELL_UNSAFE.findall(model.name)))
    if unsafe and model.host.triton < NEVER_SINCE["folder-name-hangs"]:
        said = f"the Python backend hands the folder's path to a shell, which acts on {' '.join(unsafe)!r}"
        yield model.file_finding("folder-name-hangs", "", said)


def _backend(model: LintedModel) -> Iterator[Finding]:
    config = model.config
    if config.HasField("ensemble_scheduling") and config.platform != backends.ENSEMBLE:
        said = f"an ensemble needs platform: {backends.ENSEMBLE!r}, not {config.platform!r}"
        yield model.finding("platform", ("platform",), said)
        return
    if config.platform == backends.ENSEMBLE:
        if config.backend:
            yield model.finding("platform", ("backend",), "an ensemble has no backend")
        return
    if not model.backend:
        said = (
            f"platform {config.platform!r} belongs to no backend"
            if config.platform
            else f"neither backend, nor platform, nor a file in {model.folder.shown}/ tells the backend"
        )
        yield model.finding("backend", ("platform",), f"{said}; give a backend")
        return
    yield from _platform(model)
    yield from _installed(model)


def _platform(model: LintedModel) -> Iterator[Finding]:
    platform = model.config.platform
    known = backends.KNOWN.get(model.backend, backends.Backend())
    if not platform or platform in known.platforms:
        since = backends.SINCE.get(platform)
        if since is not None and model.host.triton < since:
            said = f"Triton {model.host.triton} does not know {platform!r}; {since} ({since.container}) does"
            yield model.finding("platform", ("platform",), said, source=backends.SINCE_SOURCE)
        return
    if known.platforms:
        said = f"{platform!r} does not go with backend {model.backend!r}: {' or '.join(known.platforms)} does"
        yield model.finding("platform", ("platform",), said)
    elif platform != model.backend:
        said = f"{platform!r} means nothing to backend {model.backend!r}"
        yield model.finding("platform-ignored", ("platform",), said)


def _installed(model: LintedModel) -> Iterator[Finding]:
    there = model.host.backends
    own = f"libtriton_{model.backend}.so"
    if model.config.runtime or any(path.rpartition("/")[2] == own for path in model.folder.files):
        return
    if there is not None and model.backend not in there:
        said = f"the server has no backend {model.backend!r}; it has {', '.join(sorted(there))}"
        yield model.finding("backend", ("backend",), said)
    elif there is None and model.backend not in (names := list(backends.names())):
        near = difflib.get_close_matches(model.backend, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; the server must have it installed"
        said = f"{model.backend!r} is none of the published backends{hint}"
        yield model.finding("backend-unknown", ("backend",), said)


def _versions(model: LintedModel) -> Iterator[Finding]:
    folders = model.folder.versions
    policy = model.config.version_policy
    served = served_versions(model.config, folders)
    if not served and not model.folder.unreadable.keys() & {""}:
        has = ", ".join(map(repr, folders.numbers.values())) or "no folder that is a number"
        field = ("version_policy",) if folders.numbers else ()
        said = f"no version to serve: the model has {has}"
        hint = "; latest needs num_versions of at least 1" if policy.HasField("latest") else ""
        yield model.finding("version-missing", field, said + hint)
    for nth, version in enumerate(policy.specific.versions):
        if served and version not in folders.numbers:
            path = ("version_policy", "specific", "versions", nth)
            yield model.finding("version-absent", path, f"version {version} is not there; others are served")
    for number, name in folders.misread().items():
        if number in served and not model.is_ensemble:
            said = f"folder {name!r} is taken for version {number}, whose files the server then does not find"
            yield model.file_finding("version-misread", name, said)


def _runtime(model: LintedModel) -> Iterator[Finding]:
    wanted, there = model.config.runtime, model.host.backends
    if not wanted or there is None or wanted in {f"libtriton_{name}.so" for name in there}:
        return
    if wanted == backends.PYTHON_RUNTIME and model.backend in there:
        return  # it lies in the backend's folder
    if not any(path == wanted or path.endswith(f"/{wanted}") for path in model.folder.files):
        said = f"{wanted!r} is neither in the model's folder nor that of an installed backend"
        yield model.finding("runtime", ("runtime",), said)
