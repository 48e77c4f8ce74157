"""Runs the rules: model by model, then across models, then against the deployment that generated them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from model_repo_generator import naming
from model_repo_generator.lint import (
    rules_batching,
    rules_ensemble,
    rules_files,
    rules_instances,
    rules_manifest,
    rules_python,
    rules_steps,
    rules_tensors,
    rules_warmup,
)
from model_repo_generator.lint.finding import Finding, in_order
from model_repo_generator.lint.folders import (
    CONFIG,
    CONFIGS,
    ModelFolder,
    NotReadable,
    is_repository,
    read_repository,
)
from model_repo_generator.lint.model import Host, Model, load, make_finding
from planner import serial
from planner.cluster import Cluster
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.profile import Profile

_MODEL_RULES: tuple[Callable[[Model], Iterator[Finding]], ...] = (
    rules_files.check,
    rules_tensors.check,
    rules_batching.check,
    rules_instances.check,
    rules_python.check,
    rules_warmup.check,
    rules_ensemble.check,
)


@dataclass(frozen=True)
class Context:
    """What else is known. `manifest`: deployment.json; None: looked for beside and above the folder.

    `cluster` gives GPU counts and memory, `profile` what each stage takes of it. `config_name`: as in
    --model-config-name, configs/<name>.pbtxt wins over config.pbtxt where a model has it.
    """

    host: Host = field(default_factory=Host)
    manifest: Path | None = None
    cluster: Cluster | None = None
    profile: Profile | None = None
    config_name: str = ""


def lint(
    directory: Path | str, manifest: Path | str | None = None, context: Context | None = None
) -> tuple[Finding, ...]:
    """Every fault of a Triton model repository, or of a folder that `ppipe generate` wrote; in file order.

    Raises NotReadable where there is nothing to lint, FormatError for a broken deployment.json.
    """
    root = Path(directory)
    context = context or Context()
    if not root.is_dir():
        raise NotReadable(f"{root}: is not a folder")
    at = _manifest_path(root, manifest or context.manifest)
    deployment = None if at is None else serial.load(DeploymentManifest, at)
    repositories = _repositories(root, at, deployment)
    findings: list[Finding] = []
    linted: dict[Path, dict[str, Model]] = {}
    for repository in repositories:
        models, found = _lint_repository(repository, root, context)
        linted[repository.resolve()] = models
        findings += found
    if at is not None and deployment is not None:
        revisions = _revisions(at, deployment, root)
        findings += rules_manifest.check(revisions, at, linted, context.cluster, context.profile)
    return in_order(findings)


def _manifest_path(root: Path, given: Path | str | None) -> Path | None:
    """The given one, or that of the generated folder which `root` is or is a repository of."""
    if given is not None:
        return Path(given)
    for folder in (root, *root.resolve().parents[:2]):
        if (folder / MANIFEST_NAME).is_file():
            return folder / MANIFEST_NAME
    return None


def _revisions(at: Path, newest: DeploymentManifest, root: Path) -> list[rules_manifest.Revision]:
    """The newest revision and those that are still loaded beside it."""
    older = sorted(path for path in at.parent.iterdir() if naming.older_manifest_epoch(path.name) is not None)
    manifests = [(newest, at)]
    manifests += [(serial.load(DeploymentManifest, path), path) for path in older if path != at]
    return [
        rules_manifest.Revision(manifest=manifest, shown=os.path.relpath(path, root))
        for manifest, path in manifests
    ]


def _repositories(root: Path, at: Path | None, deployment: DeploymentManifest | None) -> list[Path]:
    """`root` itself, or where it is a generated folder, the repositories in it."""
    if at is None or deployment is None or is_repository(root):
        return [root]
    named = {server.repository for server in (deployment.entry, *deployment.servers) if server.repository}
    return [at.parent / repository for repository in sorted(named) if (at.parent / repository).is_dir()]


def _lint_repository(
    repository: Path, root: Path, context: Context
) -> tuple[dict[str, Model], Iterable[Finding]]:
    models: dict[str, Model] = {}
    findings: list[Finding] = []
    others: list[Finding] = []
    """Of configurations that only a server with --model-config-name reads: no step is refused for them."""
    for folder in read_repository(repository, root):
        by_name = _named_configs(folder)
        own = f"{CONFIGS}/{context.config_name}.pbtxt"
        chosen = own if own in by_name else CONFIG
        models[folder.name], found = _lint_model(folder, chosen, context.host)
        findings += found
        for other in by_name - {chosen}:
            others += _lint_model(folder, other, context.host)[1]
    if not models:
        said = "holds no models"
        findings.append(make_finding("repository-empty", "", os.path.relpath(repository, root), 0, "", said))
    refused = {finding.model for finding in findings if not finding.effect.loads}
    refused |= {name for name, model in models.items() if model.config is None}
    findings += rules_steps.check(models, refused)
    return models, [*findings, *others]


def _lint_model(folder: ModelFolder, config_file: str, host: Host) -> tuple[Model, list[Finding]]:
    """The model with one of its configurations, and the faults that it has by itself."""
    model, found = load(folder, host, config_file)
    findings = [*found, *rules_files.check_folder(model)]
    if model.config is not None:
        for rule in _MODEL_RULES:
            findings += rule(model)
    return model, findings


def _named_configs(folder: ModelFolder) -> set[str]:
    """configs/<name>.pbtxt: each is what some server starts with."""
    return {file for file in folder.files if file.startswith(f"{CONFIGS}/") and file.endswith(".pbtxt")}
