"""Cascades on the entry server: their entries in deployment.json, and a Triton model for each."""

from __future__ import annotations

from collections.abc import Mapping

from ensembles.cascade_answer import cascade_outputs
from model_repo_generator import config, naming
from model_repo_generator.entry import EntryModels
from model_repo_generator.model_files import (
    MANIFEST_FROM_MODEL,
    Files,
    RepositoryLayout,
    python_model,
)
from planner.cascades.data import Cascade
from planner.cascades.served import CascadeEntry, ServedMember
from planner.cluster import Cluster
from planner.deployment import Deployment
from planner.manifest import ModelEntry
from planner.plan import Plan
from planner.profile import TensorSpec


def cascade_entries(
    deployment: Deployment, plan: Plan, cluster: Cluster, entries: Mapping[str, EntryModels]
) -> tuple[CascadeEntry, ...]:
    """Of a plan that fits the deployment (checking.fit)."""
    port = cluster.entry.feedback_port + len(deployment.models)
    return tuple(
        cascade_entry(
            spec.to_cascade(),
            {part.model: part.slo_us for part in planned.parts},
            planned.throughput_rps,
            {member.model: entries[member.model].outputs for member in spec.models},
            port + number,
            spec.in_order,
        )
        for number, spec in enumerate(deployment.cascades)
        for planned in plan.cascades
        if planned.name == spec.name
    )


def cascade_entry(
    cascade: Cascade,
    parts_us: Mapping[str, int],
    planned_rps: float,
    outputs: Mapping[str, tuple[TensorSpec, ...]],
    metrics_port: int,
    in_order: bool = False,
) -> CascadeEntry:
    """parts_us: of the SLO, by member; outputs: what each member's clients are answered."""
    members = tuple(
        ServedMember(
            model=member.model,
            by_us=sum(parts_us[each.model] for each in cascade.way_to(member.model)),
            of=member.of,
            make=member.make,
            most=member.fanout.most,
        )
        for member in cascade.members
    )
    later = [(member.model, outputs[member.model]) for member in members[1:]]
    return CascadeEntry(
        name=cascade.name,
        slo_us=cascade.slo_us,
        planned_rps=planned_rps,
        members=members,
        outputs=cascade_outputs(outputs[members[0].model], later),
        metrics_port=metrics_port,
        in_order=in_order,
    )


def cascade_files(cascade: CascadeEntry, first: ModelEntry, layout: RepositoryLayout) -> Files:
    """The Triton model that clients call: it takes what its first member takes."""
    parameters = {"manifest": MANIFEST_FROM_MODEL, "cascade": cascade.name, **layout.parameters}
    text = config.dispatcher_config(
        cascade.name, first.public_inputs, cascade.outputs, parameters, first.ways_in
    )
    folder = f"{naming.group_folder(naming.ENTRY_GROUP)}/{cascade.name}"
    yield from python_model(folder, text, "cascade", layout)
