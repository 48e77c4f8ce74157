"""What an entry schedules of a model, by the shards that it owns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model_repo_generator.emulated import EmulatedPipeline, EmulatedStage, build_manifest
from planner.manifest import Chain, EntryPorts, ModelEntry
from planner.owned import Fence, owned_part, shard_orders
from planner.shards import Shard
from tests.live.data_plane_client import OUTPUT, two_stage_model

LATENCY_US = (5_000, 6_000)
FIRST = Shard(("a", "b"), 300.0, (((0,), (0,)), ((),)))
SECOND = Shard(("b", "a"), 200.0, (((1,), (1,)), ((0,),)))
THIRD = Shard(("a", "b"), 100.0, (((), ()), ((0,),)))


def model_of(*shards: Shard) -> ModelEntry:
    """A pipeline of two stages with two workers each, and one of one stage with one; a chain each."""
    whole = two_stage_model()
    one = EmulatedPipeline(2, (EmulatedStage(LATENCY_US, ("slow-0",), OUTPUT),))
    (entry,) = build_manifest([two_stage_model(pipelines=(*whole.pipelines, one))], 31_000, "d").models
    chains = (
        Chain("first", 0, "slow-0", ("tiny.p0.s0.w0", "tiny.p0.s1.w0")),
        Chain("mixed", 0, "slow-0", ("tiny.p0.s0.w0", "tiny.p0.s1.w1")),
        Chain("second", 1, "slow-0", ("tiny.p1.s0.w0",)),
    )
    return replace(entry, shards=shards, chains=chains)


def workers(entry: ModelEntry) -> list[str]:
    return [worker.name for _, worker in entry.served.workers()]


def test_who_owns_nothing_has_the_model_without_workers() -> None:
    part = owned_part(model_of(FIRST, SECOND), {})
    assert part.entry.served.pipelines == part.entry.programs == part.entry.chains == ()
    assert part.entry.served.planned_rps == 0
    assert part.fences == {}
    assert part.entry.public_inputs[0].name == "frame"


def test_what_is_owned_is_numbered_anew_with_its_programs_and_chains() -> None:
    entry = model_of(FIRST, SECOND)
    part = owned_part(entry, {"0": 7})
    assert workers(part.entry) == ["tiny.p0.s0.w0", "tiny.p0.s1.w0"]
    assert part.entry.programs == entry.programs[:1]
    assert [(chain.name, chain.pipeline) for chain in part.entry.chains] == [("first", 0)]
    assert part.fences == dict.fromkeys(workers(part.entry), Fence("0", 7))
    assert part.entry.served.planned_rps == 300
    alone = owned_part(model_of(FIRST, THIRD), {"1": 2}).entry
    assert workers(alone) == ["tiny.p1.s0.w0"]
    assert [(chain.name, chain.pipeline) for chain in alone.chains] == [("second", 0)]
    assert alone.programs == entry.programs[1:]


def test_who_adopts_has_the_workers_of_both_each_with_its_own_fence() -> None:
    entry = model_of(FIRST, SECOND)
    part = owned_part(entry, {"0": 7, "1": 3})
    assert part.entry == entry
    assert part.fences["tiny.p0.s0.w0"] == Fence("0", 7)
    assert part.fences["tiny.p0.s0.w1"] == Fence("1", 3)
    assert sorted(part.fences) == sorted(workers(entry))
    three = replace(SECOND, workers=(((1,), (1,)), ((),)))
    some = owned_part(model_of(FIRST, three, THIRD), {"0": 1, "1": 1, "9": 4})
    assert workers(some.entry) == workers(entry)[:4]
    assert [chain.name for chain in some.entry.chains] == ["first", "mixed"]


def test_entries_may_own_a_shard_in_its_order() -> None:
    assert shard_orders(model_of(FIRST, SECOND)) == {"0": ("a", "b"), "1": ("b", "a")}


def test_a_deployment_is_seen_from_each_of_its_entries() -> None:
    made = build_manifest([two_stage_model()], 31_000, "d")
    (entry,) = made.models
    (both,) = [replace(entry, shards=(FIRST, SECOND))]
    port = {"tiny": 31_100}
    other = EntryPorts(replace(made.entry, name="b", grpc_port=31_099), port)
    made = replace(made, entry=replace(made.entry, name="a"), more_entries=(other,), models=(both,))
    seen = made.seen_from("b")
    assert (seen.entry.name, [more.server.name for more in seen.more_entries]) == ("b", ["a"])
    assert seen.models[0].feedback_port == 31_100
    assert seen.seen_from("a") == made
    assert made.seen_from("a") == made
    with pytest.raises(KeyError, match="no entry 'c' in deployment 'd'; it has a, b"):
        made.seen_from("c")
