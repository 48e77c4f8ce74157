"""`cascades:` of a deployment file: what it means, and that each fault is named."""

from __future__ import annotations

from typing import Any

import pytest

from model_repo_generator.checking.fit import PlanFault, check_pipelines
from planner.cascades.data import Fanout, Member
from planner.deployment import Deployment, DeploymentError, parse_deployment
from planner.plan import Plan
from planner.profile import Profile

TWO = [{"name": "image", "shape": [3, 32, 32]}, {"name": "size", "shape": [2]}]
PICTURES = {"kind": "jpeg", "frame": {"width": 640, "height": 360, "bytes": 40_000}}

ONE_OF_TWO = PICTURES | {"input": "image"}


def model(name: str, task: str | None = "detection", **more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "name": name,
        "program": {"factory": "a:b"},
        "input": {"name": "x", "shape": [3, 32, 32]},
        "preprocess": PICTURES,
    }
    if task:
        spec["postprocess"] = {"task": task}
    return spec | more


def member(name: str, of: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": name} | ({"of": of, "count": 4} if of else {}) | more


def parsed(
    *members: dict[str, Any], models: list[dict[str, Any]] | None = None, **cascade: Any
) -> Deployment:
    plain = {
        "name": "d",
        "cluster": {
            "gpu_classes": [{"name": "g"}],
            "groups": [{"gpu": "g", "count": 1, "gpus_per_server": 4}],
        },
        "models": models or [model(name) for name in "abc"],
        "cascades": [{"name": "all", "slo_ms": 300, "models": list(members)} | cascade],
    }
    return parse_deployment(plain, "deployment.yaml")


def test_members_stand_after_what_feeds_them_and_have_defaults() -> None:
    found = parsed(member("c", "b", deviation=3, most=9), member("b", "a"), member("a"), rate_rps=7)
    (cascade,) = (spec.to_cascade() for spec in found.cascades)
    assert cascade.members == (
        Member("a"),
        Member("b", "a", Fanout(4.0, 2.0, 12), "crops"),
        Member("c", "b", Fanout(4.0, 3.0, 9), "crops"),
    )
    assert (cascade.slo_us, cascade.weight, cascade.rate_rps) == (300_000, None, 7.0)
    assert {spec.slo_ms for spec in found.models} == {300.0}
    assert [cascade.frames_of(name) for name in "abc"] == [1.0, 4.0, 16.0]


@pytest.mark.parametrize(
    ("members", "more", "said"),
    [
        ([member("a"), member("b", "c"), member("c", "b")], {}, "b -> c -> b: a circle"),
        ([member("a", "a"), member("b")], {}, "a -> a: a circle"),
        ([member("a"), member("b", "z")], {}, "b: of 'z', which is no member; a, b are"),
        ([member("a"), member("z", "a")], {}, "unknown model 'z'; models has a, b, c"),
        ([member("a"), member("b")], {}, "a and b have no 'of'"),
        ([member("a"), member("a", "a")], {}, "'a' is in it more than once"),
        ([member("a")], {}, "at least 2"),
        ([member("a", count=3), member("b", "a")], {}, "a: 'count' is of frames from another member"),
        ([member("a"), {"model": "b", "of": "a"}], {}, "b: 'count' is missing"),
        ([member("a"), member("b", "a", most=3)], {}, "b: most 3 is below count 4"),
        ([member("a"), member("b", "a", count=-1)], {}, "greater than 0"),
        ([member("a"), member("b", "a", make="crop it")], {}, "make"),
        ([member("a"), member("b", "a")], {"name": "a"}, "cascades.a: the name is one of models already"),
        (
            [member("a"), member("b", "a")],
            {"models": [model("a", task="classification"), model("b")]},
            "crops are of boxes, and a answers none: its postprocess.task is classification",
        ),
        (
            [member("a"), member("b", "a")],
            {"models": [model("a"), model("b", preprocess=None)]},
            "crops are cut out of pictures, and b has no preprocess",
        ),
        (
            [member("a"), member("b", "a")],
            {"models": [model("a"), model("b", input=None, inputs=TWO, preprocess=ONE_OF_TWO)]},
            "b takes image, size, and a crop is one input; give 'make' a function",
        ),
        (
            [member("a"), member("b", "a")],
            {"models": [model("a", slo_ms=50), model("b")]},
            "models.a.slo_ms: a is in cascade 'all', which states it; leave it out",
        ),
        (
            [member("a"), member("b", "a")],
            {"models": [model("a"), model("b", rate_rps=5)]},
            "models.b.rate_rps: b is in cascade 'all'",
        ),
        (
            [member("a"), member("b", "a")],
            {"models": [model("a", streams={"keep": "newest"}), model("b")]},
            "models.a.streams: a is in cascade 'all', which states it",
        ),
        ([member("a"), member("b", "a")], {"streams": {"order": "best"}}, "cascades.0.streams.order"),
        ([member("a"), member("b", "a")], {"slo_ms": 0}, "slo_ms"),
    ],
)  # fmt: skip
def test_faults_are_named(members: list[dict[str, Any]], more: dict[str, Any], said: str) -> None:
    inner = {one["model"] for one in members}
    usual = [model(name) if name in inner else model(name, slo_ms=9) for name in "abc"]
    models = more.get("models", usual)
    cascade = {key: value for key, value in more.items() if key != "models"}
    with pytest.raises(DeploymentError) as error:
        parsed(*members, models=models, **cascade)
    assert said in str(error.value)


def test_a_function_needs_neither_boxes_nor_pictures() -> None:
    models = [model("a", task=None, preprocess=None), model("b", preprocess=None)]
    found = parsed(member("a"), member("b", "a", make="my.steps:frames"), models=models)
    assert found.cascades[0].to_cascade().member("b").make == "my.steps:frames"


def test_a_model_without_an_slo_is_named_where_no_cascade_has_it() -> None:
    with pytest.raises(DeploymentError, match=r"models.2.slo_ms: Field required"):
        parsed(member("a"), member("b", "a"))


def test_a_plan_made_without_the_cascade_is_refused_before_anything_is_written() -> None:
    deployment = parsed(member("a"), member("b", "a"), models=[model("a"), model("b")])
    empty = Plan("p", 1.0, 1.0, 0.0, "s", ())
    with pytest.raises(PlanFault, match="the plan has no model 'a', which the deployment wants"):
        check_pipelines(deployment, Profile(models=()), empty)
