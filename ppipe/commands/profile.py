"""profile: from a deployment file to block latencies, measured, stated, estimated or merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from planner import serial
from planner.deployment import Deployment, DeploymentError, load_deployment
from planner.latency_sources import latency_sources
from planner.profile import ModelProfile, Profile
from ppipe import steps
from ppipe.commands.arguments import DeploymentFile, WorkFolder
from ppipe.console import err, out, step
from ppipe.workspace import Workspace, save


def profile(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that torch may use while timing.")] = 1,
    estimate: Annotated[
        str, typer.Option(help="GPU classes to estimate from data sheets, as L4,T4; 'all' for every one.")
    ] = "",
    calibrate: Annotated[
        Path | None, typer.Option(help="A measured profile of the same split, to correct estimates by.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="How often each block is timed; the median counts.")
    ] = 7,
    repeat_check: Annotated[
        bool, typer.Option("--repeat-check", help="Time everything twice and say how far the two differ.")
    ] = False,
    neighbours: Annotated[
        bool,
        typer.Option(
            "--neighbours",
            help="Time a GPU's slices beside slices of every other model too; the longer times count.",
        ),
    ] = False,
    overheads: Annotated[
        bool,
        typer.Option(
            "--overheads",
            help="Time stages and hops on two tritonservers and record that in the profile, which is made "
            "first if it is not there.",
        ),
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Time what preparing clients' frames costs on this host's cores and record that in the "
            "profile, which is made first if it is not there.",
        ),
    ] = False,
    overhead_servers: Annotated[
        str, typer.Option(help="As --overheads, on two running servers: host:port,host:port (gRPC).")
    ] = "",
    merge: Annotated[
        list[Path] | None, typer.Option(help="Merge this profile of another node; may be given often.")
    ] = None,
) -> None:
    """Split each model into blocks and find how long each takes on each GPU class."""
    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    if merge:
        made = _merged(merge, workspace)
    elif (overheads or overhead_servers or prepare) and workspace.profile.is_file():
        made = workspace.load_profile()
    else:
        with step(f"profile: {', '.join(model.name for model in deployment.models)}"):
            made = steps.run_profile(
                deployment,
                workspace,
                threads=threads,
                estimate=_classes(deployment, estimate),
                calibrate_with=None if calibrate is None else serial.load(Profile, calibrate),
                repeats=repeats,
                repeat_check=repeat_check,
                neighbours=neighbours,
            )
    if overheads or overhead_servers:
        with step("overheads of stages and hops"):
            made = steps.run_overheads(deployment, made, workspace, overhead_servers)
    if prepare:
        with step("preparing frames"):
            made = steps.run_prepare(deployment, made, workspace)
    for model in made.models:
        gpus = dict.fromkeys(table.gpu for table in model.tables)
        labels = latency_sources(Profile(models=(model,)), gpus)
        sources = ", ".join(f"{gpu} {label}" for gpu, label in labels.items())
        err.print(f"  {model.model}: {model.block_count} blocks; latencies: {sources}", soft_wrap=True)
        for remark in _remarks(model):
            err.print(f"    {remark}", soft_wrap=True, markup=False)
    out.print(str(workspace.profile), soft_wrap=True)


def _remarks(model: ModelProfile) -> Iterator[str]:
    """What the measurement says of itself."""
    if model.precision_error is not None:
        error = f"{model.precision_error:.1e} of the outputs' range"
        yield f"precision {model.options.precision.value}: largest difference from fp32 {error}"
    costs = model.overheads
    if any((costs.stage_us, costs.hop_us, costs.hop_us_per_byte)):
        yield (
            f"overheads: a stage {costs.stage_us:g} us, a hop {costs.hop_us:g} us and "
            f"{1e6 * costs.hop_us_per_byte:.0f} us per MB"
        )
    if (prepare := model.prepare) is not None:
        yield (
            f"preparing a frame: {prepare.fixed_us:.0f} us, {1e6 * prepare.us_per_pixel:.0f} us per million "
            f"pixels and {1e6 * prepare.us_per_byte:.0f} us per MB"
        )
    yield from _beside(model)
    told = ("notes", "device_notes", "nvml", "throttled", "repeatability", "warning_repeatability")
    for name, value in model.provenance.items():
        if value and name.startswith(told):
            shown = (
                f"{float(value):.1%} between two measurements" if name.startswith("repeatability") else value
            )
            yield f"{name}: {shown}"


def _beside(model: ModelProfile) -> Iterator[str]:
    """What other models on a GPU's slices cost, where that was timed."""
    for table in model.tables:
        if table.beside_others_us:
            own, others = (
                sum(map(sum, figures)) for figures in (table.beside_own_us, table.beside_others_us)
            )
            yield (
                f"{table.gpu} in {table.slices_per_gpu} slices: beside other models {others / own - 1:+.0%} "
                "against beside its own"
            )


def _classes(deployment: Deployment, text: str) -> frozenset[str]:
    known = [gpu_class.name for gpu_class in deployment.cluster.gpu_classes]
    names = known if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise DeploymentError(
                f"--estimate: {name!r} is not a GPU class of the deployment: {', '.join(known)}"
            )
    return frozenset(names)


def _merged(paths: list[Path], workspace: Workspace) -> Profile:
    """The profiles at `paths`, and the working folder's where there is one, as one, saved."""
    from planner.profiling.merge import merge_profiles

    own = [workspace.profile] if workspace.profile.is_file() else []
    merged = merge_profiles([serial.load(Profile, path) for path in (*own, *paths)])
    save(merged, workspace.profile)
    return merged
