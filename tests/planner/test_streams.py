"""`streams:` of a model: what it may say, and that a model's dispatcher gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.deployment import DeploymentError, parse_deployment
from planner.streams import StreamPolicy, StreamWeight

DEMO = Path(__file__).parents[2] / "ensembles" / "examples" / "demo.yaml"


def policy_of(streams: Any) -> StreamPolicy | None:
    """What the planner is told of the demo's model with these streams."""
    plain = yaml.safe_load(DEMO.read_text())
    plain["models"][0]["streams"] = streams
    (demand,) = parse_deployment(plain, "demo.yaml").to_demands()
    return demand.streams


def test_a_policy_is_read_with_its_weights_in_order() -> None:
    said = {"order": "stream", "keep": "newest", "share": "weighted", "most_rps": 30}
    weights = {"gate-*": 4, "g*": 2, "yard": 0.5}
    policy = policy_of({**said, "weights": weights})
    assert policy == StreamPolicy(
        "stream",
        "newest",
        "weighted",
        30.0,
        (StreamWeight("gate-*", 4.0), StreamWeight("g*", 2.0), StreamWeight("yard", 0.5)),
    )
    assert policy is not None
    assert [policy.weight_of(name) for name in ("gate-1", "garage", "yard", "dock")] == [4.0, 2.0, 0.5, 1.0]


def test_without_streams_there_is_no_policy() -> None:
    assert policy_of(None) is None


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ({"order": "sorted"}, r"streams\.order: Input should be 'arrival' or 'stream' \(got 'sorted'\)"),
        ({"keep": "oldest"}, r"streams\.keep: .*'all' or 'newest'"),
        ({"most_rps": 0}, r"streams\.most_rps: .*greater than 0"),
        (
            {"share": "weighted", "weights": {"a": 0}},
            r"streams\.weights\.a: .*greater than or equal to 0\.001",
        ),
        ({"weights": {"a": 2}}, r"weights: they count with 'share: weighted' only"),
        ({"keeps": "newest"}, r"streams\.keeps: unknown field.*keep"),
    ],
)
def test_what_is_wrong_is_named(streams: Any, said: str) -> None:
    with pytest.raises(DeploymentError, match=said):
        policy_of(streams)
