"""Field names of a tree against Triton's ModelConfig: all unknown ones at once, with the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint.text import Node, Path

SERVER = "2.51.0"
NEWER_FIELDS = frozenset(
    {"inference.ModelConfig.model_metrics", "inference.ModelEnsembling.max_inflight_requests"}
)
"""In the client's ModelConfig and not in that of server 2.51.0, which refuses them as unknown."""


def faults(tree: Node) -> Iterator[tuple[str, Path, int, str]]:
    """(code, path, line, message) of every field that the server does not know."""
    yield from _faults(tree, triton.ModelConfig.DESCRIPTOR, ())


def _faults(node: Node, descriptor: Any, path: Path) -> Iterator[tuple[str, Path, int, str]]:
    seen: dict[str, int] = {}
    known = descriptor.fields_by_name
    for child in node.fields:
        nth = seen.get(child.name, 0)
        seen[child.name] = nth + 1
        found = known.get(child.name)
        here: Path = (*path, child.name, nth) if found and found.is_repeated else (*path, child.name)
        if found is None:
            yield "unknown-field", here, child.line, _unknown(child.name, descriptor)
        elif found.full_name in NEWER_FIELDS:
            message = f"Triton {SERVER} does not know this field; newer servers do"
            yield "newer-field", here, child.line, message
        elif found.message_type is not None:
            yield from _faults(child, found.message_type, here)


def _unknown(name: str, descriptor: Any) -> str:
    near = difflib.get_close_matches(name, list(descriptor.fields_by_name), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{descriptor.name} has no field {name!r}{hint}"
