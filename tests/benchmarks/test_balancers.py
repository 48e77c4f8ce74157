"""Plain Triton behind a balancing client: whom it chooses, and what is made of the points."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.balancers import best_setting, ratios
from benchmarks.helpers.loads.balanced import PlainSetting, SeenWorkers
from benchmarks.helpers.testbed.plan import best_plan, make_entry, make_problem
from benchmarks.helpers.testbed.system import make_plain, whole_workers
from model_repo_generator.emulated import write_entries
from python_backend.simulator.plain import BALANCERS, Balancer

FAST, SLOW = (100, 150), (300, 500)


def seen(balancer: Balancer, delay_us: int = 0) -> SeenWorkers:
    return SeenWorkers([FAST, SLOW], PlainSetting(balancer, delay_us, 2), seed=1)


def test_round_robin_goes_round_whatever_comes_back() -> None:
    workers = seen("round-robin")
    assert [workers.send(now_us) for now_us in range(4)] == [0, 1, 0, 1]
    workers.ended(1, 10)
    assert workers.send(11) == 0


def test_the_fewest_outstanding_the_first_of_equals() -> None:
    workers = seen("least-outstanding")
    assert [workers.send(0) for _ in range(3)] == [0, 1, 0]
    workers.ended(0, 100)
    workers.ended(0, 100)
    assert [workers.send(100) for _ in range(3)] == [0, 0, 1]


def test_of_two_at_random_the_one_with_fewer() -> None:
    workers = seen("power-of-two")
    chosen = [workers.send(0) for _ in range(200)]
    assert {0, 1} == set(chosen)
    assert abs(chosen.count(0) - chosen.count(1)) <= 10


def test_the_first_to_finish_by_what_batches_take() -> None:
    workers = seen("least-expected-finish")
    # One at once, two behind it as a batch; then 100 + 150 + 100 is later than 300 on the slow one.
    assert [workers.send(0) for _ in range(4)] == [0, 0, 0, 1]
    for now_us in (100, 250, 250):
        workers.ended(0, now_us)
    assert workers.expected_end_us(0, 250) == 350


def test_a_batch_that_waits_for_its_delay_takes_more_frames() -> None:
    workers = seen("least-expected-finish", delay_us=50)
    assert workers.expected_end_us(0, 0) == 150
    assert workers.send(0) == 0
    assert workers.expected_end_us(0, 10) == 50 + 150
    assert workers.send(10) == 0
    # Full, so it began at once.
    assert workers.expected_end_us(0, 10) == 10 + 150 + 100


def test_a_worker_that_answers_earlier_than_thought_is_free() -> None:
    workers = seen("least-expected-finish")
    workers.send(0)
    workers.ended(0, 20)
    assert workers.expected_end_us(0, 20) == 120


def test_ratios_are_paired_by_seed() -> None:
    found = ratios([1.0, 0.9], {"round-robin": [0.5, 0.6], "power-of-two": [0.4, 0.75]})
    assert set(found) == {"best", "round-robin", "power-of-two"}
    mean, half = found["best"]
    assert mean == pytest.approx((2.0 + 1.2) / 2)
    assert half > 0
    assert found["round-robin"][0] == pytest.approx(1.75)


def test_plain_triton_has_every_gpu_that_meets_the_slo_and_batches_that_fit() -> None:
    problem = make_problem(1.0)
    whole = make_entry(problem, *best_plan(problem, "np"), feedback_port=0)
    assert len(whole_workers(whole)) == 4
    rates = [float(rate) for rate in range(20, 200, 10)]
    settings = [best_setting(whole, name, rates) for name in BALANCERS]
    for one in settings:
        latency_us = whole_workers(whole)[0].latency_us[one.max_batch - 1]
        assert one.delay_us + latency_us < whole.served.slo_us
    assert any(one.max_batch > 1 for one in settings)


def test_plain_workers_are_whole_models_that_triton_batches(tmp_path: Path) -> None:
    problem = make_problem(1.0)
    whole = make_entry(problem, *best_plan(problem, "np"), feedback_port=1)
    manifest = write_entries(tmp_path, (whole,), 2, name="testbed")
    make_plain(tmp_path, manifest, PlainSetting("round-robin", 6_000, 2))
    for each in whole_workers(whole):
        folder = tmp_path / manifest.server(each.worker.server).repository / each.worker.name
        config = model_config_pb2.ModelConfig()
        text_format.Parse((folder / "config.pbtxt").read_text(), config)
        assert config.max_batch_size == 2
        assert config.dynamic_batching.max_queue_delay_microseconds == 6_000
        assert "root" in config.parameters
        assert "plain" in (folder / "1" / "model.py").read_text()
