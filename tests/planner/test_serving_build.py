"""Tables and links of a served model, by hand-made plans of one pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.cluster import Cluster, Executor, GpuClass, Server
from planner.placement import LinkShare, PlacedWorker, Placement
from planner.plan import BlockRange, ModelPlan, Plan, Stage
from planner.problem import Demand, Problem
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile
from planner.rates import assemble
from planner.serving import ServedLink
from planner.serving_build import served_model

FAST = LatencyTable(gpu="A", slices_per_gpu=1, batch_sizes=(1, 2, 4), latency_us=((10.2, 20, 30), (5, 9, 17)))
SLOW = LatencyTable(gpu="B", slices_per_gpu=2, batch_sizes=(1, 2), latency_us=((40, 70), (20, 30)))
MODEL = ModelProfile(model="net", cut_bytes=(1250,), tables=(FAST, SLOW), overheads=Overheads(stage_us=1))
CLUSTER = Cluster(
    gpu_classes=(GpuClass("A"), GpuClass("B", max_slices_per_gpu=2)),
    servers=(Server("a0", "A", 2, 1.0), Server("a1", "A", 1, 1.0), Server("b0", "B", 1, 1.0)),
)
PROBLEM = Problem(cluster=CLUSTER, profile=Profile((MODEL,)), demands=(Demand("net", slo_us=1000, weight=1),))
STAGES = (
    Stage(BlockRange(0, 1), gpu="A", slices_per_gpu=1, batch_size=1, workers=3, latency_us=11.2),
    Stage(BlockRange(1, 2), gpu="B", slices_per_gpu=2, batch_size=1, workers=2, latency_us=21),
)
PIPELINE = assemble(MODEL, CLUSTER, STAGES)
PLAN = Plan(
    planner="ppipe",
    objective=1,
    upper_bound=1,
    gap=0,
    solver="",
    models=(ModelPlan("net", 1000, 0.4, (PIPELINE,), PIPELINE.throughput_rps),),
)


def test_tables_reach_each_places_own_largest_batch_and_round_up() -> None:
    (pipeline,) = served_model(PLAN, PROBLEM, "net").pipelines
    assert pipeline.batch_size == 1
    assert [stage.latency_us for stage in pipeline.stages] == [(12, 21, 31, 31), (21, 31)]
    assert pipeline.transfer_us == ((10, 20),), "batches are as large as both stages take"


def test_a_batch_between_profiled_sizes_takes_the_next_larger_ones_time() -> None:
    alone = assemble(MODEL, CLUSTER, (replace(STAGES[0], blocks=BlockRange(0, 2)),))
    plan = replace(PLAN, models=(replace(PLAN.models[0], pipelines=(alone,)),))
    (pipeline,) = served_model(plan, PROBLEM, "net").pipelines
    assert pipeline.stages[0].latency_us == (17, 30, 48, 48)


def test_memory_ends_the_table() -> None:
    model = replace(MODEL, weight_bytes=(100, 100), activation_bytes=(10, 10))
    cluster = replace(
        CLUSTER, gpu_classes=(GpuClass("A", memory_bytes=110, executor=Executor.CPU), CLUSTER.gpu_classes[1])
    )
    problem = replace(PROBLEM, cluster=cluster, profile=Profile((model,)))
    (pipeline,) = served_model(PLAN, problem, "net").pipelines
    assert [len(stage.latency_us) for stage in pipeline.stages] == [1, 2]


def test_paper_links_are_filled_in_worker_order_by_the_larger_of_both_server_sizes() -> None:
    (pipeline,) = served_model(PLAN, PROBLEM, "net").pipelines
    first, second = pipeline.stages
    # A has up to 2 GPUs per server: 2 whole GPUs share a link, and 2 * 2 slices of B.
    assert [worker.uplink for worker in first.workers] == ["net.p0.s0.up0", "net.p0.s0.up0", "net.p0.s0.up1"]
    assert {worker.downlink for worker in second.workers} == {"net.p0.s1.down0"}
    assert [worker.name for worker in second.workers] == ["net.p0.s1.w0", "net.p0.s1.w1"]


def test_placed_links_are_the_servers_at_full_speed_and_a_share_of_their_time() -> None:
    where = [("a0", 0), ("a0", 1), ("a1", 0)]
    placement = Placement(
        workers=(
            *(PlacedWorker("net", 0, 0, i, server, gpu, 0) for i, (server, gpu) in enumerate(where)),
            *(PlacedWorker("net", 0, 1, i, "b0", 0, i) for i in range(2)),
        ),
        link_shares=(
            LinkShare("net", "a0", uplink=1.0, downlink=0.0),
            LinkShare("net", "a1", uplink=0.5, downlink=0.0),
            LinkShare("net", "b0", uplink=0.0, downlink=0.8),
        ),
    )
    model = served_model(replace(PLAN, placement=placement), PROBLEM, "net", links="placed")
    (pipeline,) = model.pipelines
    assert pipeline.transfer_us == ((10, 20),)
    assert model.links == (ServedLink("a1.up", 0.5), ServedLink("b0.down", 0.8))
    assert [worker.uplink for worker in pipeline.stages[0].workers] == ["a0.up", "a0.up", "a1.up"]
    with pytest.raises(ValueError, match="no placement"):
        served_model(PLAN, PROBLEM, "net", links="placed")
