"""The yardstick beside each case of scripts/paper capacity, and the policies side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.paper.bound import LOADS, mean_shares, yardstick
from benchmarks.paper.capacity import Options
from benchmarks.paper.policies import WORKLOADS, compare, side_by_side, table
from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from python_backend.simulator.capacity import Workload
from python_backend.simulator.jitter import Jitter

DATA = Path(__file__).resolve().parents[3] / "shared" / "paper"


def one_pool() -> ServedModel:
    """Eight workers of 10 ms and an SLO of 25 ms: 800 frames/s."""
    workers = tuple(ServedWorker(f"w{w}", "", f"u{w}", f"d{w}") for w in range(8))
    stage = ServedStage(gpu="G", slices_per_gpu=1, latency_us=(10_000,), workers=workers)
    pipeline = ServedPipeline(batch_size=1, stages=(stage,), transfer_us=())
    return ServedModel(model="m", slo_us=25_000, planned_rps=800.0, pipelines=(pipeline,))


def test_on_one_pool_adaptive_serves_what_any_schedule_could() -> None:
    """There the bound is exact, and taking frames in order on the first free worker is the best there is."""
    row = yardstick(one_pool(), "adaptive", 700.0, Workload(seconds=10.0, seeds=(1, 2)))
    assert row["clairvoyant_share"] == 1.0
    assert row["fine_rps"] == row["clairvoyant_rps"] < 800
    assert [one["load"] for one in row["bound"]] == list(LOADS)
    assert all(one["share"] == 1.0 for one in row["bound"])
    assert row["bound"][-1]["bound_attainment"] == row["bound"][-1]["attainment"] < 0.999
    means = mean_shares([row | {"reference_load_rps": 600.0}])
    assert means["mean_clairvoyant_share"] == means["least_clairvoyant_share"] == 1.0
    assert means["mean_fine_ratio"] == pytest.approx(row["fine_rps"] / 600)
    assert means["at_loads"][1]["load"] == 1.05


def test_reactive_serves_less_than_any_schedule_could() -> None:
    served = one_pool()
    slow = ServedStage("G", 1, (20_000,), tuple(ServedWorker(f"x{w}", "", "", "") for w in range(8)))
    both = ServedPipeline(batch_size=1, stages=(slow,), transfer_us=())
    served = ServedModel("m", 25_000, 1_200.0, (*served.pipelines, both))
    row = yardstick(served, "reactive", 1_000.0, Workload(seconds=10.0, seeds=(1,)))
    assert 0.5 < row["clairvoyant_share"] < 1.0
    assert all(one["share"] < 1.0 for one in row["bound"][1:])


def test_there_is_no_bound_with_jitter_or_without_load() -> None:
    jittery = Workload(seconds=1.0, seeds=(1,), jitter=Jitter(share=0.05))
    for row in (
        yardstick(one_pool(), "adaptive", 700.0, jittery),
        yardstick(one_pool(), "adaptive", 0.0, Workload(seconds=1.0)),
    ):
        assert row["clairvoyant_rps"] is None
        assert row["bound"] == []
        assert mean_shares([row]) == {}


@pytest.mark.skipif(not (DATA / "settings.json").exists(), reason=f"needs the paper's figures in {DATA}")
def test_policies_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.loads((DATA / "settings.json").read_text(encoding="utf-8"))
    first = [setting for setting in raw if setting["group"] is not None][:1]
    (tmp_path / "settings.json").write_text(json.dumps(first), encoding="utf-8")
    (tmp_path / "models.json").symlink_to(DATA / "models.json")
    options = Options(planner="reference-ppipe", seconds=3.0, seeds=1, processes=1, bound=False)
    rows = compare(tmp_path, options, WORKLOADS[1::2])
    assert len(rows) == 3 * 3 * 2
    compared = side_by_side(rows)
    assert [one["workload"] for one in compared] == ["cv2", "jitter"]
    for one in compared:
        assert one["cases"] == 3
        assert 0.3 < one["least_ratio"]["reactive"] <= one["mean_ratio"]["reactive"] < 1.2
        assert 0 <= one["adaptive_at_least_level"] <= 3
    assert table(compared).row_count == 2
