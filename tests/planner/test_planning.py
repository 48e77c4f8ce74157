"""The planner's front door: bad input, hopeless input, odd profiles, options, baselines, the same bytes
again.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner import serial
from planner.cluster import Cluster, Executor, GpuClass, Server
from planner.explain import Infeasible, ProblemError
from planner.feasibility import UnsoundPlan, check, violations
from planner.placing import place
from planner.plan import Plan
from planner.planning import plan
from planner.problem import Demand, Objective, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Profile
from planner.serving_build import served_model
from tests.fixtures.made_problems import MadeSize, made_problem

ROOT = Path(__file__).resolve().parents[2]
SMALL = MadeSize(gpus=20, classes=2, models=2, blocks=5, max_slices=2)

GIB = 1 << 30


def two_class_problem(**options: object) -> Problem:
    """A fast and a slow class: the slow one is nearly as fast on the second block."""
    fast = LatencyTable(
        gpu="F", slices_per_gpu=1, batch_sizes=(1, 2), latency_us=((1000, 1800), (1000, 1900))
    )
    slow = LatencyTable(
        gpu="S", slices_per_gpu=1, batch_sizes=(1, 2), latency_us=((5000, 9000), (1300, 2500))
    )
    profile = ModelProfile(model="net", cut_bytes=(10_000,), tables=(fast, slow))
    cluster = Cluster(
        gpu_classes=(GpuClass("F"), GpuClass("S")),
        servers=(Server("f0", "F", 2, 10.0), Server("s0", "S", 2, 10.0), Server("s1", "S", 2, 10.0)),
    )
    return Problem(
        cluster=cluster,
        profile=Profile((profile,)),
        demands=(Demand("net", slo_us=6000, weight=1.0, batch_build_rps=1000.0),),
        options=PlanOptions(**options),  # type: ignore[arg-type]
    )


def with_demand(problem: Problem, **changes: object) -> Problem:
    return replace(problem, demands=(replace(problem.demands[0], **changes),))  # type: ignore[arg-type]


def test_the_slow_class_gets_the_block_on_which_it_is_nearly_as_fast() -> None:
    made = plan(two_class_problem())
    (model,) = made.models
    split = model.pipelines[0]
    assert [stage.gpu for stage in split.stages] == ["F", "S"]
    assert made.objective > plan(two_class_problem(), planner="np").objective
    assert made.gap <= 1e-4
    assert made.gpus_used == {"F": 2, "S": 3}
    assert made.utilisation["F"] > 0.9
    assert made.gpu_price["F"] > made.gpu_price["S"] >= 0
    assert "gpus" in model.bound_by


def test_one_more_gpu_is_worth_no_more_than_its_price() -> None:
    problem = two_class_problem()
    made = plan(problem, mode="fast")  # its bound is the relaxation's, to which the prices belong
    more = replace(problem.cluster, servers=(*problem.cluster.servers, Server("f1", "F", 1, 10.0)))
    richer = plan(replace(problem, cluster=more))
    assert made.objective < richer.objective <= (made.upper_bound + made.gpu_price["F"]) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_stages": 0}, r"options\.max_stages: 0; accepted are 1 to 4"),
        ({"max_stages": 5}, r"options\.max_stages: 5; accepted are 1 to 4"),
        ({"slo_margin": 1.0}, r"options\.slo_margin: 1\.0; accepted are 0 <= margin < 1"),
        ({"slo_margin": float("nan")}, r"options\.slo_margin: nan"),
        ({"batch_build_factor": -1.0}, r"options\.batch_build_factor: -1\.0"),
        ({"pipelines_per_class_pair": 0}, r"options\.pipelines_per_class_pair: 0"),
        ({"gpu_cost": {"F": 0.0}}, r"options\.gpu_cost of F: 0\.0; accepted is any number > 0"),
        (
            {"objective": Objective.MIN_COST},
            r"demand for net: rate_rps is missing; objective min-cost needs one",
        ),
    ],
)
def test_contradictory_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        plan(two_class_problem(**options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "other"}, "demand for other: no profile of it; profiled are net"),
        ({"slo_us": 0}, "slo_us 0; accepted is any whole number >= 1"),
        ({"weight": None}, "neither weight nor rate_rps"),
        ({"weight": float("nan")}, "weight nan; accepted is any number > 0"),
        ({"weight": 0.0}, r"weight 0\.0; accepted"),
        ({"slo_margin": -0.1}, r"slo_margin -0\.1"),
        ({"batch_room": 1.5}, r"batch_room 1\.5; accepted are 0 <= batch_room <= 1"),
    ],
)
def test_bad_demands_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        plan(with_demand(two_class_problem(), **changes))


def test_two_demands_for_one_model_and_no_demand_are_refused() -> None:
    problem = two_class_problem()
    with pytest.raises(ProblemError, match="net is listed 2 times"):
        plan(replace(problem, demands=problem.demands * 2))
    with pytest.raises(ProblemError, match="at least one model"):
        plan(replace(problem, demands=()))


def test_unknown_planner_and_mode_are_refused() -> None:
    with pytest.raises(ProblemError, match="planner 'best' is not one of ppipe, np, dart-r"):
        plan(two_class_problem(), planner="best")
    with pytest.raises(ValueError, match="mode 'slow' is not one of fast, proven"):
        plan(two_class_problem(), mode="slow")


def test_a_nan_latency_never_becomes_a_profile() -> None:
    with pytest.raises(ValueError, match="nan us is not a finite number"):
        LatencyTable(gpu="F", slices_per_gpu=1, batch_sizes=(1,), latency_us=((float("nan"),),))


def test_a_cluster_without_gpus_is_refused() -> None:
    problem = two_class_problem()
    with pytest.raises(ProblemError, match="cluster: it has no GPU"):
        plan(replace(problem, cluster=replace(problem.cluster, servers=())))


def test_a_class_without_gpus_is_left_alone() -> None:
    problem = two_class_problem()
    servers = tuple(server for server in problem.cluster.servers if server.gpu == "F")
    made = plan(replace(problem, cluster=replace(problem.cluster, servers=servers)))
    assert {stage.gpu for pipeline in made.models[0].pipelines for stage in pipeline.stages} == {"F"}
    assert made.utilisation["S"] == 0.0


def test_an_slo_that_nothing_meets_is_explained_with_what_would_do() -> None:
    problem = with_demand(two_class_problem(), slo_us=2500)
    with pytest.raises(Infeasible) as caught:
        plan(problem)
    (reason,) = caught.value.reasons
    assert (reason.fastest_us, reason.classes) == (2000.0, ("F",))
    assert "fastest takes 2.000 ms on F at batch 1" in str(caught.value)
    assert "A margin of 0.2 would do, or an SLO of 3.335 ms." in str(caught.value)
    assert plan(with_demand(problem, slo_margin=0.2)).objective > 0
    assert plan(with_demand(problem, slo_us=3335)).objective > 0


def test_a_model_profiled_on_no_class_of_the_cluster_is_explained() -> None:
    problem = two_class_problem()
    stranger = replace(
        problem.profile.models[0], tables=(replace(problem.profile.models[0].tables[0], gpu="X"),)
    )
    with pytest.raises(Infeasible, match="profiled on X; the cluster has F, S"):
        plan(replace(problem, profile=Profile((stranger,))))


def test_a_model_too_large_for_any_memory_is_explained_and_a_split_helps() -> None:
    problem = two_class_problem()
    heavy = replace(problem.profile.models[0], weight_bytes=(600, 600), activation_bytes=(10, 10))
    small = tuple(
        replace(gpu_class, memory_bytes=1000, executor=Executor.CPU)
        for gpu_class in problem.cluster.gpu_classes
    )
    problem = replace(problem, profile=Profile((heavy,)), cluster=replace(problem.cluster, gpu_classes=small))
    assert all(len(pipeline.stages) == 2 for pipeline in plan(problem).models[0].pipelines)
    with pytest.raises(Infeasible, match="no split into up to 1 stages fits the memory of F, S"):
        plan(replace(problem, options=replace(problem.options, max_stages=1)))


def test_what_is_taken_of_a_memory_is_told_with_what_is_left() -> None:
    problem = two_class_problem()
    heavy = replace(problem.profile.models[0], weight_bytes=(GIB, GIB), activation_bytes=(0, 0))
    small = tuple(replace(gpu_class, memory_bytes=GIB * 3 // 2) for gpu_class in problem.cluster.gpu_classes)
    problem = replace(problem, profile=Profile((heavy,)), cluster=replace(problem.cluster, gpu_classes=small))
    said = (
        "of 2.00 GiB of weights, the best split leaves a stage of 1.00 GiB, .*"
        "F has 1.5 GiB, of which tritonserver takes 0.5 GiB and a worker's CUDA context 0.5 GiB; 0.5 GiB is"
    )
    with pytest.raises(Infeasible, match=said):
        plan(problem)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"memory_bytes": GIB + 1},
            r"no stage of a split into up to 2 fits its memory: S has 1 GiB, .* 0 GiB",
        ),
        ({"max_slices_per_gpu": 1}, ""),
    ],
)
def test_gpus_that_no_pipeline_can_use_are_told_with_the_reason(change: dict[str, Any], said: str) -> None:
    problem = two_class_problem()
    heavy = replace(problem.profile.models[0], weight_bytes=(100, 100), activation_bytes=(10, 10))
    classes = [
        replace(gpu_class, **change) if gpu_class.name == "S" else gpu_class
        for gpu_class in problem.cluster.gpu_classes
    ]
    problem = replace(
        problem, profile=Profile((heavy,)), cluster=replace(problem.cluster, gpu_classes=tuple(classes))
    )
    made = plan(problem)
    assert list(made.unusable) == (["S"] if said else [])
    if said:
        assert re.search(said, made.unusable["S"])


def test_gpus_too_slow_or_not_profiled_are_told() -> None:
    problem = two_class_problem()
    model = problem.profile.models[0]
    without = replace(model, tables=tuple(table for table in model.tables if table.gpu == "F"))
    assert plan(replace(problem, profile=Profile((without,)))).unusable == {
        "S": f"not profiled on it ({model.model})"
    }
    slow = [
        replace(table, latency_us=tuple(tuple(1e9 for _ in row) for row in table.latency_us))
        if table.gpu == "S"
        else table
        for table in model.tables
    ]
    late = plan(replace(problem, profile=Profile((replace(model, tables=tuple(slow)),))))
    assert re.fullmatch(r"no pipeline with it meets the SLO of \S+ ms \(\w+\)", late.unusable["S"])


def test_more_models_than_gpus_is_explained() -> None:
    problem = made_problem(MadeSize(gpus=2, classes=1, models=3, blocks=3), seed=1)
    with pytest.raises(Infeasible, match=r"3 models .* cannot all be served as wanted by 2 C0"):
        plan(problem)


def test_rates_beyond_the_cluster_are_explained_with_gpus_that_would_do() -> None:
    problem = with_demand(two_class_problem(objective=Objective.MIN_COST), rate_rps=10_000.0)
    with pytest.raises(Infeasible, match=r"(?s)at most \d+\.\d% of the wanted rates.*at least \d+ more F"):
        plan(problem)


def test_min_cost_pays_for_the_cheap_class_only_as_far_as_it_serves() -> None:
    problem = with_demand(
        two_class_problem(objective=Objective.MIN_COST, gpu_cost={"F": 10.0, "S": 1.0}), rate_rps=500.0
    )
    made = plan(problem)
    assert made.models[0].throughput_rps >= 500.0
    assert made.objective == 10.0 * made.gpus_used["F"] + made.gpus_used["S"]
    assert made.upper_bound <= made.objective
    with pytest.raises(ProblemError, match="dart-r accepts max-rate only"):
        plan(problem, planner="dart-r")


def test_missing_batch_sizes_and_falling_latencies_are_planned_as_they_are() -> None:
    problem = two_class_problem(slo_margin=0.0)
    odd = LatencyTable(gpu="F", slices_per_gpu=1, batch_sizes=(1, 4), latency_us=((1000, 900), (1000, 1100)))
    profile = replace(problem.profile.models[0], tables=(odd,))
    made = plan(with_demand(replace(problem, profile=Profile((profile,))), batch_build_rps=1e6))
    assert {stage.batch_size for pipeline in made.models[0].pipelines for stage in pipeline.stages} == {4}
    assert made.objective == pytest.approx(2 * 4 / 2000e-6)


@pytest.mark.parametrize("blocks", [1, 100])
def test_one_block_and_a_hundred(blocks: int) -> None:
    made = plan(made_problem(MadeSize(gpus=8, classes=2, models=1, blocks=blocks, max_slices=2), seed=3))
    assert made.gap <= 1e-4


def test_latencies_of_zero_do_not_serve_infinitely() -> None:
    problem = two_class_problem()
    free = replace(problem.profile.models[0].tables[0], latency_us=((0.0, 0.0), (0.0, 0.0)))
    made = plan(replace(problem, profile=Profile((replace(problem.profile.models[0], tables=(free,)),))))
    assert made.objective <= 2 * 2 / 1e-6


@pytest.mark.parametrize("planner", ["ppipe", "np", "dart-r"])
def test_every_plan_is_sound_placed_and_can_be_served(planner: str) -> None:
    problem = made_problem(SMALL, seed=5)
    made = plan(problem, planner=planner)
    assert violations(made, problem) == []
    assert made.placement == place(made, problem.cluster)
    for demand in problem.demands:
        for links in ("paper", "placed"):
            served = served_model(made, problem, demand.model, links=links)
            assert served.planned_rps == made.model(demand.model).throughput_rps


def test_plans_survive_their_file_format() -> None:
    made = plan(made_problem(SMALL, seed=5))
    assert serial.loads(Plan, serial.dumps(made)) == made


def test_feasibility_finds_what_was_tampered_with() -> None:
    problem = two_class_problem()
    made = plan(problem)
    (model,) = made.models
    pipeline = model.pipelines[0]
    stage = pipeline.stages[0]

    def tampered(**changes: object) -> Plan:
        stages = (replace(stage, **changes), *pipeline.stages[1:])  # type: ignore[arg-type]
        pipelines = (replace(pipeline, stages=stages), *model.pipelines[1:])
        return replace(made, models=(replace(model, pipelines=pipelines),))

    assert violations(made, problem) == []
    for changes, fault in (
        ({"workers": stage.workers + 1}, "throughput"),
        ({"latency_us": stage.latency_us / 2}, "latency"),
        ({"gpu": "Q"}, "unknown GPU class 'Q'"),
        ({"slices_per_gpu": 2}, "2 slices; F has up to 1"),
        ({"batch_size": 7}, "not profiled"),
    ):
        assert any(fault in line for line in violations(tampered(**changes), problem)), (changes, fault)
    assert any("objective" in line for line in violations(replace(made, objective=1.0), problem))
    boastful = replace(made, upper_bound=made.objective * 0.9)
    with pytest.raises(UnsoundPlan, match="better than its own bound"):
        check(boastful, problem)
    fewer = tuple(replace(s, gpu_count=1) if s.name == "f0" else s for s in problem.cluster.servers)
    smaller = replace(problem, cluster=replace(problem.cluster, servers=fewer))
    assert "2 GPUs of F used; the cluster has 1" in violations(replace(made, placement=None), smaller)


SCRIPT = """
import sys
from planner import serial
from planner.planning import plan
from tests.fixtures.made_problems import MadeSize, made_problem
for mode in ("fast", "proven"):
    sys.stdout.write(serial.dumps(plan(made_problem(MadeSize(20, 2, 2, 5, 2), seed=7), mode=mode)))
"""


def test_the_same_input_gives_the_same_bytes_in_another_process() -> None:
    def run(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    first = run("1")
    assert first
    assert first == run("2")
