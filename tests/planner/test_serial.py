"""Round trips through JSON, and what each kind of damage is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cluster import Cluster, Executor, GpuClass, Server, StatedSpeed
from planner.serial import FormatError, content_hash, dumps, loads


@dataclass(frozen=True)
class Inner:
    name: str
    pair: tuple[int, float]


@dataclass(frozen=True)
class Outer:
    items: tuple[Inner, ...]
    table: Mapping[str, float]
    mode: Literal["drop", "serve"] = "drop"
    executor: Executor = Executor.CPU
    limit: int | None = None


inner = st.builds(
    Inner,
    name=st.text(max_size=5),
    pair=st.tuples(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False)),
)
outer = st.builds(
    Outer,
    items=st.lists(inner, max_size=3).map(tuple),
    table=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    mode=st.sampled_from(["drop", "serve"]),
    executor=st.sampled_from(Executor),
    limit=st.none() | st.integers(),
)


@given(outer)
def test_what_is_written_reads_back_equal(record: Outer) -> None:
    assert loads(Outer, dumps(record)) == record


def test_order_of_a_mapping_does_not_change_the_bytes() -> None:
    one = Outer(items=(), table={"a": 1.0, "b": 2.0})
    two = Outer(items=(), table={"b": 2.0, "a": 1.0})
    assert dumps(one) == dumps(two)
    assert content_hash(one) == content_hash(two)


PLAIN: dict[str, Any] = {"items": [{"name": "x", "pair": [1, 2.0]}], "table": {"a": 1.0}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"itmes": []}, r"Outer\.itmes: unknown field; Outer has items, table"),
        ({"items": [{"name": "x"}]}, r"Outer\.items\[0\]\.pair: missing"),
        ({"items": [{"name": 3, "pair": [1, 2.0]}]}, r"Outer\.items\[0\]\.name: 3 is not a str"),
        ({"items": [{"name": "x", "pair": [1]}]}, r"pair: 1 items; expected 2"),
        ({"items": 7}, r"Outer\.items: 7 is not a list"),
        ({"table": {"a": "b"}}, r"Outer\.table\.a: 'b' is not a float"),
        ({"table": []}, r"Outer\.table: \[\] is not an object"),
        ({"mode": "late"}, r"Outer\.mode: 'late' is not one of 'drop', 'serve'"),
        ({"executor": "tpu"}, r"Outer\.executor: 'tpu' is not one of 'cuda', 'cpu', 'emulated'"),
        ({"limit": True}, r"Outer\.limit: True is not an int"),
    ],
)
def test_damage_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        loads(Outer, json.dumps(PLAIN | change))


def test_not_json_and_not_finite() -> None:
    with pytest.raises(FormatError, match="not JSON"):
        loads(Outer, "{")
    with pytest.raises(FormatError, match="finite"):
        loads(Outer, json.dumps(PLAIN).replace("1.0", "NaN"))


def test_a_constructor_that_refuses_becomes_a_format_error() -> None:
    cluster = Cluster(
        gpu_classes=(GpuClass(name="L4", stated=StatedSpeed(gflop_per_s=1.0, gbyte_per_s=1.0)),),
        servers=(Server(name="a", gpu="L4", gpu_count=2, bandwidth_gbps=10.0),),
    )
    assert loads(Cluster, dumps(cluster)) == cluster
    with pytest.raises(FormatError, match="unknown GPU class 'T4'; known: L4"):
        loads(Cluster, dumps(cluster).replace('"gpu": "L4"', '"gpu": "T4"'))
