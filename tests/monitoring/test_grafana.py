"""The dashboard against Grafana's own models of it: every field is one of theirs, every value of its type.

No Grafana is run: neither Debian nor PyPI nor npm has one.
"""

from __future__ import annotations

import copy
import json
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from pydantic import ConfigDict, TypeAdapter, ValidationError

THEIRS = "grafana_foundation_sdk"
register_default_plugins()


def lost(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """What their model does not say again."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from lost(value, theirs.get(key), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(*pair, f"{where}[{index}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} became {theirs!r}"


def mistyped(model: Any, where: str = "") -> Iterator[str]:
    """Values that are not of the types that their classes declare."""
    if isinstance(model, list | dict):
        for key, item in model.items() if isinstance(model, dict) else enumerate(model):
            yield from mistyped(item, f"{where}[{key}]")
    if isinstance(model, Enum) or not type(model).__module__.startswith(THEIRS):
        return
    for name, hint in typing.get_type_hints(type(model)).items():
        value = getattr(model, name)
        try:
            TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            yield f"{where}.{name}: {value!r}: {error.errors()[0]['msg']}"
        yield from mistyped(value, f"{where}.{name}")


def faults(board: dict[str, Any]) -> list[str]:
    model = Dashboard.from_json(board)
    again = json.loads(JSONEncoder().encode(model))
    return [*lost(board, again), *mistyped(model)]


def test_grafana_knows_every_field_of_the_dashboard(bundle: dict[str, str]) -> None:
    board = json.loads(bundle["dashboard.json"])
    assert faults(board) == []
    assert {type(panel.options).__module__ for panel in Dashboard.from_json(board).panels or []} == {
        f"{THEIRS}.models.timeseries"
    }, "panels are known by their kind, so their options were looked at too"


def rename(panel: dict[str, Any]) -> None:
    panel["targets"][0]["expression"] = panel["targets"][0].pop("expr")


def number(panel: dict[str, Any]) -> None:
    panel["title"] = 7


def mode(panel: dict[str, Any]) -> None:
    panel["options"]["tooltip"]["mode"] = "every"


def stacking(panel: dict[str, Any]) -> None:
    panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] = "up"


@pytest.mark.parametrize("change", [rename, number, mode, stacking])
def test_what_grafana_would_not_take_is_found(
    bundle: dict[str, str], change: Callable[[dict[str, Any]], None]
) -> None:
    board = copy.deepcopy(json.loads(bundle["dashboard.json"]))
    change(board["panels"][0])
    assert faults(board)
