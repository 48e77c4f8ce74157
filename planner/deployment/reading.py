"""Reads a deployment file. Every message names the field, the value and what is allowed; an unknown field is
refused with the nearest name, a key that is there twice with its lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, get_args

import pydantic
import yaml

from planner.deployment.file import Deployment
from planner.deployment.spec import Spec


def _owners(spec: type[Spec], found: dict[str, type[Spec]]) -> dict[str, type[Spec]]:
    """By key, whose fields stand under it, here and below."""
    for name, field in spec.model_fields.items():
        for inner in _specs_in(field.annotation):
            if name not in found:
                found[name] = inner
                _owners(inner, found)
    return found


def _specs_in(annotation: Any) -> Iterator[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for part in get_args(annotation):
        yield from _specs_in(part)


_OWNERS = _owners(Deployment, {})


class DeploymentError(ValueError):
    """A deployment file that cannot be used; the message has one line per fault."""


class _OnceLoader(yaml.SafeLoader):
    """YAML takes the last of equal keys without a word: of two `groups:` half of the fleet."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in lines:
                    said = (
                        f"{key.value!r} stands in line {lines[key.value]} and in line {line}; expected once"
                    )
                    raise yaml.constructor.ConstructorError(None, None, said, None)
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def load_deployment(path: Path) -> Deployment:
    """Read and validate a deployment file. Raises DeploymentError, with one line per fault."""
    try:
        plain = yaml.load(path.read_text(encoding="utf-8-sig"), _OnceLoader)
    except OSError as error:
        raise DeploymentError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeploymentError(f"{path}: not YAML: {error}") from error
    return parse_deployment(plain, str(path))


def parse_deployment(plain: Any, where: str) -> Deployment:
    """Validate plain data. Raises DeploymentError."""
    try:
        return Deployment.model_validate(plain)
    except pydantic.ValidationError as error:
        lines = [_fault(where, fault) for fault in error.errors()]
        raise DeploymentError("\n".join(lines)) from error


def _fault(where: str, fault: Any) -> str:
    field = ".".join(str(part) for part in fault["loc"]) or "(top level)"
    value = fault["input"]
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | type(None)) else ""
    if fault["type"] == "extra_forbidden":
        return f"{where}: {field}: unknown field{_nearest(fault['loc'])}"
    return f"{where}: {field}: {fault['msg'].removeprefix('Value error, ')}{shown}"


def _nearest(loc: tuple[Any, ...]) -> str:
    owner = _owner_of(loc)
    if owner is None:
        return ""
    near = difflib.get_close_matches(str(loc[-1]), owner.model_fields, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"; {hint}allowed: {', '.join(owner.model_fields)}"


def _owner_of(loc: tuple[Any, ...]) -> type[Spec] | None:
    """The spec class whose field list `loc` ends in."""
    named = [part for part in loc[:-1] if isinstance(part, str)]
    return _OWNERS.get(named[-1]) if named else Deployment
