"""The golden cases: deployments, profiles and plans by hand, and where what they render to is kept.

After a meant change of the generator, `.venv/bin/python -m tests.golden.cases` writes the folders anew; read
the difference before committing it.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
)
from model_repo_generator.generate import placed, serving_tables
from model_repo_generator.comparison.plain import render_plain
from model_repo_generator.render import Rendered, render
from model_repo_generator.systemd import UnitOptions, render_units
from planner.deployment import parse_deployment
from planner.manifest import DeploymentManifest
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.profile import LatencyTable, ModelProfile, Profile, Source, TensorSpec

HERE = Path(__file__).parent
VERSIONS = {"python": "3.11", "torch": "2.13.0"}
"""Fixed, so that a new torch does not change what is golden."""
PLAN_HASH = "0123456789abcdef"
BATCHES = (1, 2, 4)


def expected(name: str) -> dict[str, str]:
    """What is kept for a case, by path."""
    root = HERE / name
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def regenerate() -> None:
    """Write every case's folder anew."""
    for name, case in CASES.items():
        shutil.rmtree(HERE / name, ignore_errors=True)
        for path, text in case().items():
            target = HERE / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


def two_classes() -> Mapping[str, str]:
    """Padded CPU workers before slices of real GPUs; JPEG in, labelled classes out."""
    data = deployment(
        [{"name": "fast", "executor": "cpu", "stated": SPEED}, {"name": "slow", "max_slices_per_gpu": 2}],
        [
            {"gpu": "fast", "count": 1, "gpus_per_server": 1},
            {"gpu": "slow", "count": 2, "gpus_per_server": 1},
        ],
        postprocess={"task": "classification", "top_k": 2, "labels": "not read here"},
    )
    profile = Profile(models=(network("net", {("fast", 1): 1000, ("slow", 2): 6000}),))
    stages = (stage(0, 2, "fast", 1, 1), stage(2, 3, "slow", 2, 3))
    return rendered(data, profile, plan("net", stages), epoch=7, labels={"net": HOSTILE_LABELS})


def emulated_raw() -> Mapping[str, str]:
    """Nothing computed, raw frames in, the model's own output out; an environment for the stubs."""
    data = deployment(
        [{"name": "L4", "executor": "emulated", "stated": SPEED}],
        [{"gpu": "L4", "count": 1, "gpus_per_server": 2}],
        preprocess={"kind": "raw", "mean": [0, 0, 0], "std": [1, 1, 1]},
    )
    data["execution_env"] = "/opt/stubs/env.tar.gz"
    profile = Profile(models=(network("net", {("L4", 1): 1000}),))
    return rendered(data, profile, plan("net", (stage(0, 1, "L4", 1, 1), stage(1, 3, "L4", 1, 1))))


def plain() -> Mapping[str, str]:
    """The comparison without PPipe, on a class that allows batches and on one that allows none."""
    data = deployment(
        [{"name": "fast"}, {"name": "slow", "executor": "cpu", "stated": SPEED}],
        [
            {"gpu": "fast", "count": 1, "gpus_per_server": 2},
            {"gpu": "slow", "count": 1, "gpus_per_server": 1},
        ],
    )
    data["execution_env"] = "/opt/stubs/env"
    profile = Profile(models=(network("net", {("fast", 1): 1000, ("slow", 1): 25_000}),))
    return fixed(render_plain(parse_deployment(data, "golden"), profile, versions=VERSIONS))


def units() -> Mapping[str, str]:
    """systemd units of three hosts."""
    return render_units(three_hosts(), UnitOptions())


def three_hosts() -> DeploymentManifest:
    """The entry alone, a host with GPUs, and one with an IPv6 address."""
    servers = ("a", "b")
    emulated = tuple(EmulatedStage((1_000,), servers, (TensorSpec("scores", "FP32", (5,)),)) for _ in "ab")
    model = EmulatedModel(
        name="net",
        slo_us=100_000,
        planned_rps=100.0,
        input=TensorSpec("image", "FP32", (3, 8, 8)),
        pipelines=(EmulatedPipeline(1, emulated, ((100,),)),),
    )
    made = build_manifest([model], 21_000, "street")
    gpus, ipv6 = made.servers
    gpus = dataclasses.replace(gpus, host="10.0.0.2", gpu_count=2, devices=("0", "1"))
    return dataclasses.replace(
        made,
        entry=dataclasses.replace(made.entry, host="10.0.0.1"),
        servers=(gpus, dataclasses.replace(ipv6, host="fd00::7")),
    )


SPEED = {"gflop_per_s": 20, "gbyte_per_s": 2}
HOSTILE_LABELS = ('a "quote"', "} dynamic_batching {", "Käfer", "{{ 7 * 7 }}", "\\n")
CASES: Mapping[str, Callable[[], Mapping[str, str]]] = {
    "two_classes": two_classes,
    "emulated_raw": emulated_raw,
    "plain": plain,
    "units": units,
}


def deployment(classes: list[Any], groups: list[Any], **steps: Any) -> dict[str, Any]:
    """deployment.yaml as plain data, with one model."""
    model = {
        "name": "net",
        "program": {"factory": "nets:net"},
        "input": {"name": "image", "dtype": "FP32", "shape": [3, 8, 8]},
        "slo_ms": 100,
        "batch_sizes": list(BATCHES),
        "preprocess": {"kind": "jpeg"},
    }
    cluster = {"base_port": 21000, "gpu_classes": classes, "groups": groups}
    return {"name": "golden", "cluster": cluster, "models": [model | steps]}


def network(name: str, block_us: Mapping[tuple[str, int], float]) -> ModelProfile:
    """Three equal blocks; two tensors live across the second cut."""
    wide = TensorSpec(name="relu_1", dtype="FP32", shape=(4, 8, 8))
    narrow = TensorSpec(name="pool_1", dtype="FP16", shape=(4, 4, 4))
    return ModelProfile(
        model=name,
        cut_bytes=(wide.bytes_per_frame, wide.bytes_per_frame + narrow.bytes_per_frame),
        tables=tuple(
            LatencyTable(
                gpu=gpu,
                slices_per_gpu=slices,
                batch_sizes=BATCHES,
                latency_us=(tuple(time_us * batch for batch in BATCHES),) * 3,
                source=Source.STATED,
            )
            for (gpu, slices), time_us in block_us.items()
        ),
        cut_tensors=((wide,), (wide, narrow)),
        inputs=(TensorSpec(name="image", dtype="FP32", shape=(3, 8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="FP32", shape=(5,)),),
    )


def stage(start: int, end: int, gpu: str, slices: int, workers: int) -> Stage:
    """A stage at batch 2."""
    return Stage(
        blocks=BlockRange(start, end),
        gpu=gpu,
        slices_per_gpu=slices,
        batch_size=2,
        workers=workers,
        latency_us=4000,
    )


def plan(model: str, stages: tuple[Stage, ...]) -> Plan:
    """One pipeline of one model."""
    pipeline = Pipeline(stages=stages, transfer_us=(3.0,) * (len(stages) - 1), throughput_rps=500.0)
    planned = ModelPlan(
        model=model, slo_us=100_000, slo_margin=0.4, pipelines=(pipeline,), throughput_rps=500.0
    )
    return Plan(
        planner="golden", objective=500.0, upper_bound=500.0, gap=0.0, solver="none", models=(planned,)
    )


def rendered(
    data: dict[str, Any],
    profile: Profile,
    plan: Plan,
    epoch: int = 1,
    labels: Mapping[str, tuple[str, ...]] | None = None,
) -> Mapping[str, str]:
    """What `ppipe generate` writes, with stand-ins for the hashes of programs."""
    parsed = parse_deployment(data, "golden")
    plan = placed(plan, parsed, profile)
    hashes = {f"programs/net.b{start}-{end}.pt2": f"{start}{end}" * 32 for start, end in ((0, 2), (2, 3))}
    made = render(
        parsed,
        profile,
        plan,
        serving_tables(parsed, profile, plan),
        epoch=epoch,
        program_hashes=hashes,
        labels=labels,
        versions=VERSIONS,
    )
    return fixed(made)


def fixed(made: Rendered) -> Mapping[str, str]:
    """The texts with a stand-in for the plan's hash, which a new field of the planner's types changes."""
    return {path: text.replace(made.manifest.plan_hash, PLAN_HASH) for path, text in made.files.items()}


if __name__ == "__main__":
    regenerate()
