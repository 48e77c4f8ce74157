"""The rules: each module has those of one subject, as functions that yield findings."""

from model_repo_generator.lint.rules import (
    batching,
    ensemble,
    files,
    instances,
    manifest,
    model_files,
    python,
    releases,
    repository,
    sequence,
    steps,
    tensors,
    warmup,
)

__all__ = [
    "batching",
    "ensemble",
    "files",
    "instances",
    "manifest",
    "model_files",
    "python",
    "releases",
    "repository",
    "sequence",
    "steps",
    "tensors",
    "warmup",
]
