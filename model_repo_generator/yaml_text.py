"""Plain data -> YAML text that says the same to every parser of YAML 1.1 and 1.2.

Rules
- Same data, same bytes: keys stay in the order they were put in, which is the order of Kubernetes' own
  documents.
- A text stands unquoted only where no parser can take it for anything else. PyYAML alone does not suffice: it
  leaves `1e3` and `y` unquoted, which Kubernetes' parser reads as a number and as true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

HEADER = "# Written by ppipe; change the deployment file or the options, not this.\n"

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = {"y", "yes", "n", "no", "on", "off", "true", "false", "null", "nan", "inf"}
_WIDTH = 1 << 20
"""Texts are not folded: a line of PromQL is one line in a diff."""


class _Dumper(yaml.SafeDumper):
    """No anchors: repeated data is written out, as kustomize's patches expect."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(value) is not None and value.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def dump(documents: Iterable[Any]) -> str:
    """The documents, one after the other."""
    return HEADER + yaml.dump_all(
        list(documents), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=_WIDTH
    )
