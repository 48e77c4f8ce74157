"""What a stage's worker reads beside its configuration: its place, and where servers are (planner.places).

Rules
- The split's digest is of all that makes programs of equal blocks exchangeable: the network and where it is
  cut, what crosses the cuts, where weights come from, and how programs are run.
- A worker of a manifest that was made without a plan is on a GPU of its own, and each stage is one block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from planner import serial
from planner.cluster import Cluster, Server
from planner.deployment import ModelSpec
from planner.manifest import DeploymentManifest, ModelEntry, ServerAddress
from planner.places import Place, ServerTable, StageBlocks, StagePlace
from planner.plan import Plan
from planner.profile import ModelProfile
from planner.serving import WorkerPlace

_DIGITS = 6
"""Of the digest: it tells a few splits of one model apart."""


def split_digest(spec: ModelSpec, profile: ModelProfile) -> str:
    """Six hexadecimal digits, the same on any machine."""
    program = {name: _plain(value) for name, value in spec.program.model_dump().items()}
    facts = [
        profile.split,
        *map(serial.to_plain, (profile.cut_tensors, profile.inputs, profile.outputs, profile.options)),
        program,
    ]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def planned_places(
    model: str, plan: Plan, split: str, block_count: int
) -> Mapping[WorkerPlace, tuple[StageBlocks, Place]]:
    """What each worker of a placed plan runs, and where."""
    assert plan.placement is not None
    found = {}
    for seat in plan.placement.workers:
        if seat.model == model:
            stage = plan.model(model).pipelines[seat.pipeline].stages[seat.stage]
            found[WorkerPlace(seat.pipeline, seat.stage, seat.worker)] = (
                StageBlocks(split, stage.blocks.start, stage.blocks.end, block_count),
                Place(seat.server, seat.gpu_id, seat.slice_index, stage.slices_per_gpu),
            )
    return found


def place_of(manifest: DeploymentManifest, worker: str) -> StagePlace:
    """The place of a worker of a manifest that was made without a plan. Raises KeyError."""
    for entry in manifest.models:
        for where, served in entry.served.workers():
            if served.name == worker:
                return stage_place(manifest, entry, where, *unplanned_place(entry, where))
    raise KeyError(f"no worker {worker!r} in deployment {manifest.deployment!r}")


def unplanned_place(entry: ModelEntry, where: WorkerPlace) -> tuple[StageBlocks, Place]:
    """Of a worker of such a manifest."""
    stages = entry.served.pipelines[where.pipeline].stages
    server = stages[where.stage].workers[where.worker].server
    return StageBlocks("", where.stage, where.stage + 1, len(stages)), Place(server, 0, 0, 1)


def stage_place(
    manifest: DeploymentManifest, entry: ModelEntry, where: WorkerPlace, blocks: StageBlocks, place: Place
) -> StagePlace:
    """All that a worker must know of itself."""
    stage = entry.served.pipelines[where.pipeline].stages[where.stage]
    planned = entry.served.entry
    cores = {} if planned is None else {host.server: host.cores for host in planned.hosts}
    prepares = planned is not None and blocks.is_first and place.server in cores
    return StagePlace(
        deployment=manifest.deployment,
        model=entry.model,
        worker=stage.workers[where.worker].name,
        blocks=blocks,
        place=place,
        program=entry.programs[where.pipeline][where.stage],
        latency_us=stage.latency_us,
        input=entry.input,
        outputs=entry.outputs,
        serves_late=entry.serves_late,
        prepare=entry.prepare,
        prepare_us=planned.prepare if prepares and planned is not None else None,
        cores=cores[place.server] if prepares else None,
        finish=entry.finish if blocks.is_last else None,
        tls=manifest.tls,
        unsigned_tickets=manifest.unsigned_tickets,
        versions=manifest.versions,
    )


def server_table(manifest: DeploymentManifest, cluster: Cluster | None = None) -> ServerTable:
    """All servers of the cluster, or, without one, those of the manifest."""
    servers = [_bare(server) for server in manifest.servers]
    known = {server.name for server in servers}
    for server in () if cluster is None else cluster.servers:
        if server.name not in known:
            servers.append(bare_address(server))
    return ServerTable(
        deployment=manifest.deployment,
        entries=tuple(replace(each, server=_bare(each.server)) for each in manifest.entry_ports),
        servers=tuple(sorted(servers, key=lambda each: each.name)),
    )


def bare_address(server: Server) -> ServerAddress:
    """Where a server of the cluster is; without what it loads."""
    return ServerAddress(
        name=server.name,
        group=server.gpu,
        host=server.host,
        http_port=server.http_port,
        grpc_port=server.grpc_port,
        metrics_port=server.metrics_port,
        repository="",
    )


def _bare(server: ServerAddress) -> ServerAddress:
    """Without what it loads, which is a plan's."""
    return replace(server, repository="", models=(), gpu_count=0, devices=())


def _plain(value: Any) -> Any:
    """Of files the name alone: where they lie is a machine's."""
    return value.name if isinstance(value, PurePath) else value
