"""Field names of a tree against Triton's ModelConfig: all unknown ones at once, with the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.releases import SEEN, Release
from model_repo_generator.lint.text import Node, Path


@dataclass(frozen=True)
class NewField:
    """A field that servers before release `since` do not know, and so refuse."""

    since: Release
    source: str


NEW_FIELDS: Mapping[str, NewField] = {
    "inference.ModelConfig.model_metrics": NewField(Release(52), "core PR 405, tritonclient 2.52"),
    "inference.ModelEnsembling.max_inflight_requests": NewField(
        Release(63), "server PR 8458, tritonclient 2.63"
    ),
}
"""Of the ModelConfig that is linted with, which is that of the newest client."""


@dataclass(frozen=True)
class Fault:
    """A field that the server does not know."""

    code: str
    path: Path
    line: int
    said: str
    source: str = ""


def faults(tree: Node, release: Release = SEEN) -> Iterator[Fault]:
    """Every field that a server of this release does not know."""
    yield from _faults(tree, triton.ModelConfig.DESCRIPTOR, (), release)


def _faults(node: Node, descriptor: Any, path: Path, release: Release) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    known = descriptor.fields_by_name
    for child in node.fields:
        nth = seen.get(child.name, 0)
        seen[child.name] = nth + 1
        found = known.get(child.name)
        here: Path = (*path, child.name, nth) if found and found.is_repeated else (*path, child.name)
        if found is None:
            yield Fault("unknown-field", here, child.line, _unknown(child.name, descriptor))
            continue
        new = NEW_FIELDS.get(found.full_name)
        if new is not None and release < new.since:
            said = f"Triton {release} does not know this field; {new.since} ({new.since.container}) does"
            yield Fault("newer-field", here, child.line, said, new.source)
        elif found.message_type is not None:
            yield from _faults(child, found.message_type, here, release)


def _unknown(name: str, descriptor: Any) -> str:
    near = difflib.get_close_matches(name, list(descriptor.fields_by_name), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{descriptor.name} has no field {name!r}{hint}"
