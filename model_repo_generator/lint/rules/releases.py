"""What releases after 2.51 do otherwise. None of them could be run here: each rule names where it was read.

Rules
- A rule holds from release `since` on, up to but without `before`: the release whose notes tell of a change,
  else the first one that was cut after its pull request.
- Where nobody said which release it is, a fault that a later one has mended is a warning that says so.
- Fields that came later are in schema.py, platforms in backends.py, effects that changed in codes.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from model_repo_generator.lint import backends
from model_repo_generator.lint.finding import Effect, Finding, Level
from model_repo_generator.lint.model import LintedModel, make_finding
from model_repo_generator.lint.releases import Release
from model_repo_generator.lint.text import Path
from planner.cluster import Cluster
from planner.profiling.gpus import CATALOGUE

LEAST_CAPABILITY = 7.5
_TOO_OLD = {"Pascal", "Volta"}
"""Architectures below it."""
_CAPABILITY = Release(56)
_CAPABILITY_SOURCE = "read, not run: release notes 25.03 (7.5 and later; 24.06 said 6.0)"
_CLIENT_SHM = Release(68)
_CLIENT_SHM_SOURCE = "read, not run: server PRs 8721 and 8739"
_SHELL_UNSAFE = re.compile(r"[\s$;&'\"()|\\`<>]")

Said = Iterator[tuple[Path, str]]
"""Field and message."""


@dataclass(frozen=True)
class ReleaseRule:
    """A check of one model in the releases [since, before)."""

    code: str
    since: Release
    source: str
    check: Callable[[LintedModel], Said]
    before: Release | None = None

    def holds(self, release: Release) -> bool:
        """Whether servers of this release do so."""
        return self.since <= release and (self.before is None or release < self.before)

    def found(self, model: LintedModel) -> Iterator[Finding]:
        """Its findings on one model."""
        source = f"read, not run: {self.source}"
        for path, said in self.check(model):
            if self.before is None or not model.host.assumed:
                yield model.finding(self.code, path, said, source=source)
            else:
                last = Release(self.before.minor - 1)
                said = f"on Triton {self.since} to {last}, {said}; tell which release yours is by --triton"
                found = model.finding(self.code, path, said, source=source)
                yield replace(found, level=Level.WARNING, effect=Effect.DOUBTFUL)


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on one model that the servers' release has."""
    for rule in RULES:
        if rule.holds(model.host.triton):
            yield from rule.found(model)


def check_steps(ensemble: LintedModel, models: Mapping[str, LintedModel]) -> Iterator[Finding]:
    """Ensembles whose steps have a queue of limited size."""
    if not Release(63) <= ensemble.host.triton < Release(66):
        return
    for index, step in enumerate(ensemble.config.ensemble_scheduling.step):
        used = models.get(step.model_name)
        if used is None or used.config is None:
            continue
        batching = used.config.dynamic_batching
        policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
        if any(policy.max_queue_size for policy in policies):
            path = ("ensemble_scheduling", "step", index, "model_name")
            said = f"requests that the full queue of {used.name!r} refuses may stay without an answer"
            source = "read, not run: core PRs 466 and 470"
            yield ensemble.finding("queue-full-stuck", path, said, source=source)


def check_cluster(cluster: Cluster, release: Release, shown: str) -> Iterator[Finding]:
    """GPU classes that the containers' CUDA no longer supports. `shown`: the deployment file."""
    if release < _CAPABILITY:
        return
    old = {gpu.name for gpu in CATALOGUE if gpu.architecture in _TOO_OLD}
    for gpu_class in cluster.gpu_classes:
        if gpu_class.name in old:
            said = (
                f"Triton {release} ({release.container}) needs compute capability {LEAST_CAPABILITY}; "
                f"{gpu_class.name} has less: keep an older release on its servers"
            )
            yield make_finding("gpu-too-old", "", shown, 0, gpu_class.name, said, _CAPABILITY_SOURCE)


def check_clients(release: Release, shown: str) -> Iterator[Finding]:
    """Clients that register shared memory. `shown`: the repository."""
    if release >= _CLIENT_SHM:
        said = "clients may register shared memory only if the server is started with --allow-client-shm=true"
        yield make_finding("client-shm", "", shown, 0, "", said, _CLIENT_SHM_SOURCE)


def _backend_removed(model: LintedModel) -> Said:
    there = model.host.backends
    if model.backend == "tensorflow" and (there is None or "tensorflow" not in there):
        yield ("backend",), "containers have no TensorFlow backend since 25.03; convert the model to ONNX"


def _folder_name(model: LintedModel) -> Said:
    unsafe = sorted(set(_SHELL_UNSAFE.findall(model.name)))
    if model.backend == "python" and unsafe:
        said = f"the Python backend checks names for characters; it may refuse {' '.join(unsafe)!r}"
        yield ("name",), said


def _aoti_filename(model: LintedModel) -> Said:
    if model.config.platform == backends.AOTI and not model.config.default_model_filename:
        said = 'model.pt is looked for instead of model.pt2; set default_model_filename: "model.pt2"'
        yield ("platform",), said


def _runtime_weights(model: LintedModel) -> Said:
    config = model.config
    if model.backend != "pytorch" or config.runtime != backends.PYTHON_RUNTIME:
        return
    if config.platform or config.default_model_filename:
        return
    for folder in model.folder.versions.numbers.values():
        if model.folder.has(f"{folder}/model.py") and model.folder.has(f"{folder}/model.pt"):
            said = (
                f"the weights in {folder}/model.pt are loaded as a TorchScript, which fails; "
                'set default_model_filename: "model.py"'
            )
            yield ("runtime",), said
            return


def _model_metrics(model: LintedModel) -> Said:
    for index, control in enumerate(model.config.model_metrics.metric_control):
        path: Path = ("model_metrics", "metric_control", index)
        if not control.metric_identifier.family:
            yield (*path, "metric_identifier"), "needs a family"
        if not control.histogram_options.buckets:
            yield (*path, "histogram_options"), "needs buckets"


def _inflight_per_request(model: LintedModel) -> Said:
    if model.config.ensemble_scheduling.max_inflight_requests:
        said = "limits the answers of each request of a decoupled step, not the requests of the ensemble"
        yield ("ensemble_scheduling", "max_inflight_requests"), said


def _load_name(model: LintedModel) -> Said:
    if ".." in model.name:
        yield ("name",), "a request to load or unload a model is refused if its name has '..'"


def _capability(model: LintedModel) -> Said:
    for index, key in enumerate(sorted(model.config.cc_model_filenames)):
        if _number(key) < LEAST_CAPABILITY:
            said = f"GPUs of compute capability {key} are no longer supported; this file is never read"
            yield ("cc_model_filenames", index), said


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return LEAST_CAPABILITY


RULES: tuple[ReleaseRule, ...] = (
    ReleaseRule("model-metrics", Release(52), "core PR 405 (ValidateModelMetrics)", _model_metrics),
    ReleaseRule("backend-removed", Release(56), "server PR 8068", _backend_removed),
    ReleaseRule("capability-too-old", _CAPABILITY, "release notes 25.03", _capability),
    ReleaseRule("folder-name-checked", Release(60), "python_backend PR 404", _folder_name),
    ReleaseRule(
        "inflight-per-request",
        Release(63),
        "server issue 8597, core PR 482",
        _inflight_per_request,
        before=Release(68),
    ),
    ReleaseRule("aoti-filename", Release(65), "core PR 484", _aoti_filename, before=Release(68)),
    ReleaseRule("load-name", Release(67), "server PR 8672, core PR 500", _load_name),
    ReleaseRule(
        "runtime-weights",
        Release(68),
        "core PR 518, release notes of 2.73",
        _runtime_weights,
        before=Release(73),
    ),
)
