"""A plan that its deployment or profile has outrun: each changed field is named with both values."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from model_repo_generator.checking.fit import PlanFault, check_pipelines
from model_repo_generator.checking.stale import StalePlan, changed_since
from planner.deployment import Deployment, parse_deployment
from planner.plan import Plan
from planner.problem import Problem
from planner.profile import Profile


@pytest.fixture
def planned(deployment: Deployment, profile: Profile) -> Problem:
    return deployment.to_problem(profile)


def texts(planned: Problem, now: Problem) -> list[str]:
    return [change.to_text() for change in changed_since(planned, now) if not change.on_purpose]


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda d: d["models"][0].update(slo_ms=60),
            "models.net.slo_ms: now 60, but the plan was made for 100",
        ),
        (lambda d: d["models"][0].update(weight=3), "models.net.weight: now 3, but the plan was made for 1"),
        (
            lambda d: d["cluster"]["groups"][1].update(gpus_per_server=1),
            "cluster.groups: GPUs of class slow: now 1, but the plan was made for 2",
        ),
        (
            lambda d: d["cluster"].update(bandwidth_gbps=1),
            "cluster server.fast-0.bandwidth_gbps: now 1, but the plan was made for 10",
        ),
        (
            lambda d: d["cluster"]["gpu_classes"][1].update(memory_gib=1),
            "cluster.gpu_classes.slow.memory_bytes: now 1073741824, but the plan was made for none",
        ),
        (
            lambda d: d.update(planner={"batch_build_factor": 2.0}),
            "planner.batch_build_factor: now 2, but the plan was made for 1.3",
        ),
    ],
)
def test_a_change_is_named_with_both_values(
    edit: Edit, said: str, data: dict[str, Any], planned: Problem, profile: Profile
) -> None:
    edit(data)
    assert said in texts(planned, parse_deployment(data, "test").to_problem(profile))


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["cluster"].update(base_port=31000),
        lambda d: d["cluster"].update(entry={"host": "gate"}),
        lambda d: d["cluster"]["groups"][0].update(host="10.0.0.1"),
    ],
)
def test_addresses_do_not_make_a_plan_stale(
    edit: Edit, data: dict[str, Any], planned: Problem, profile: Profile
) -> None:
    edit(data)
    assert changed_since(planned, parse_deployment(data, "test").to_problem(profile)) == ()


def test_what_the_command_line_may_have_chosen_is_told_and_not_held_against_it(planned: Problem) -> None:
    options = dataclasses.replace(planned.options, slo_margin=0.2, max_stages=3)
    changes = changed_since(planned, dataclasses.replace(planned, options=options))
    assert [(change.field, change.on_purpose) for change in changes] == [
        ("planner.max_stages", True),
        ("planner.slo_margin", True),
    ]


def test_another_profile_is_named(planned: Problem) -> None:
    (model,) = planned.profile.models
    other = Profile(models=(dataclasses.replace(model, split="another"),))
    (said,) = texts(planned, dataclasses.replace(planned, profile=other))
    assert said.startswith("profile of net: now ")


def test_the_message_says_what_to_run(planned: Problem) -> None:
    demand = dataclasses.replace(planned.demands[0], slo_us=1000)
    changes = changed_since(planned, dataclasses.replace(planned, demands=(demand,)))
    assert str(StalePlan(changes)).splitlines()[-1] == "plan again: ppipe plan, then ppipe generate"


def test_generating_for_another_slo_than_was_planned_is_refused(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    """Without the problem beside the plan too: the plan itself says its SLO."""
    data["models"][0]["slo_ms"] = 60
    with pytest.raises(
        PlanFault, match=r"models\.net\.slo_ms: 60 in the deployment, .* made for 100: plan again"
    ):
        check_pipelines(parse_deployment(data, "test"), profile, plan)


def test_what_a_search_of_margins_chose_is_told_too(planned: Problem) -> None:
    searched = dataclasses.replace(
        planned.options, loss_share=0.01, batch_build_factor=0.0, dispersion=4.0, slo_margin=0.1
    )
    changes = changed_since(dataclasses.replace(planned, options=searched), planned)
    assert {change.field for change in changes} >= {"planner.batch_build_factor", "planner.dispersion"}
    assert all(change.on_purpose for change in changes)
    by_hand = dataclasses.replace(planned.options, batch_build_factor=0.5)
    assert texts(dataclasses.replace(planned, options=by_hand), planned)
