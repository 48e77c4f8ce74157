"""Workloads, scores, pictures and files of the bench; tests/ppipe/test_loadgen.py has the client."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2

from ensembles.prepare.decoding import decode
from model_repo_generator.emulated import build_manifest
from ppipe.bench.frames import encode_jpeg, make_pictures
from ppipe.bench.outcome import Fate, FrameResult
from ppipe.bench.perf_analyzer import PerfError, input_data, read_report
from ppipe.bench.picture import draw
from ppipe.bench.run import Measured, as_plain
from ppipe.bench.score import score, score_by_model
from ppipe.bench.workload import RequestTrace, WorkloadError, load_workload, make_workload, save_workload
from ppipe.commands.bench import require_frames
from python_backend.simulator.arrivals import ArrivalError, read_trace
from tests.live.data_plane_client import two_stage_model

SLO_US = {"m": 100_000}
GOOD = FrameResult(model="m", frame=0, due_us=0, sent_us=100, ended_us=50_000, fate=Fate.ANSWERED)


def test_a_workload_has_every_model_s_rate_and_one_order() -> None:
    workload = make_workload({"a": 200.0, "b": 50.0}, seconds=20.0, seed=3, frames=8)
    assert workload.models == ("a", "b")
    assert workload.count("a") == pytest.approx(4000, rel=0.1)
    assert workload.count("b") == pytest.approx(1000, rel=0.2)
    due = [arrival.due_us for arrival in workload.arrivals]
    assert due == sorted(due)
    assert {arrival.frame for arrival in workload.arrivals} == set(range(8))
    assert workload == make_workload({"a": 200.0, "b": 50.0}, seconds=20.0, seed=3, frames=8)
    assert workload != make_workload({"a": 200.0, "b": 50.0}, seconds=20.0, seed=4, frames=8)


def test_a_saved_workload_is_the_same_and_a_trace_of_the_simulator(tmp_path: Path) -> None:
    workload = make_workload({"a": 100.0}, seconds=2.0, seed=3, frames=8)
    save_workload(workload, tmp_path / "w.csv")
    assert load_workload(tmp_path / "w.csv", seconds=2.0) == workload
    np.testing.assert_allclose(
        read_trace(tmp_path / "w.csv"), [arrival.due_us / 1e6 for arrival in workload.arrivals], atol=1e-6
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the first line must be timestamp,model,frame"),
        ("timestamp,model,frame\n", "no arrivals"),
        ("timestamp,model,frame\n0.1,m,0\nsoon,m,1\n", "line 3: .*soon"),
        ("timestamp,model,frame\n0.1,m\n", "line 2"),
        ("timestamp,model,frame\n-0.1,m,0\n", "line 2: a negative number"),
    ],
)
def test_a_bad_workload_file_names_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "w.csv"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=said):
        load_workload(path)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ArrivalError, match="rate_rps 0"):
        make_workload({"m": 0.0}, seconds=1.0, seed=0, frames=1)


def test_a_workload_is_refused_that_nobody_here_could_answer() -> None:
    manifest = build_manifest([two_stage_model(name="m")], 20_000, "bench")
    require_frames(make_workload({"m": 100.0}, seconds=1.0, seed=1, frames=4), manifest)
    with pytest.raises(WorkloadError, match="not one frame"):
        require_frames(RequestTrace(arrivals=(), seconds=1.0), manifest)
    with pytest.raises(WorkloadError, match="--workload: no model 'other' is served here; there are m"):
        require_frames(make_workload({"other": 100.0}, seconds=1.0, seed=1, frames=4), manifest)


def test_everything_but_a_right_answer_in_time_counts_against_attainment() -> None:
    late = replace(GOOD, ended_us=100_001)
    outcomes = [
        *[GOOD] * 5,
        late,
        replace(GOOD, matched=False, abs_error=0.5),
        replace(GOOD, fate=Fate.DROPPED, reason="overload"),
        replace(GOOD, fate=Fate.FAILED, reason="INTERNAL: x"),
        replace(GOOD, fate=Fate.UNANSWERED, reason="no answer"),
    ]
    result = score(outcomes, SLO_US, seconds=2.0)
    assert (result.requests, result.answered, result.unanswered, result.failed) == (10, 7, 1, 1)
    assert (result.mismatched, result.late) == (1, 1)
    assert (result.attainment, result.goodput_rps, result.offered_rps) == (0.5, 2.5, 5.0)
    assert (result.drops, result.errors) == ({"overload": 1}, {"INTERNAL: x": 1})
    assert result.max_abs_error == 0.5
    assert result.p50_ms == 50.0


def test_latency_counts_from_when_the_frame_was_due() -> None:
    lagging = replace(GOOD, due_us=0, sent_us=80_000, ended_us=120_000)
    result = score([lagging], SLO_US, seconds=1.0)
    assert (result.goodput_rps, result.send_lag_max_ms) == (0.0, 80.0)


def test_models_are_scored_by_their_own_slo() -> None:
    other = replace(GOOD, model="fast")
    scores = score_by_model([GOOD, other], {"m": 100_000, "fast": 10_000}, seconds=1.0)
    assert (scores["m"].attainment, scores["fast"].attainment) == (1.0, 0.0)


def test_nothing_sent_is_no_score() -> None:
    with pytest.raises(ValueError, match="nothing to score"):
        score([], SLO_US, seconds=1.0)


def measured(system: str) -> Measured:
    outcomes = [replace(GOOD, ended_us=10_000 * k) for k in range(1, 15)]
    total = score(outcomes, SLO_US, 1.0)
    return Measured(
        system=system, seconds=1.0, slo_us=SLO_US, planned_rps=20.0, total=total, models={"m": total},
        outcomes=outcomes,
    )  # fmt: skip


def test_a_measurement_becomes_json_and_a_picture(tmp_path: Path) -> None:
    plain = as_plain([measured("ppipe"), measured("np")], {"seed": 1})
    assert json.loads(json.dumps(plain))["systems"]["np"]["total"]["requests"] == 14
    draw([measured("ppipe"), measured("np")], tmp_path / "bench.png", "a title")
    with Image.open(tmp_path / "bench.png") as picture:
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 10


def test_pictures_repeat_with_their_seed_and_differ_otherwise() -> None:
    pictures = make_pictures(3, seed=1)
    assert [picture.shape for picture in pictures] == [(240, 320, 3)] * 3
    again, other = make_pictures(3, seed=1), make_pictures(3, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=True))
    assert not any(np.array_equal(a, b) for a in pictures for b in other)
    decoded = decode(encode_jpeg(pictures[0])).astype(int)
    assert np.abs(decoded - pictures[0]).mean() < 15


def test_frames_for_perf_analyzer_are_base64_without_the_batch_dimension() -> None:
    request = service_pb2.ModelInferRequest()
    request.inputs.add(name="jpeg", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\x01\x00\x00\x00a")
    assert input_data([request]) == {"data": [{"jpeg": {"b64": "AQAAAGE=", "shape": [1]}}]}


def test_a_perf_analyzer_report_is_read(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_text(
        "Request Rate,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency\n"
        "30,29.5,100,52000,60000,61000,70000\n"
    )
    report = read_report(path, asked_rps=30.0)
    assert (report.throughput_rps, report.p50_ms, report.p99_ms) == (29.5, 52.0, 70.0)
    path.write_text("nothing\n")
    with pytest.raises(PerfError, match="not a report"):
        read_report(path, asked_rps=30.0)
