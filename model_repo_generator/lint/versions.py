"""Which of a model's version folders a server loads."""

from __future__ import annotations

from typing import Any

from model_repo_generator.lint.folders import VersionFolders


def served_versions(config: Any, folders: VersionFolders) -> frozenset[int]:
    """By version_policy; the newest one where there is none."""
    there = sorted(folders.numbers, reverse=True)
    chosen = config.version_policy.WhichOneof("policy_choice")
    if chosen == "all":
        return frozenset(there)
    if chosen == "specific":
        return frozenset(there) & frozenset(config.version_policy.specific.versions)
    newest = config.version_policy.latest.num_versions if chosen == "latest" else 1
    return frozenset(there[:newest])
