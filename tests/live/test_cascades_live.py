"""A cascade on real tritonservers with emulated workers: a detector's frame makes others for a classifier, by
a function of this file; what is in a frame says how many, and whether the function fails.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from model_repo_generator.emulated import (
    EmulatedCascade,
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
)
from planner.cascades.data import Cascade, Fanout, Member
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from tests.live.data_plane_client import INPUT, served, tag_of

pytestmark = pytest.mark.live

MOST = 20
FAILS, FLOODS, NONSENSE, SLOW = 1_000, 2_000, 3_000, 4_000
"""Frames with these numbers and above make the function raise, give 10,000 frames, give what is none, or take
longer than their callers wait.
"""
SHORT_US = 2_000_000
"""In which any host answers a detector's frame; the slow function takes a little longer."""
OUTPUT = (TensorSpec("scores", "FP32", (10,)),)
LATENCY_US = (4_000, 5_000, 6_000, 7_000)
SLO_US = 8_000_000
"""In which any host answers."""


def some_frames(frame: Any, outputs: Mapping[str, Any]) -> Iterator[Any]:
    """As many frames as the detector's frame says, numbered after it."""
    number = tag_of(outputs["scores"])
    assert number == tag_of(frame.given["frame"]), "the answer is its frame's own"
    if FAILS <= number < FLOODS:
        raise RuntimeError("no boxes today")
    if SLOW > number >= NONSENSE:
        yield "a text"
        return
    if number >= SLOW:
        time.sleep(SHORT_US / 1e6 + 0.2)
    for row in range(10_000 if NONSENSE > number >= FLOODS else number % MOST):
        made = np.zeros(INPUT.shape, np.float32)
        made.view(np.int64)[0] = number * 100 + row
        yield row, made


def model(name: str) -> EmulatedModel:
    stage = EmulatedStage(LATENCY_US, (f"{name}-0",), OUTPUT)
    pipeline = EmulatedPipeline(batch_size=4, stages=(stage,))
    return EmulatedModel(name, SLO_US // 2, 500.0, INPUT, (pipeline,))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDeployment]:
    make = f"{__name__}:some_frames"
    members = (Member("detector"), Member("classifier", "detector", Fanout(4.0, 4.0, MOST), make))
    cascade = EmulatedCascade(Cascade("traffic", SLO_US, members), 100.0)
    root = tmp_path_factory.mktemp("cascade")
    with served(root, model("detector"), model("classifier"), cascades=[cascade]) as deployment:
        yield deployment


def ask(deployment: ServedDeployment, number: int, **options: Any) -> dict[str, Any]:
    frame = np.zeros((1, *INPUT.shape), np.float32)
    frame.view(np.int64)[0, 0] = number
    tensor = triton.InferInput(INPUT.name, list(frame.shape), INPUT.dtype)
    tensor.set_data_from_numpy(frame)
    with triton.InferenceServerClient(deployment.manifest.entry.grpc_address) as client:
        answer = client.infer("traffic", [tensor], **options)
    return {each.name: answer.as_numpy(each.name) for each in answer.get_response().outputs}


@pytest.mark.parametrize("number", [0, 1, 3, 19])
def test_a_frame_is_answered_with_all_that_came_of_it(deployment: ServedDeployment, number: int) -> None:
    answer = ask(deployment, number)
    assert tag_of(answer["scores"]) == number
    assert answer["classifier.scores"].shape == (1, number, 10)
    tags = [tag_of(row) for row in answer["classifier.scores"][0]]
    assert tags == [number * 100 + row for row in range(number)]
    assert answer["classifier.row"].tolist() == [list(range(number))]
    assert answer["classifier.of"].tolist() == [[0] * number]
    assert answer["classifier.answered"].all()
    assert not answer["partial"].any()
    assert answer["missing"].size == 0


@pytest.mark.parametrize(
    ("number", "rows", "said"),
    [
        (FAILS, 0, "RuntimeError: no boxes today"),
        (FLOODS, MOST, f"more than {MOST} frames were made"),
        (NONSENSE, 0, "a value of type str; classifier takes"),
    ],
)
def test_a_function_that_fails_costs_its_own_frame_alone(
    deployment: ServedDeployment, number: int, rows: int, said: str
) -> None:
    answer = ask(deployment, number)
    assert answer["partial"].all()
    assert said in answer["missing"][0, 0].decode()
    assert answer["classifier.scores"].shape[1] == rows
    assert not ask(deployment, 2)["partial"].any()


def test_by_its_deadline_a_frame_is_answered_with_what_is_there(deployment: ServedDeployment) -> None:
    answer = ask(deployment, SLOW + 1, timeout=SHORT_US)
    assert tag_of(answer["scores"]) == SLOW + 1
    assert answer["partial"].all()
    assert answer["missing"].tolist() == [[b"1 had not ended by the deadline"]]
    assert answer["classifier.scores"].shape[1] == 0


def test_what_no_member_can_serve_is_refused_with_its_reason(deployment: ServedDeployment) -> None:
    with pytest.raises(InferenceServerException, match="reason=") as refused:
        ask(deployment, 3, timeout=1)
    assert "UNAVAILABLE" in refused.value.status()
    with pytest.raises(InferenceServerException, match="parameter ppipe_priority: '12'") as refused:
        ask(deployment, 3, parameters={"ppipe_priority": 12})
    assert "INVALID_ARGUMENT" in refused.value.status()


def test_the_page_counts_every_end(deployment: ServedDeployment) -> None:
    before = counted(deployment)
    assert not ask(deployment, 3)["partial"].any()
    end_s = time.monotonic() + 30
    while (after := counted(deployment)) == before:  # a page may be a quarter of a second old
        assert time.monotonic() < end_s
        time.sleep(0.1)
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert changed.pop('answer_us_total{cascade="traffic",model="classifier"}') > 0
    assert changed.pop('answer_us_total{cascade="traffic",model="detector"}') > 0
    assert changed.pop('latency_us_total{cascade="traffic"}') > 0
    assert changed.pop('handed_us_total{cascade="traffic",model="classifier"}') > 0
    assert changed == {
        'frames_total{cascade="traffic"}': 1,
        'ended_total{cascade="traffic",end="complete"}': 1,
        'handed_total{cascade="traffic",model="classifier"}': 1,
        'asked_total{cascade="traffic",model="detector"}': 1,
        'asked_total{cascade="traffic",model="classifier"}': 3,
        'answered_total{cascade="traffic",model="detector"}': 1,
        'answered_total{cascade="traffic",model="classifier"}': 3,
    }


def counted(deployment: ServedDeployment) -> dict[str, float]:
    """The cascade's page, by series without their prefix."""
    manifest = deployment.manifest
    url = f"http://{manifest.entry.host}:{manifest.cascade('traffic').metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    rows = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name.removeprefix("ppipe_cascade_"): float(value) for name, value in rows}
