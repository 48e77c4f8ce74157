"""Which pipelines become ensembles within a server, and of which workers."""

import pytest

from model_repo_generator.chains import chains_of, fed_on_device
from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker


def stage(gpu: str, position: int, servers: list[str]) -> ServedStage:
    workers = tuple(
        ServedWorker(name=f"net.p0.s{position}.w{number}", server=server, uplink="", downlink="")
        for number, server in enumerate(servers)
    )
    return ServedStage(gpu=gpu, slices_per_gpu=1, latency_us=(1,), workers=workers)


def chains(*stages: ServedStage) -> list[tuple[str, str, tuple[str, ...]]]:
    pipeline = ServedPipeline(batch_size=1, stages=stages, transfer_us=((1,),) * (len(stages) - 1))
    served = ServedModel(model="net", slo_us=1, planned_rps=1.0, pipelines=(pipeline,))
    return [(chain.server, chain.name, chain.workers) for chain in chains_of(served)]


def test_each_worker_of_a_server_is_in_a_chain() -> None:
    made = chains(stage("T4", 0, ["a", "a", "a", "b"]), stage("T4", 1, ["a", "b", "a"]))
    assert made == [
        ("a", "net.p0.w0-0", ("net.p0.s0.w0", "net.p0.s1.w0")),
        ("a", "net.p0.w1-2", ("net.p0.s0.w1", "net.p0.s1.w2")),
        ("a", "net.p0.w2-0", ("net.p0.s0.w2", "net.p0.s1.w0")),
        ("b", "net.p0.w3-1", ("net.p0.s0.w3", "net.p0.s1.w1")),
    ]


def test_a_server_without_some_stage_has_none() -> None:
    assert chains(stage("T4", 0, ["a"]), stage("T4", 1, ["b"])) == []


@pytest.mark.parametrize("stages", [[("L4", ["a"])], [("L4", ["a"]), ("T4", ["b"])]])
def test_one_stage_or_two_classes_make_none(stages: list[tuple[str, list[str]]]) -> None:
    assert chains(*(stage(gpu, index, servers) for index, (gpu, servers) in enumerate(stages))) == []


def test_workers_of_one_gpu_are_chained_first_and_say_so() -> None:
    pipeline = ServedPipeline(
        batch_size=1,
        stages=(stage("T4", 0, ["a", "a", "a"]), stage("T4", 1, ["a", "a"])),
        transfer_us=((1,),),
    )
    served = ServedModel(model="net", slo_us=1, planned_rps=1.0, pipelines=(pipeline,))
    gpus = {(0, 0, 0): 0, (0, 0, 1): 1, (0, 0, 2): 1, (0, 1, 0): 1, (0, 1, 1): 2}
    made = chains_of(served, seats=gpus)
    assert [(chain.name, chain.gpu_id) for chain in made] == [
        ("net.p0.w1-0", 1),
        ("net.p0.w2-0", 1),
        ("net.p0.w0-0", None),
        ("net.p0.w1-1", None),
    ]
    assert fed_on_device(made) == {"net.p0.s1.w0"}
