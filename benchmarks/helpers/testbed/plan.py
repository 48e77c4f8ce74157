"""The testbed's problem: 4 fast and 12 slow emulated GPUs on 4 servers, and the plans that are compared on
it.

The model is made up: 8 blocks, the first compute-bound (slow GPUs take eight times as long), the last
memory-bound (nearly as fast on both), cuts that shrink. `slowdown` stretches all times, so that small hosts
keep up.
"""

from __future__ import annotations

from typing import Literal

from planner.cluster import Cluster, Executor, GpuClass, Server
from planner.manifest import ModelEntry, StageProgram
from planner.plan import BlockRange, Plan
from planner.planning import plan
from planner.problem import Demand, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile, Source, TensorSpec
from planner.serving import ServedModel
from planner.serving_build import served_model
from ppipe.simulation.margin import auto_margin
from ppipe.simulation.margined import with_margins
from ppipe.simulation.rungs import LADDER
from python_backend.simulator.capacity import Workload, find_capacity

MODEL = "net"
BATCHES = (1, 2, 4)
_FAST_MS = (8.0, 8.0, 6.0, 5.0, 4.0, 3.0, 3.0, 3.0)
_RATIOS = (8.0, 7.0, 6.0, 5.0, 3.5, 3.5, 2.5, 2.0)
_CUT_FLOATS = (50_000, 50_000, 25_000, 25_000, 12_500, 12_500, 6_000)
_BATCH_GAIN = 0.75
"""A batch of b takes b to this power times as long as one frame."""
_SLO_MS = 200.0
_HOP_US = 1_500.0


def make_problem(slowdown: float) -> Problem:
    """See the module."""
    classes = tuple(GpuClass(name=name, executor=Executor.EMULATED) for name in ("fast", "slow"))
    servers = tuple(
        Server(name=f"{gpu}-{index}", gpu=gpu, gpu_count=count, bandwidth_gbps=10.0)
        for gpu, count in (("fast", 2), ("slow", 6))
        for index in range(2)
    )
    demand = Demand(model=MODEL, slo_us=round(_SLO_MS * slowdown * 1000), weight=1.0)
    return Problem(
        cluster=Cluster(gpu_classes=classes, servers=servers),
        profile=Profile(models=(_profile(slowdown),)),
        demands=(demand,),
        options=PlanOptions(),
    )


def best_plan(problem: Problem, planner: Literal["ppipe", "np"]) -> tuple[Plan, ServedModel]:
    """The plan with the margin under which it serves most in simulation, and what its dispatcher needs."""
    if planner == "ppipe":
        found = auto_margin(problem, links="placed", processes=1, promise=False)
        return found.plan, served_model(found.plan, found.problem, MODEL, links="placed")
    tried = [
        (made, served_model(made, problem, MODEL, links="placed"))
        for made in (plan(with_margins(problem, [margin], 0.0), planner=planner) for margin in LADDER)
    ]
    return max(tried, key=lambda each: simulated_capacity(each[1]))


def simulated_capacity(served: ServedModel) -> float:
    """The highest load served at 99 % on virtual time."""
    rates = [served.planned_rps * share / 50 for share in range(10, 75)]
    workload = Workload(seconds=60.0, seeds=(1, 2))
    return find_capacity(served, "adaptive", rates, workload, guess_rps=served.planned_rps).load_rps


def make_entry(problem: Problem, made: Plan, served: ServedModel, feedback_port: int) -> ModelEntry:
    """The manifest's entry of a plan, every stage emulated."""
    profile = problem.profile.model(MODEL)
    programs = tuple(
        tuple(
            _program(profile, stage.blocks, len(tables.latency_us))
            for stage, tables in zip(pipeline.stages, served_pipeline.stages, strict=True)
        )
        for pipeline, served_pipeline in zip(made.model(MODEL).pipelines, served.pipelines, strict=True)
    )
    return ModelEntry(
        model=MODEL,
        dispatcher=MODEL,
        input=profile.inputs[0],
        outputs=profile.outputs,
        feedback_port=feedback_port,
        late="drop",
        served=served,
        programs=programs,
    )


def _profile(slowdown: float) -> ModelProfile:
    blocks = len(_FAST_MS)
    return ModelProfile(
        model=MODEL,
        cut_bytes=tuple(4 * floats for floats in _CUT_FLOATS),
        tables=(
            _table("fast", [ms * slowdown for ms in _FAST_MS]),
            _table("slow", [ms * ratio * slowdown for ms, ratio in zip(_FAST_MS, _RATIOS, strict=True)]),
        ),
        block_names=tuple(f"b{index}" for index in range(blocks)),
        cut_tensors=tuple(
            (TensorSpec(f"cut{index}", "FP32", (floats,)),) for index, floats in enumerate(_CUT_FLOATS)
        ),
        inputs=(TensorSpec("frame", "FP32", (38_400,)),),
        outputs=(TensorSpec("scores", "FP32", (16,)),),
        overheads=Overheads(hop_us=_HOP_US),
        split="testbed",
    )


def _table(gpu: str, block_ms: list[float]) -> LatencyTable:
    return LatencyTable(
        gpu=gpu,
        slices_per_gpu=1,
        batch_sizes=BATCHES,
        latency_us=tuple(tuple(1000 * ms * batch**_BATCH_GAIN for batch in BATCHES) for ms in block_ms),
        source=Source.STATED,
    )


def _program(profile: ModelProfile, blocks: BlockRange, max_batch_size: int) -> StageProgram:
    first, last = blocks.start == 0, blocks.end == profile.block_count
    return StageProgram(
        program="",
        program_sha256="",
        inputs=profile.inputs if first else profile.cut_tensors[blocks.start - 1],
        outputs=profile.outputs if last else profile.cut_tensors[blocks.end - 1],
        executor=Executor.EMULATED,
        max_batch_size=max_batch_size,
    )
