"""The data types refuse what cannot be."""

from __future__ import annotations

import math

import pytest

from planner.cluster import Cluster, EntryServer, GpuClass, Server
from planner.plan import BlockRange
from planner.profile import LatencyTable, ModelProfile, Profile, TensorSpec
from planner.serving import ServedPipeline, ServedStage


def server(name: str, gpu: str, gpu_count: int = 2, gbps: float = 10.0) -> Server:
    return Server(name=name, gpu=gpu, gpu_count=gpu_count, bandwidth_gbps=gbps)


def table(gpu: str = "L4", rows: tuple[tuple[float, ...], ...] = ((1.0, 2.0),)) -> LatencyTable:
    return LatencyTable(gpu=gpu, slices_per_gpu=1, batch_sizes=(1, 2), latency_us=rows)


def test_a_cluster_counts_by_class() -> None:
    cluster = Cluster(
        gpu_classes=(GpuClass(name="L4"), GpuClass(name="T4")),
        servers=(server("a", "L4", 4), server("b", "L4", 1, gbps=5.0), server("c", "T4")),
    )
    assert cluster.gpu_count("L4") == 5
    assert cluster.gpus_per_server("L4") == 4
    assert cluster.bandwidth_gbps("L4", "T4") == 5.0
    assert cluster.servers_of("T4") == (cluster.servers[2],)
    with pytest.raises(KeyError, match=r"unknown GPU class 'A10'; known: L4, T4"):
        cluster.gpu_class("A10")


@pytest.mark.parametrize(
    ("servers", "message"),
    [
        ((server("a", "T4"),), "server a: unknown GPU class 'T4'; known: L4"),
        ((server("a", "L4"), server("a", "L4")), "the name 'a' is used 2 times"),
        ((server("entry", "L4"),), "the name 'entry' is used 2 times"),
        ((server("a", "L4", 0),), "gpu_count 0 must be at least 1"),
        ((server("a", "L4", gbps=0.0),), "bandwidth_gbps 0.0 must be above 0"),
    ],
)
def test_a_cluster_that_cannot_be(servers: tuple[Server, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(gpu_classes=(GpuClass(name="L4"),), servers=servers, entry=EntryServer())


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_latency_is_a_finite_number(value: float) -> None:
    with pytest.raises(ValueError, match="block 0 at batch 2"):
        table(rows=((1.0, value),))


def test_a_latency_table_is_rectangular_and_ordered() -> None:
    with pytest.raises(ValueError, match="block 0 has 1 latencies for 2 batch sizes"):
        table(rows=((1.0,),))
    with pytest.raises(ValueError, match="ascending"):
        LatencyTable(gpu="L4", slices_per_gpu=1, batch_sizes=(2, 1), latency_us=((1.0, 1.0),))
    with pytest.raises(ValueError, match="slices_per_gpu must be at least 1"):
        LatencyTable(gpu="L4", slices_per_gpu=0, batch_sizes=(1,), latency_us=((1.0,),))


def test_a_profile_agrees_with_its_cuts() -> None:
    with pytest.raises(ValueError, match="1 blocks timed on L4"):
        ModelProfile(model="m", cut_bytes=(8,), tables=(table(),))
    with pytest.raises(ValueError, match="more than once"):
        ModelProfile(model="m", cut_bytes=(), tables=(table(), table()))
    profile = Profile(models=(ModelProfile(model="m", cut_bytes=(), tables=(table(),)),))
    assert profile.model("m").block_count == 1
    assert profile.model("m").table("L4", 2) is None
    with pytest.raises(KeyError, match="no profile of model 'n'; profiled: m"):
        profile.model("n")


def test_bytes_of_a_tensor() -> None:
    assert TensorSpec(name="x", dtype="FP16", shape=(3, 4)).bytes_per_frame == 24
    assert TensorSpec(name="x", dtype="FP32", shape=()).bytes_per_frame == 4


@pytest.mark.parametrize(("start", "end"), [(1, 1), (2, 1), (-1, 2)])
def test_a_block_range_is_not_empty(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="empty or negative"):
        BlockRange(start=start, end=end)


def test_a_served_pipeline_has_a_transfer_per_hop_and_a_table_to_its_batch() -> None:
    stage = ServedStage(gpu="L4", slices_per_gpu=1, latency_us=(5, 6), workers=())
    with pytest.raises(ValueError, match="0 transfer tables for 2 stages"):
        ServedPipeline(batch_size=1, stages=(stage, stage), transfer_us=())
    with pytest.raises(ValueError, match="batch_size 3 is past the end"):
        ServedPipeline(batch_size=3, stages=(stage,), transfer_us=())
