"""max_batch_size, dynamic batching and response cache of one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.model import LintedModel
from model_repo_generator.lint.text import Path


def check(model: LintedModel) -> Iterator[Finding]:
    """Every rule on batching."""
    config = model.config
    if config.max_batch_size < 0:
        said = f"{config.max_batch_size} is below 0; 0 means that the model takes no batches"
        yield model.finding("max-batch-size", ("max_batch_size",), said)
    if config.HasField("dynamic_batching"):
        yield from _dynamic(model)
    if config.response_cache.enable:
        yield from _cache(model)


def _dynamic(model: LintedModel) -> Iterator[Finding]:
    batching = model.config.dynamic_batching
    path: Path = ("dynamic_batching",)
    if model.config.max_batch_size == 0:
        said = "does nothing: max_batch_size is 0, so requests are never batched"
        yield model.finding("dynamic-batching-unbatched", path, said)
    yield from preferred(model, path, batching.preferred_batch_size)
    yield from _priorities(model, batching)
    if batching.preserve_ordering:
        yield from _ordering(model, batching)


def preferred(model: LintedModel, path: Path, sizes: Iterable[int]) -> Iterator[Finding]:
    """Preferred batch sizes of a scheduler, which is at `path`."""
    most = model.config.max_batch_size
    for nth, size in enumerate(sizes):
        if not 1 <= size <= most:
            said = f"{size} is not between 1 and max_batch_size {most}"
            yield model.finding("preferred-batch", (*path, "preferred_batch_size", nth), said)


def _priorities(model: LintedModel, batching: Any) -> Iterator[Finding]:
    levels, default = batching.priority_levels, batching.default_priority_level
    path: Path = ("dynamic_batching",)
    if levels and not 1 <= default <= levels:
        said = f"{default} is not between 1 and priority_levels {levels}"
        yield model.finding("priority-levels", (*path, "default_priority_level"), said)
    for nth, level in enumerate(batching.priority_queue_policy):
        here: Path = (*path, "priority_queue_policy", nth)
        if levels == 0:
            yield model.finding("priority-unused", here, "is never used: priority_levels is 0")
        elif not 1 <= level <= levels:
            said = f"key {level} is not between 1 and priority_levels {levels}"
            yield model.finding("priority-levels", here, said)


def _ordering(model: LintedModel, batching: Any) -> Iterator[Finding]:
    path: Path = ("dynamic_batching", "preserve_ordering")
    if batching.priority_levels > 1:
        said = f"goes with one priority level, not {batching.priority_levels}"
        yield model.finding("preserve-ordering", path, said)
    policies = (batching.default_queue_policy, *batching.priority_queue_policy.values())
    for policy in policies:
        if policy.default_timeout_microseconds and policy.timeout_action == triton.ModelQueuePolicy.DELAY:
            yield model.finding("preserve-ordering", path, "does not go with timeout_action DELAY")
            return


def _cache(model: LintedModel) -> Iterator[Finding]:
    path: Path = ("response_cache", "enable")
    if model.config.HasField("sequence_batching"):
        yield model.finding("response-cache", path, "does not go with sequence_batching")
    if model.config.model_transaction_policy.decoupled:
        yield model.finding("response-cache", path, "does not go with a decoupled model")
