"""Shards of tables between two plans: each worker in one, each with whole pipelines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.owned import owned_part
from planner.rollout.between import shards_between
from planner.rollout.tables import between, restricted
from planner.serving import ServedModel
from planner.shards import ModelShards, Shard, shard_faults
from tests.planner.test_owned import FIRST, SECOND, THIRD, model_of, workers

ENTRY = model_of(FIRST, SECOND)
TABLE, SHARDS = ENTRY.served, (FIRST, SECOND)
OTHER = (Shard(("b", "a"), 500.0, (((0, 1), (0, 1)), ((0,),))),)
NAMES = sorted(workers(ENTRY))


def check(table: ServedModel, shards: tuple[Shard, ...]) -> None:
    sizes = tuple(tuple(len(stage.workers) for stage in one.stages) for one in table.pipelines)
    kept = tuple(shard for shard in shards if any(all(stages) for stages in shard.workers))
    assert shard_faults(ModelShards("tiny", kept, 1, None, 0, 0), sizes) == []
    assert sum(shard.throughput_rps for shard in shards) == pytest.approx(table.planned_rps)


def test_a_whole_plan_has_its_own() -> None:
    assert shards_between(TABLE, (TABLE, SHARDS), (TABLE, OTHER)) == SHARDS
    assert shards_between(TABLE, (replace(TABLE, planned_rps=1.0), ()), (TABLE, SHARDS)) == ()


def test_workers_stay_with_the_new_plans_shard() -> None:
    left = restricted(TABLE, set(NAMES) - {"tiny.p1.s0.w0"})
    assert left is not None
    found = shards_between(left, (TABLE, SHARDS), (TABLE, OTHER))
    assert [shard.workers for shard in found] == [(((0,), (0,)),), (((1,), (1,)),)]
    assert [shard.order for shard in found] == [("a", "b"), ("b", "a")]


def test_a_shard_that_would_lack_a_stage_leaves_its_workers_to_another() -> None:
    left = restricted(TABLE, set(NAMES) - {"tiny.p0.s1.w1", "tiny.p1.s0.w0"})
    assert left is not None
    found = shards_between(left, (TABLE, SHARDS), (TABLE, OTHER))
    assert [shard.workers for shard in found] == [(((0, 1), (0,)),), (((), ()),)]
    assert found[1].throughput_rps == 0
    nothing = owned_part(replace(ENTRY, served=left, shards=found), {"1": 3})
    assert (nothing.entry.served.pipelines, nothing.fences) == ((), {})


@settings(max_examples=60)
@given(usable=st.sets(st.sampled_from(NAMES)), turned=st.booleans(), three=st.booleans())
def test_every_worker_is_in_one_shard_whatever_is_left(usable: set[str], turned: bool, three: bool) -> None:
    old = (TABLE, OTHER)
    new = (replace(TABLE, planned_rps=400.0), SHARDS)
    if three:  # the third has the second pipeline, the second nothing of it
        first, second = replace(FIRST, throughput_rps=200.0), (((1,), (1,)), ((),))
        new = (new[0], (first, Shard(("b", "a"), 100.0, second), THIRD))
    else:
        new = (new[0], tuple(replace(shard, throughput_rps=200.0) for shard in SHARDS))
    if turned:
        old, new = new, old
    table = between(old[0], new[0], usable)
    if table is None:
        return
    found = shards_between(table, new, old)
    assert len(found) == len(new[1])
    check(table, found)
