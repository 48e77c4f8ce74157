"""What is loaded where: servers of the manifest, and the place of every worker."""

from __future__ import annotations

from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.serving import WorkerPlace
from ppipe.plan_lanes import blocks_text
from ppipe.report.content import Cell, Section, Table, number, table, text

Slot = tuple[str, WorkerPlace]


def repository_section(manifest: DeploymentManifest, plan: Plan | None) -> Section:
    """Servers with their Triton models, and workers with GPU and slice where the plan says them."""
    words = (
        f"Deployment {manifest.deployment}, epoch {manifest.epoch}, made for plan {manifest.plan_hash}.",
        f"Clients call {', '.join(entry.dispatcher for entry in manifest.models[:20])}"
        f"{' and others' if len(manifest.models) > 20 else ''} at {manifest.entry.grpc_address}.",
    )
    return Section(
        "repository", "What is loaded where", words, tables=(_servers(manifest), _workers(manifest, plan))
    )


def _servers(manifest: DeploymentManifest) -> Table:
    rows = [
        [
            text(server.name),
            text(server.group),
            text(server.grpc_address),
            number(server.gpu_count, 0),
            number(len(server.models), 0),
            text(", ".join(server.models)),
        ]
        for server in manifest.every_server
    ]
    return table("Servers", ("server", "group", "gRPC", "GPUs", "models", "Triton models"), rows)


def _workers(manifest: DeploymentManifest, plan: Plan | None) -> Table:
    sites = _sites(plan)
    rows = []
    for entry in manifest.models:
        for place, worker in entry.served.workers():
            stage = entry.served.pipelines[place.pipeline].stages[place.stage]
            gpu, part, blocks = sites.get((entry.model, place), (number(None), number(None), text("–")))
            rows.append(
                [
                    text(worker.name),
                    text(entry.model),
                    number(place.pipeline, 0),
                    number(place.stage + 1, 0),
                    blocks,
                    text(stage.gpu),
                    text(worker.server),
                    gpu,
                    part,
                ]
            )
    columns = ("Triton model", "model", "pipeline", "stage", "blocks", "class", "server", "GPU", "slice")
    return table("Workers", columns, rows)


def _sites(plan: Plan | None) -> dict[Slot, tuple[Cell, Cell, Cell]]:
    """GPU, slice and blocks of each worker that the plan placed."""
    if plan is None or plan.placement is None:
        return {}
    models = {model.model: model for model in plan.models}
    found = {}
    for one in plan.placement.workers:
        if one.model not in models or one.pipeline >= len(models[one.model].pipelines):
            continue
        stage = models[one.model].pipelines[one.pipeline].stages[one.stage]
        part = f"{one.slice_index + 1} of {stage.slices_per_gpu}"
        place = WorkerPlace(one.pipeline, one.stage, one.worker)
        found[one.model, place] = (
            number(one.gpu_id, 0),
            Cell(part, one.slice_index),
            text(blocks_text(stage)),
        )
    return found
