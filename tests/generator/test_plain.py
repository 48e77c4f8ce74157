"""The comparison without PPipe: who runs what, and what Triton is told about batching."""

import dataclasses
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.checking.fit import PlanFault
from model_repo_generator.comparison.plain import render_plain
from model_repo_generator.comparison.plain_plan import plain_batch, plain_plan
from planner.deployment import Deployment, parse_deployment
from planner.profile import Profile
from tests.generator.conftest import SPLIT


def test_every_gpu_that_meets_the_slo_runs_the_whole_model(deployment: Deployment, profile: Profile) -> None:
    rendered = render_plain(deployment, profile)
    loaded = {server.name: server.models for server in rendered.manifest.servers}
    assert loaded == {
        "fast-0": ("net.plain.w0",),
        "fast-1": ("net.plain.w1",),
        "slow-0": ("net.plain.w2", "net.plain.w3"),
    }
    assert rendered.manifest.entry.models == ()
    (entry,) = rendered.manifest.models
    assert {program.program for (program,) in entry.programs} == {f"programs/net.{SPLIT}.json"}


@pytest.mark.parametrize(
    ("slo_us", "size"),
    [
        (2_999, None),  # a frame takes 3 ms
        (3_000, 1),
        (11_999, 1),
        (12_000, 2),  # two batches of 6 ms
        (24_000, 4),
        (10**9, 4),
    ],
)
def test_the_largest_batch_of_which_two_fit_into_the_slo(
    profile: Profile, slo_us: int, size: int | None
) -> None:
    batch = plain_batch(profile.model("net"), "fast", slo_us)
    assert (batch.size if batch else None) == size


def test_an_slo_between_the_classes_leaves_the_slow_one_idle(data: dict[str, Any], profile: Profile) -> None:
    data["models"][0]["slo_ms"] = 8
    rendered = render_plain(parse_deployment(data, "test"), profile)
    assert [server.name for server in rendered.manifest.servers] == ["fast-0", "fast-1"]


def test_triton_is_told_batch_delay_and_timeout(data: dict[str, Any], profile: Profile) -> None:
    data["models"][0]["slo_ms"] = 12.2
    files = render_plain(parse_deployment(data, "test"), profile).files
    config = text_format.Parse(files["groups/fast/net.plain.w0/config.pbtxt"], triton.ModelConfig())
    assert config.max_batch_size == 2
    batching = config.dynamic_batching
    assert batching.max_queue_delay_microseconds == 200, "what is left beside two batches of 6 ms"
    assert batching.default_queue_policy.default_timeout_microseconds == 6_200
    assert batching.default_queue_policy.timeout_action == triton.ModelQueuePolicy.REJECT


def test_an_slo_that_no_class_meets_is_refused_with_the_fastest(
    data: dict[str, Any], profile: Profile
) -> None:
    data["models"][0]["slo_ms"] = 1
    with pytest.raises(PlanFault, match=r"SLO of 1 ms; the fastest class: 3\.0 ms on 'fast'"):
        plain_plan(parse_deployment(data, "test"), profile)


def test_two_models_share_the_gpus_by_weight(data: dict[str, Any], profile: Profile) -> None:
    (net,) = data["models"]
    data["models"] = [net | {"weight": 3}, net | {"name": "other", "weight": 1}]
    data["cluster"]["groups"] = [{"gpu": "fast", "count": 4, "gpus_per_server": 2}]
    both = Profile(models=(profile.models[0], dataclasses.replace(profile.models[0], model="other")))
    plan = plain_plan(parse_deployment(data, "test"), both)
    workers = {model.model: sum(p.stages[0].workers for p in model.pipelines) for model in plan.models}
    assert workers == {"net": 6, "other": 2}
