"""bench: load on a served deployment, in an open loop, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from planner.cluster import Executor
from planner.deployment import beside_the_picture, load_deployment
from planner.latency_sources import estimates_note
from planner.manifest import DeploymentManifest
from planner.serial import dumps
from ppipe.bench.workload import RequestTrace, WorkloadError, load_workload, make_workload, save_workload
from ppipe.commands.arguments import DeploymentFile, WorkFolder
from ppipe.console import err, out, progress_bar
from ppipe.serving.launcher import load_manifest
from ppipe.serving.probe import ModelProber, ProbeVerdict
from ppipe.workspace import Workspace

PICTURES = 32
PROBE_TIMEOUT_S = 20.0
RETRY_S = 0.3


def bench(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    load: Annotated[float, typer.Option(help="Offered load, as a share of what the plan serves.")] = 0.8,
    seconds: Annotated[float, typer.Option(help="Length of the load.")] = 20.0,
    arrivals: Annotated[
        str, typer.Option(help="poisson, gamma:cv=2, mmpp:burst=3, cameras:fps=30, trace:path=FILE.")
    ] = "poisson",
    seed: Annotated[int, typer.Option(help="The same seed sends the same frames at the same times.")] = 1,
    workload: Annotated[
        Path | None, typer.Option(help="Replay this saved workload instead of making one.")
    ] = None,
    streams: Annotated[
        int,
        typer.Option(min=0, help="Streams per model, whose frames come in turn.", show_default="none"),
    ] = 0,
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Folder that is served instead, such as <work>/rehearsal.",
            show_default="<work>/repository",
        ),
    ] = None,
    entry: Annotated[
        list[str] | None,
        typer.Option(
            help="gRPC address that frames go to, such as a load balancer's; several get them in turn.",
            show_default="all entries",
        ),
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the deployment to answer.")] = 90.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send frames to a deployment that `ppipe serve` runs, and compare every answer with the unsplit
    model's. Emulated workers compute nothing: where a model has some, its answers are not compared.
    """
    from ensembles.prepare.turbojpeg import LIBRARY, library
    from ppipe.bench.frames import make_inputs_of, make_pictures
    from ppipe.bench.picture import draw
    from ppipe.bench.reference import make_references
    from ppipe.bench.run import measure, planned_rates, save, slos_us
    from ppipe.bench.target import served_target
    from ppipe.bench.view import score_table

    deployment = load_deployment(deployment_file)
    workspace = Workspace.of(deployment.name, work)
    manifest = load_manifest(repository or workspace.repository)
    name = "bench" if repository is None else f"bench-{repository.resolve().name}"
    results, picture = (workspace.root / f"{name}.{suffix}" for suffix in ("json", "png"))
    addresses = entry or [server.grpc_address for server in manifest.entries]
    wait_until_answering(manifest, wait, addresses)
    rates = planned_rates(manifest)
    if workload is None:
        wanted = {model: load * rate for model, rate in rates.items()}
        sent = make_workload(
            wanted, seconds=seconds, seed=seed, frames=PICTURES, process=arrivals, streams=streams
        )
    else:
        sent = load_workload(workload)
    require_frames(sent, manifest)
    count = _pictures_of(sent)
    pictures = make_pictures(count, seed=seed)
    tensors = {spec.name: make_inputs_of(beside_the_picture(spec), count, seed) for spec in deployment.models}
    emulated = emulated_models(manifest)
    computed = [spec for spec in deployment.models if spec.name not in emulated]
    references = make_references(computed, manifest, repository or workspace.repository, pictures, tensors)
    if library() is None and any(
        spec.preprocess is not None and spec.preprocess.kind == "jpeg" for spec in computed
    ):
        err.print(
            f"this host has no {LIBRARY}: answers to frames that other hosts prepared with it count as wrong",
            soft_wrap=True,
        )
    for reference in references.values():
        if reference.alike:
            err.print(
                f"{reference.model}: of {count} frames, {reference.alike} have the answer of another one: if "
                "these are mixed up, it will not be seen",
                soft_wrap=True,
            )
    save_workload(sent, workspace.root / "workload.csv")
    with progress_bar("sending", total=len(sent.arrivals)) as update:
        measured = measure(
            "ppipe",
            served_target(manifest, pictures, tensors, addresses),
            sent,
            references,
            slos_us(manifest),
            planned_rps=sum(rates.values()),
            progress=lambda count: update("", count, len(sent.arrivals)),
        )
    save([measured], results, {"seed": seed, "arrivals": arrivals})
    draw([measured], picture, f"{deployment.name}: planned and measured")
    err.print(score_table([measured]))
    if workspace.plan.is_file() and (note := estimates_note(workspace.load_plan().latency_sources)):
        err.print(f"planned from {note}", soft_wrap=True)
    if manifest.cascades:
        names = ", ".join(cascade.name for cascade in manifest.cascades)
        err.print(f"cascades, whose answers are not compared: {names}", soft_wrap=True)
    if emulated:
        err.print(f"emulated, so answers are not compared: {', '.join(emulated)}", soft_wrap=True)
    if 2 * measured.total.mismatched > measured.total.answered:
        err.print(
            "ppipe: most answers are not those of the deployment file's model: was the repository generated "
            "from it? ppipe profile, plan and generate make it anew",
            soft_wrap=True,
        )
    out.print(dumps(measured.total) if as_json else str(results), soft_wrap=True)
    if measured.total.unanswered or measured.total.mismatched:
        raise typer.Exit(1)


class NotAnswering(Exception):
    """A deployment under test that does not answer."""


def wait_until_answering(manifest: DeploymentManifest, wait_s: float, addresses: Sequence[str] = ()) -> None:
    """Returns when every public model has answered a frame at each address, every entry's without.

    Raises NotAnswering.
    """
    give_up_s = time.monotonic() + wait_s
    models = [entry.dispatcher for entry in manifest.models]
    for address in addresses or [server.grpc_address for server in manifest.entries]:
        with ModelProber(address) as prober:
            for model in (*models, *(cascade.name for cascade in manifest.cascades)):
                _wait_for(prober, model, address, give_up_s)


def _wait_for(prober: ModelProber, model: str, address: str, give_up_s: float) -> None:
    while (probe := prober.ask(model, PROBE_TIMEOUT_S)).verdict is not ProbeVerdict.ANSWERS:
        if time.monotonic() > give_up_s:
            raise NotAnswering(
                f"model {model!r} at {address} does not answer ({probe.detail}); "
                "start the deployment with ppipe serve"
            )
        time.sleep(RETRY_S)


def require_frames(workload: RequestTrace, manifest: DeploymentManifest) -> None:
    """Raises WorkloadError where there is nothing to send, or nobody to send it to."""
    served = [*(entry.model for entry in manifest.models), *(one.name for one in manifest.cascades)]
    if not workload.arrivals:
        raise WorkloadError("--load, --seconds: not one frame comes of them; raise one of the two")
    for model in workload.models:
        if model not in served:
            raise WorkloadError(
                f"--workload: no model {model!r} is served here; there are {', '.join(served)}"
            )


def emulated_models(manifest: DeploymentManifest) -> tuple[str, ...]:
    """Models of which some stage computes nothing, so that they have no answers of their own."""
    return tuple(
        entry.model
        for entry in manifest.models
        if any(program.executor is Executor.EMULATED for row in entry.programs for program in row)
    )


def _pictures_of(workload: RequestTrace) -> int:
    return max(PICTURES, *(arrival.frame + 1 for arrival in workload.arrivals))
