"""Placement of random plans: every worker once, GPUs never over-full or shared, pools on two servers,
shares <= 1.
"""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Cluster, GpuClass, Server
from planner.packing import WorkerId, gpus_needed, pack
from planner.placing import place
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage


def make_plan(*models: list[list[tuple[str, int, int]]]) -> Plan:
    """One model per argument: pipelines of (gpu, slices, workers) stages; every hop takes 1 ms per
    frame at 100 rps.
    """
    return Plan(
        planner="ppipe",
        objective=1,
        upper_bound=1,
        gap=0,
        solver="",
        models=tuple(
            ModelPlan(
                model=f"m{number}",
                slo_us=1000,
                slo_margin=0,
                throughput_rps=100,
                pipelines=tuple(
                    Pipeline(
                        stages=tuple(
                            Stage(BlockRange(i, i + 1), gpu, slices, 1, workers, 10.0)
                            for i, (gpu, slices, workers) in enumerate(stages)
                        ),
                        transfer_us=(1000.0,) * (len(stages) - 1),
                        throughput_rps=100,
                    )
                    for stages in pipelines
                ),
            )
            for number, pipelines in enumerate(models)
        ),
    )


def cluster_of(**servers: list[int]) -> Cluster:
    return Cluster(
        gpu_classes=tuple(GpuClass(gpu, max_slices_per_gpu=4) for gpu in servers),
        servers=tuple(
            Server(f"{gpu}{i}", gpu, count, 10.0)
            for gpu, counts in servers.items()
            for i, count in enumerate(counts)
        ),
    )


@pytest.mark.parametrize("halves", range(4))
@pytest.mark.parametrize("thirds", range(4))
@pytest.mark.parametrize("quarters", range(5))
def test_mixed_slices_fill_the_gpus_of_their_sum(halves: int, thirds: int, quarters: int) -> None:
    counts = [(2, halves), (3, thirds), (4, quarters)]
    gpus = pack([WorkerId(s, 0, i, s) for s, count in counts for i in range(count)])
    assert len(gpus) == gpus_needed(counts)
    assert all(sum(Fraction(1, worker.slices_per_gpu) for worker in gpu) <= 1 for gpu in gpus)


def test_more_than_four_slices_are_not_mixed() -> None:
    assert gpus_needed([(5, 1), (6, 1)]) == 2
    assert len(pack([WorkerId(0, 0, 0, 5), WorkerId(1, 0, 0, 6)])) == 2


def test_a_pool_of_slices_in_one_gpu_spans_servers_by_exchange() -> None:
    plan = make_plan([[("A", 2, 2)], [("A", 2, 2)]])
    placement = place(plan, cluster_of(A=[1, 1]))
    for pipeline in (0, 1):
        assert {w.server for w in placement.workers if w.pipeline == pipeline} == {"A0", "A1"}


def test_a_small_model_spans_two_servers_though_one_has_room() -> None:
    placement = place(make_plan([[("A", 1, 2)]]), cluster_of(A=[4, 4]))
    assert len({worker.server for worker in placement.workers}) == 2


def test_models_split_a_shared_link_by_need_and_keep_a_lone_one_whole() -> None:
    plan = make_plan([[("A", 1, 1), ("B", 1, 1)]], [[("A", 1, 1), ("B", 1, 1)]])
    shares = place(plan, cluster_of(A=[2], B=[1, 1])).link_shares
    assert {(s.model, s.server): (s.uplink, s.downlink) for s in shares} == {
        ("m0", "A0"): (0.5, 0.0),
        ("m1", "A0"): (0.5, 0.0),
        ("m0", "B0"): (0.0, 1.0),
        ("m1", "B1"): (0.0, 1.0),
    }


def test_a_plan_too_large_for_the_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="the plan uses 3 GPUs of A; the cluster has 2"):
        place(make_plan([[("A", 1, 3)]]), cluster_of(A=[2]))


Models = list[list[list[tuple[str, int, int]]]]
stage_lists = st.lists(
    st.tuples(st.sampled_from("AB"), st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=3
)
plans = st.lists(st.lists(stage_lists, min_size=1, max_size=3), min_size=1, max_size=3)


@given(plans, st.integers(1, 4))
@settings(max_examples=60)
def test_any_plan_that_fits_is_placed_soundly(
    models: list[list[list[tuple[str, int, int]]]], size: int
) -> None:
    plan = make_plan(*models)
    need: dict[str, int] = defaultdict(int)
    for model in models:
        for position in range(3):
            for gpu in "AB":
                at = [stages[position] for stages in model if len(stages) > position]
                need[gpu] += gpus_needed([(slices, workers) for g, slices, workers in at if g == gpu])
    servers = {gpu: [size] * -(-max(1, need[gpu]) // size) for gpu in "AB"}
    placement = place(plan, cluster_of(**servers))

    expected = {
        (f"m{m}", p, s, w)
        for m, pipelines in enumerate(models)
        for p, stages in enumerate(pipelines)
        for s, (_, _, workers) in enumerate(stages)
        for w in range(workers)
    }
    assert {(w.model, w.pipeline, w.stage, w.worker) for w in placement.workers} == expected
    assert len(placement.workers) == len(expected)

    slices = {
        (f"m{m}", p, s): count
        for m, pipelines in enumerate(models)
        for p, stages in enumerate(pipelines)
        for s, (_, count, _) in enumerate(stages)
    }
    filled: dict[tuple[str, int], Fraction] = defaultdict(Fraction)
    owners: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
    for worker in placement.workers:
        where = (worker.server, worker.gpu_id)
        filled[where] += Fraction(1, slices[worker.model, worker.pipeline, worker.stage])
        owners[where].add((worker.model, worker.stage))
        assert worker.gpu_id < size
    assert max(filled.values()) <= 1
    assert all(len(owner) == 1 for owner in owners.values())

    for server in {share.server for share in placement.link_shares}:
        there = [share for share in placement.link_shares if share.server == server]
        assert sum(share.uplink for share in there) <= 1 + 1e-9
        assert sum(share.downlink for share in there) <= 1 + 1e-9
