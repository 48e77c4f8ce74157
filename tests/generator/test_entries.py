"""Repositories of two entries: each loads every model, all know of each other, models have their shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from model_repo_generator.checking.fit import PlanFault
from model_repo_generator.generate import generate, placed, render_once
from model_repo_generator.lint.engine import lint
from model_repo_generator.rehearsal import Rehearsal, rehearsed
from planner import serial
from planner.deployment import parse_deployment
from planner.leases import LeasesAt
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.owned import owned_part
from planner.places import ADDRESSES_NAME, ServerTable
from planner.plan import Plan
from planner.profile import Profile
from planner.sharding import plan_shards


@pytest.fixture
def two(data: dict[str, Any]) -> Any:
    """The small deployment with two entries on one host."""
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    data["cluster"]["entries"] = 2
    return parse_deployment(data, "test")


@pytest.fixture
def sharded(two: Any, profile: Profile, plan: Plan) -> Plan:
    """The plan placed, a pipeline to each entry."""
    bare = dataclasses.replace(plan, shards=())
    with pytest.raises(PlanFault, match="no shards of 'net', and the deployment several entries: plan again"):
        placed(bare, two, profile)
    shards = plan_shards(bare, two.to_problem(profile))
    return placed(dataclasses.replace(bare, shards=shards), two, profile)


def test_each_entry_loads_every_model_and_all_know_of_each_other(
    two: Any, profile: Profile, sharded: Plan, tmp_path: Path
) -> None:
    generate(two, profile, sharded, tmp_path / "repository", export=False)
    manifest = serial.load(DeploymentManifest, tmp_path / "repository" / MANIFEST_NAME)
    first, second = manifest.entries
    assert (first.name, second.name) == ("entry-0", "entry-1")
    assert first.models == second.models != ()
    assert first.repository == second.repository
    assert manifest.leases == LeasesAt()
    servers = serial.load(ServerTable, tmp_path / "repository" / ADDRESSES_NAME)
    ports = {servers.feedback(entry.name, "net")[1] for entry in manifest.entries}
    assert len(ports) == 2
    (model,) = manifest.models
    workers = [
        worker.name
        for shard in ("0", "1")
        for _, worker in owned_part(model, {shard: 1}).entry.served.workers()
    ]
    assert sorted(workers) == sorted(worker.name for _, worker in model.served.workers())
    assert lint(tmp_path / "repository") == ()


def test_a_rehearsal_has_one_entry(two: Any, profile: Profile, sharded: Plan) -> None:
    deployment, stretched, small = rehearsed(two, profile, sharded, Rehearsal(slower=2.0))
    manifest = render_once(deployment, stretched, placed(small, deployment, stretched)).manifest
    assert (manifest.more_entries, manifest.leases, manifest.models[0].shards) == ((), None, ())
