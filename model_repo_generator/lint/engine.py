"""Runs the rules: model by model, then across models, then against the deployment that generated them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model_repo_generator.lint import rules
from model_repo_generator.lint.finding import Finding, in_order
from model_repo_generator.lint.folders import (
    CONFIG,
    CONFIGS,
    LintedFolder,
    NotReadable,
    is_repository,
    read_repository,
)
from model_repo_generator.lint.model import Host, LintedModel, load
from planner import serial
from planner.cluster import Cluster
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.profile import Profile

_MODEL_RULES: tuple[Callable[[LintedModel], Iterator[Finding]], ...] = (
    rules.files.check,
    rules.model_files.check,
    rules.tensors.check,
    rules.batching.check,
    rules.sequence.check,
    rules.instances.check,
    rules.python.check,
    rules.warmup.check,
    rules.ensemble.check,
    rules.releases.check,
)


@dataclass(frozen=True)
class Context:
    """What else is known. `manifest`: deployment.json; None: looked for beside and above the folder.

    `cluster` gives GPU counts and memory, `profile` what each stage takes of it; `deployment` is the file
    that they are of, for messages. `config_name`: as in --model-config-name, configs/<name>.pbtxt wins over
    config.pbtxt where a model has it. `client_shm`: clients register shared memory.
    """

    host: Host = field(default_factory=Host)
    manifest: Path | None = None
    cluster: Cluster | None = None
    profile: Profile | None = None
    config_name: str = ""
    deployment: str = "deployment.yaml"
    client_shm: bool = False


def lint(
    directories: Path | str | Sequence[Path | str],
    manifest: Path | str | None = None,
    context: Context | None = None,
) -> tuple[Finding, ...]:
    """Every fault of a Triton model repository, or of a folder that `ppipe generate` wrote; in file order.

    Several repositories are those of one server, as with --model-repository given several times. Files in
    findings are relative to the one folder, else begin with the folder as given.

    Raises NotReadable where there is nothing to lint, FormatError for a broken deployment.json.
    """
    roots = (
        [Path(directories)] if isinstance(directories, Path | str) else [Path(each) for each in directories]
    )
    context = context or Context()
    shown_as = ["."] if len(roots) == 1 else [str(root) for root in roots]
    findings: list[Finding] = []
    together: list[_Found] = []
    for root, shown in zip(roots, shown_as, strict=True):
        if not root.is_dir():
            raise NotReadable(root, "is not a folder")
        at = manifest_path(root, manifest or context.manifest)
        deployment = None if at is None else serial.load(DeploymentManifest, at)
        repositories = _repositories(root, at, deployment)
        found = [_read(each, _shown(each, root, shown), context) for each in repositories]
        if repositories == [root]:
            together += [each for each in found if each.path not in {other.path for other in together}]
        else:  # of a fleet: a repository for each group of servers
            for each in found:
                findings += _finished([each], context)
        if at is not None and deployment is not None:
            findings += rules.manifest.check(
                deployment,
                os.path.relpath(at, root),
                at,
                {each.path: each.models for each in found},
                context.cluster,
                context.profile,
            )
    findings += _finished(together, context)
    if context.cluster is not None:
        findings += rules.releases.check_cluster(context.cluster, context.host.triton, context.deployment)
    return in_order(findings)


@dataclass(frozen=True)
class _Found:
    """A repository with its models and what is wrong with each of them alone.

    `others`: of configurations that only a server with --model-config-name reads; no step is refused for
    them.
    """

    path: Path
    models: Mapping[str, LintedModel]
    findings: Sequence[Finding]
    others: Sequence[Finding]


def _shown(repository: Path, root: Path, root_shown: str) -> str:
    inside = os.path.relpath(repository, root)
    return root_shown if inside == "." else inside if root_shown == "." else f"{root_shown}/{inside}"


def manifest_path(root: Path, given: Path | str | None) -> Path | None:
    """The given deployment.json, or that of the generated folder which `root` is or is a repository of."""
    if given is not None:
        return Path(given)
    for folder in (root, *root.resolve().parents[:2]):
        if (folder / MANIFEST_NAME).is_file():
            return folder / MANIFEST_NAME
    return None


def _repositories(root: Path, at: Path | None, deployment: DeploymentManifest | None) -> list[Path]:
    """`root` itself, or where it is a generated folder, the repositories in it."""
    if at is None or deployment is None or is_repository(root):
        return [root]
    named = {server.repository for server in (deployment.entry, *deployment.servers) if server.repository}
    return [at.parent / repository for repository in sorted(named) if (at.parent / repository).is_dir()]


def _read(path: Path, shown: str, context: Context) -> _Found:
    repository = read_repository(path, shown)
    models: dict[str, LintedModel] = {}
    findings = list(rules.repository.check_root(repository, context.host))
    if context.client_shm:
        findings += rules.releases.check_clients(context.host.triton, shown)
    others: list[Finding] = []
    for folder in repository.models:
        by_name = _named_configs(folder)
        own = f"{CONFIGS}/{context.config_name}.pbtxt"
        chosen = own if own in by_name else CONFIG
        models[folder.name], found = _lint_model(folder, chosen, context.host)
        findings += found
        for other in by_name - {chosen}:
            others += _lint_model(folder, other, context.host)[1]
    return _Found(path.resolve(), models, findings, others)


def _finished(together: Sequence[_Found], context: Context) -> list[Finding]:
    """All findings of the repositories of one server, those across their models included."""
    repositories = [found.models for found in together]
    findings = [finding for found in together for finding in found.findings]
    findings += rules.repository.check_names(repositories, context.host)
    refused = {finding.model for finding in findings if not finding.effect.loads}
    refused |= {name for models in repositories for name, model in models.items() if model.config is None}
    for models in repositories:
        seen, ambiguous = _seen_from(models, repositories)
        ensembles = [
            model for model in (models if context.host.namespacing else seen).values() if model.is_ensemble
        ]
        findings += rules.steps.check(seen, refused, ensembles, ambiguous)
        for ensemble in ensembles:
            findings += rules.releases.check_steps(ensemble, seen)
        if not context.host.namespacing:
            break  # all see the same
    return [*findings, *(finding for found in together for finding in found.others)]


def _seen_from(
    own: Mapping[str, LintedModel], repositories: Sequence[Mapping[str, LintedModel]]
) -> tuple[dict[str, LintedModel], dict[str, int]]:
    """The models that steps in one repository can name, its own first; and names that several others have."""
    counts = Counter(name for models in repositories for name in models if name not in own)
    seen = {name: model for models in repositories for name, model in models.items() if counts[name] == 1}
    return seen | dict(own), {name: count for name, count in counts.items() if count > 1}


def _lint_model(folder: LintedFolder, config_file: str, host: Host) -> tuple[LintedModel, list[Finding]]:
    """The model with one of its configurations, and the faults that it has by itself."""
    model, found = load(folder, host, config_file)
    findings = [*found, *rules.files.check_folder(model)]
    if model.config is not None:
        for rule in _MODEL_RULES:
            findings += rule(model)
    return model, findings


def _named_configs(folder: LintedFolder) -> set[str]:
    """configs/<name>.pbtxt: each is what some server starts with."""
    return {file for file in folder.files if file.startswith(f"{CONFIGS}/") and file.endswith(".pbtxt")}
