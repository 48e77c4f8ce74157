"""Every code of a finding and what the server does with such a model: one table.

The effects were seen on Triton 2.51.0; tests/lint loads a repository for each in a real server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model_repo_generator.lint.finding import Effect
from model_repo_generator.lint.releases import SEEN, Release

EFFECTS: Mapping[str, Effect] = {
    # the text of config.pbtxt
    "syntax": Effect.REFUSED,
    "unknown-field": Effect.REFUSED,
    "newer-field": Effect.REFUSED,
    "duplicate-key": Effect.MISBEHAVES,
    # folders and files
    "repository-empty": Effect.DOUBTFUL,
    "stray-folder": Effect.REFUSED,
    "dangling-link": Effect.DIES,
    "dangling-link-inside": Effect.REFUSED,
    "unreadable": Effect.REFUSED,
    "model-twice": Effect.REFUSED,
    "folder-name": Effect.REFUSED,
    "folder-name-hangs": Effect.HANGS,
    "config-missing": Effect.REFUSED,
    "config-folder": Effect.DIES,
    "config-completed": Effect.DOUBTFUL,
    "version-missing": Effect.REFUSED,
    "version-huge": Effect.DIES,
    "version-misread": Effect.HANGS,
    "version-folder": Effect.DOUBTFUL,
    "version-zero": Effect.DOUBTFUL,
    "version-absent": Effect.DOUBTFUL,
    "model-file": Effect.REFUSED,
    "model-file-hangs": Effect.HANGS,
    "model-file-unserved": Effect.DOUBTFUL,
    "model-file-capability": Effect.DOUBTFUL,
    "model-code": Effect.REFUSED,
    "model-code-incomplete": Effect.MISBEHAVES,
    "label-file": Effect.REFUSED,
    # one model's fields
    "name": Effect.REFUSED,
    "backend": Effect.REFUSED,
    "backend-unknown": Effect.DOUBTFUL,
    "platform": Effect.REFUSED,
    "platform-ignored": Effect.DOUBTFUL,
    "runtime": Effect.REFUSED,
    "agent": Effect.REFUSED,
    "tensor-name": Effect.REFUSED,
    "data-type": Effect.REFUSED,
    "dims": Effect.REFUSED,
    "reshape": Effect.REFUSED,
    "tensor-format": Effect.REFUSED,
    "tensorrt-only": Effect.REFUSED,
    "batch-io": Effect.REFUSED,
    "duplicate-tensor": Effect.MISBEHAVES,
    "no-tensors": Effect.DOUBTFUL,
    "tensor-completed": Effect.DOUBTFUL,
    "max-batch-size": Effect.REFUSED,
    "dynamic-batching-unbatched": Effect.DOUBTFUL,
    "preferred-batch": Effect.REFUSED,
    "priority-levels": Effect.REFUSED,
    "priority-unused": Effect.DOUBTFUL,
    "preserve-ordering": Effect.REFUSED,
    "sequence-control": Effect.REFUSED,
    "slot-utilization": Effect.REFUSED,
    # Refused; and by chance, more often while other models load, a server of 2.51 ends of it.
    "initial-state": Effect.REFUSED,
    "initial-state-file": Effect.REFUSED,
    "initial-state-folder": Effect.DIES,
    "state-swapped": Effect.MISBEHAVES,
    "response-cache": Effect.REFUSED,
    "gpu": Effect.REFUSED,
    "gpus-not-allowed": Effect.REFUSED,
    "gpu-twice": Effect.DOUBTFUL,
    "instance-count": Effect.DOUBTFUL,
    "duplicate-instance": Effect.DOUBTFUL,
    "profile": Effect.REFUSED,
    "profile-huge": Effect.DIES,
    "profile-misread": Effect.DOUBTFUL,
    "python-parameter": Effect.REFUSED,
    "execution-env": Effect.REFUSED,
    "execution-env-elsewhere": Effect.DOUBTFUL,
    "warmup-batch": Effect.DIES,
    "warmup-batch-zero": Effect.DOUBTFUL,
    "warmup-input": Effect.REFUSED,
    "warmup-input-unknown": Effect.DOUBTFUL,
    "warmup-file": Effect.REFUSED,
    # ensembles
    "ensemble-field": Effect.REFUSED,
    "ensemble-steps": Effect.REFUSED,
    "ensemble-map": Effect.REFUSED,
    "ensemble-unused": Effect.REFUSED,
    "ensemble-unmade": Effect.REFUSED,
    "ensemble-twice": Effect.REFUSED,
    "ensemble-input-written": Effect.MISBEHAVES,
    "ensemble-tensor": Effect.REFUSED,
    "ensemble-type": Effect.REFUSED,
    "ensemble-shape": Effect.REFUSED,
    "ensemble-shape-open": Effect.DOUBTFUL,
    "ensemble-batch": Effect.REFUSED,
    "ensemble-batch-zero": Effect.DOUBTFUL,
    "ensemble-decoupled": Effect.REFUSED,
    "ensemble-cycle": Effect.REFUSED,
    "step-model": Effect.REFUSED,
    "step-version": Effect.REFUSED,
    "step-refused": Effect.REFUSED,
    "step-completed": Effect.DOUBTFUL,
    # what differs in other releases than 2.51: rules_releases.py
    "backend-removed": Effect.REFUSED,
    "folder-name-checked": Effect.DOUBTFUL,
    "aoti-filename": Effect.REFUSED,
    "runtime-weights": Effect.REFUSED,
    "model-metrics": Effect.REFUSED,
    "inflight-per-request": Effect.DOUBTFUL,
    "queue-full-stuck": Effect.DOUBTFUL,
    "load-name": Effect.DOUBTFUL,
    "gpu-too-old": Effect.REFUSED,
    "capability-too-old": Effect.DOUBTFUL,
    "client-shm": Effect.DOUBTFUL,
    # a generated deployment
    "host-port": Effect.REFUSED,
    "host-device": Effect.MISBEHAVES,
    "manifest": Effect.MISBEHAVES,
    "manifest-model": Effect.REFUSED,
    "manifest-unused": Effect.DOUBTFUL,
    "manifest-tensors": Effect.MISBEHAVES,
    "manifest-batch": Effect.MISBEHAVES,
    "manifest-place": Effect.MISBEHAVES,
    "manifest-program": Effect.DOUBTFUL,
    "manifest-executor": Effect.MISBEHAVES,
    "gpu-shared": Effect.MISBEHAVES,
    "gpu-id": Effect.REFUSED,
    "gpu-memory": Effect.MISBEHAVES,
}


@dataclass(frozen=True)
class ReleaseChange:
    """What servers from release `since` on do instead."""

    since: Release
    effect: Effect
    source: str


CHANGES: Mapping[str, ReleaseChange] = {
    code: ReleaseChange(
        Release(72), Effect.REFUSED, "read, not run: release notes of 2.72 (exceptions are caught)"
    )
    for code in ("profile-huge", "initial-state-folder")
}
NEVER_SINCE: Mapping[str, Release] = {"folder-name-hangs": Release(60)}
"""Codes of what newer releases do no longer; python_backend PR 404 starts stubs without a shell."""


def effect_of(code: str, release: Release = SEEN) -> tuple[Effect, str]:
    """What a server of this release does, and where that was read ('' if it was seen)."""
    change = CHANGES.get(code)
    if change is not None and release >= change.since:
        return change.effect, change.source
    return EFFECTS[code], ""
