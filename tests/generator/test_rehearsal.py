"""A rehearsal keeps a plan's graph and replaces what this machine has not: GPUs, hosts, speed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from model_repo_generator.checking.on_disk import check
from model_repo_generator.generate import generate, placed, serving_tables
from model_repo_generator.lint import lint
from model_repo_generator.rehearsal import Rehearsal, RehearsalFault, rehearsed
from planner.cluster import Executor
from planner.deployment import Deployment, parse_deployment
from planner.plan import Plan
from planner.profile import Profile


@pytest.fixture
def fleet(data: dict[str, Any]) -> Deployment:
    """On other hosts, each with the usual ports, and with options that only a GPU has."""
    data["cluster"]["groups"][1] = {
        "gpu": "slow",
        "gpus_per_server": 2,
        "servers": [
            {"name": f"slow-{n}", "host": f"10.0.0.{n}", "http_port": 8000, "grpc_port": 8001}
            for n in range(3)
        ],
    }
    data["cluster"]["entry"] = {"host": "gate", "grpc_port": 8001}
    return parse_deployment(data, "test")


def graph(plan: Plan) -> list[tuple[object, ...]]:
    """What a rehearsal must leave as it is."""
    return [
        (model.model, index, stage.blocks, stage.gpu, stage.slices_per_gpu, stage.batch_size)
        for model in plan.models
        for index, pipeline in enumerate(model.pipelines)
        for stage in pipeline.stages
    ]


def test_the_graph_stays_and_all_servers_are_here(fleet: Deployment, profile: Profile, plan: Plan) -> None:
    local, _, small = rehearsed(fleet, profile, plan, Rehearsal())
    assert graph(small) == graph(plan)
    cluster = local.to_cluster()
    assert {gpu_class.executor for gpu_class in cluster.gpu_classes} == {Executor.EMULATED}
    servers = (*cluster.servers, cluster.entry)
    assert {server.host for server in servers} == {"127.0.0.1"}
    ports = [port for server in servers for port in (server.http_port, server.grpc_port, server.metrics_port)]
    assert len(set(ports)) == len(ports), "two servers of one machine cannot have one port"


def test_nothing_is_asked_of_this_machine_that_only_the_fleets_hosts_have(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    files = {"ca": "/tls/ca.pem", "certificate": "/tls/host.pem", "key": "/tls/host.key"}
    fleet = parse_deployment({**data, "tls": files, "execution_env": "/opt/env.tar.gz"}, "test")
    assert fleet.to_tls() is not None
    local, _, _ = rehearsed(fleet, profile, plan, Rehearsal())
    assert local.to_tls() is None
    assert local.execution_env is None


def test_a_placement_that_fits_is_kept(fleet: Deployment, profile: Profile, plan: Plan) -> None:
    whole = placed(plan, fleet, profile)
    assert rehearsed(fleet, profile, whole, Rehearsal())[2].placement == whole.placement


def test_servers_without_work_are_left_out(fleet: Deployment, profile: Profile, plan: Plan) -> None:
    local, _, small = rehearsed(fleet, profile, plan, Rehearsal(workers_per_pool=1))
    assert small.placement is not None
    assert {server.name for server in local.to_cluster().servers} == {
        seat.server for seat in small.placement.workers
    }


@pytest.mark.parametrize("limit", [1, 2])
def test_pools_shrink_and_rates_with_them(
    fleet: Deployment, profile: Profile, plan: Plan, limit: int
) -> None:
    small = rehearsed(fleet, profile, plan, Rehearsal(workers_per_pool=limit))[2]
    stages = [stage for pipeline in small.models[0].pipelines for stage in pipeline.stages]
    assert [stage.workers for stage in stages] == [1, limit, 1]
    # The pool of three slices is what shrinks, and its pipeline serves that much less.
    assert small.models[0].pipelines[0].throughput_rps == pytest.approx(500 * limit / 3)
    assert small.models[0].throughput_rps == pytest.approx(500 * limit / 3 + 333)


def test_slower_stretches_every_time_alike(fleet: Deployment, profile: Profile, plan: Plan) -> None:
    plan = placed(plan, fleet, profile)
    real = serving_tables(fleet, profile, plan)["net"]
    slow = serving_tables(*rehearsed(fleet, profile, plan, Rehearsal(slower=7.0)))["net"]
    assert slow.slo_us == 7 * real.slo_us
    assert slow.planned_rps == pytest.approx(real.planned_rps / 7)
    for slowed, before in zip(slow.pipelines, real.pipelines, strict=True):
        for slowed_stage, stage in zip(slowed.stages, before.stages, strict=True):
            assert slowed_stage.latency_us == tuple(7 * us for us in stage.latency_us)
        for slowed_hop, hop in zip(slowed.transfer_us, before.transfer_us, strict=True):
            # Each is rounded up to a whole microsecond.
            assert all(abs(a - 7 * b) <= 7 for a, b in zip(slowed_hop, hop, strict=True))


def test_a_rehearsal_generates_checks_and_lints_clean(
    fleet: Deployment, profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    local = rehearsed(fleet, profile, plan, Rehearsal(workers_per_pool=1, slower=3))
    manifest = generate(*local, tmp_path / "rehearsal")
    assert check(*local, tmp_path / "rehearsal") == ()
    assert lint(tmp_path / "rehearsal") == ()
    assert all(program.program == "" for row in manifest.models[0].programs for program in row)


def test_on_the_cpu_programs_are_wanted_and_nothing_is_padded(
    fleet: Deployment, profile: Profile, plan: Plan
) -> None:
    from model_repo_generator.generate import render_once

    manifest = render_once(*rehearsed(fleet, profile, plan, Rehearsal(executor="cpu"))).manifest
    programs = [program for row in manifest.models[0].programs for program in row]
    assert {program.executor for program in programs} == {Executor.CPU}
    assert all(program.program and not program.padded for program in programs)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"executor": "cuda"}, "--rehearse: 'cuda' is not one of emulated, cpu"),
        ({"workers_per_pool": 0}, "--workers-per-pool: 0 must be at least 1"),
        ({"slower": 0.0}, "--slower: 0.0 is not a number above 0"),
        ({"slower": float("nan")}, "--slower: nan is not"),
    ],
)
def test_a_rehearsal_that_cannot_be_names_its_option(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RehearsalFault, match=said):
        dataclasses.replace(Rehearsal(), **fields)


def test_pools_by_count_of_one_class_keep_their_servers(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    groups = data["cluster"]["groups"]
    data["cluster"]["groups"] = [groups[0], *({**groups[1], "count": 1} for _ in range(3))]
    fleet = parse_deployment(data, "test")
    local, _, _ = rehearsed(fleet, profile, placed(plan, fleet, profile), Rehearsal())
    names = {server.name for server in fleet.to_cluster().servers}
    assert {server.name for server in local.to_cluster().servers} <= names
