"""demo: the whole main job on this machine, compared with two other ways to use the same GPUs; or with
--heal, a server that is lost for good.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

import ensembles
from planner.deployment import Deployment, DeploymentError, load_deployment
from planner.serial import to_plain
from ppipe.commands.arguments import WorkFolder
from ppipe.console import err, out
from ppipe.serving.ports import PortInUse, check, free_base
from ppipe.serving.server_command import cluster_ports
from ppipe.workspace import Workspace

DEMO_FILE = Path(ensembles.__file__).parent / "examples" / "demo.yaml"
HEAL_FILE = DEMO_FILE.with_name("heal.yaml")
PNG, JSON = "demo.png", "demo.json"
HEAL_PNG, HEAL_JSON = "heal.png", "heal.json"
CLIP_SECONDS = 6.0


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Last line of output: the result as JSON.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=1.0, help="Length of the load.", show_default="for 540 frames")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals and pictures.")] = 1,
    work: WorkFolder = None,
    base_port: Annotated[
        int | None, typer.Option(min=1024, max=60_000, help="First port.", show_default="the file's, if free")
    ] = None,
    deployment_file: Annotated[
        Path | None,
        typer.Option(
            "--deployment",
            help="A deployment whose GPU classes all have stated speeds.",
            show_default="an example",
        ),
    ] = None,
    heal: Annotated[
        bool,
        typer.Option("--heal", help="Kill a server for good under load, with ppipe operate and without."),
    ] = False,
    video: Annotated[
        bool,
        typer.Option("--video", help="Instead: a drawn clip, whose words a cascade finds and reads."),
    ] = False,
) -> None:
    """Profile, plan, generate, serve and measure; then the same load on NP's plan and on plain Triton."""
    if video and (heal or deployment_file is not None):
        raise DeploymentError("--video: a demo of its own; leave --heal and --deployment out")
    if heal:
        _demo_heal(deployment_file or HEAL_FILE, work, base_port, seconds, seed, as_json)
        return
    started = time.monotonic()
    if video:
        _demo_video(as_json, CLIP_SECONDS if seconds is None else seconds, work, base_port)
        return
    deployment_file = deployment_file or DEMO_FILE
    deployment = on_free_ports(load_deployment(deployment_file), base_port)
    # They import torch, which takes seconds that a faulty file should not cost.
    from ppipe.bench.picture import draw
    from ppipe.bench.run import as_plain
    from ppipe.bench.view import score_table
    from ppipe.demo import DemoOptions, run_demo

    workspace = Workspace.of(deployment.name, work)
    result = run_demo(deployment, workspace, deployment_file.parent, DemoOptions(seconds=seconds, seed=seed))
    draw(result.measured, workspace.root / PNG, f"{deployment.name}: planned and measured, one workload")
    record = as_plain(result.measured, {"summary": result.summary(), "perf_analyzer": to_plain(result.perf)})
    (workspace.root / JSON).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    show = err if as_json else out
    show.print(score_table(result.measured))
    show.print(
        f"  perf_analyzer: {result.perf.throughput_rps:.1f} of {result.perf.asked_rps:.1f} frames/s asked, "
        f"p99 {result.perf.p99_ms:.0f} ms"
    )
    show.print(
        f"  {workspace.root / PNG}, {workspace.root / JSON}; {time.monotonic() - started:.0f} s in all"
    )
    if as_json:
        out.print(json.dumps(result.summary()), soft_wrap=True, markup=False)
    for fault in result.faults():
        err.print(f"ppipe: error: {fault}", markup=False)
    if result.faults():
        raise typer.Exit(1)


def _demo_heal(
    deployment_file: Path,
    work: Path | None,
    base_port: int | None,
    seconds: float | None,
    seed: int,
    as_json: bool,
) -> None:
    started = time.monotonic()
    deployment = on_free_ports(load_deployment(deployment_file), base_port)
    from ppipe.heal_demo import HealOptions, run_heal_demo
    from ppipe.heal_picture import draw_heal

    workspace = Workspace.of(deployment.name, work)
    options = HealOptions(seed=seed) if seconds is None else HealOptions(seconds, seed)
    result = run_heal_demo(deployment, workspace, deployment_file.parent, options)
    summary = result.summary()
    draw_heal(result, workspace.root / HEAL_PNG, f"{deployment.name}: {result.loss.server} is lost for good")
    (workspace.root / HEAL_JSON).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    show = err if as_json else out
    for line in (*result.lines(), f"{workspace.root / HEAL_PNG}; {time.monotonic() - started:.0f} s in all"):
        show.print(f"  {line}", markup=False, soft_wrap=True)
    if as_json:
        out.print(json.dumps(summary), soft_wrap=True, markup=False)
    if summary["unanswered"]:
        err.print(f"ppipe: error: {summary['unanswered']} frames got no answer at all", markup=False)
        raise typer.Exit(1)


def _demo_video(as_json: bool, seconds: float, work: Path | None, base_port: int | None) -> None:
    started = time.monotonic()
    try:
        from ppipe.video_demo import NAME, run_video_demo, video_deployment
    except ModuleNotFoundError as error:
        if error.name not in ("av", "onnx"):
            raise
        raise DeploymentError(
            f"--video needs {error.name}, which is not here: pip install 'ppipe[onnx,video]'"
        ) from error
    workspace = Workspace.of(NAME, work)
    deployment = on_free_ports(video_deployment(workspace.root), base_port)
    result = run_video_demo(deployment, workspace, seconds)
    show = err if as_json else out
    said = ", ".join(f"{text!r} {count} times" for text, count in sorted(result.read.items()))
    show.print(
        f"  {result.frames} frames: {result.complete} complete, {result.partial} partial", markup=False
    )
    show.print(f"  read: {said}", markup=False, soft_wrap=True)
    show.print(
        f"  {result.clip}, {result.picture}; {time.monotonic() - started:.0f} s in all", soft_wrap=True
    )
    if as_json:
        out.print(json.dumps(result.summary()), soft_wrap=True, markup=False)
    if not result.complete:
        raise typer.Exit(1)


def on_free_ports(deployment: Deployment, base_port: int | None) -> Deployment:
    """The deployment from `base_port` on, or from its own base port or the next one with enough free ports.

    Raises PortInUse where the ports asked for are taken.
    """
    if base_port is not None:
        moved = _moved(deployment, base_port)
        check(cluster_ports(moved))
        return moved
    try:
        check(cluster_ports(deployment))
        return deployment
    except PortInUse:
        count = len(cluster_ports(deployment))
        moved = _moved(deployment, free_base(deployment.cluster.base_port + 100, count))
        check(cluster_ports(moved))  # addresses that the file itself fixes do not move
        return moved


def _moved(deployment: Deployment, base_port: int) -> Deployment:
    cluster = deployment.cluster.model_copy(update={"base_port": base_port})
    return deployment.model_copy(update={"cluster": cluster})
