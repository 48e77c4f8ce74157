"""A generated repository against its deployment.json: clean as generated, and faults put into it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_repo_generator.lint import Context, Finding, lint
from model_repo_generator.writing.write import hash_file
from planner import serial
from planner.cluster import Cluster, GpuClass, Server
from planner.execution import CONTEXT_BYTES
from planner.manifest import MANIFEST_NAME, SHARED_FRAMES, DeploymentManifest, StageProgram
from planner.memory import SERVER_BYTES
from planner.places import PLACE_NAME
from planner.profile import ModelProfile, Profile, ProgramFormat
from planner.programs import BlockProgram, ProgramList

GOLDEN = Path(__file__).parent.parent / "golden" / "two_classes"
GIB = 1 << 30


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """A generated folder with (empty) programs: a stage on one class, then one on three half GPUs."""
    root = tmp_path / "out"
    shutil.copytree(GOLDEN, root)
    (path,) = {root / program.program for program in programs(root)}
    path.parent.mkdir()
    files = [path.with_suffix(f".b{block}.pt2") for block in range(3)]
    for file in files:
        file.touch()
    blocks = tuple(BlockProgram(file.name, hash_file(file), 0) for file in files)
    serial.save(ProgramList("net", "0123", ProgramFormat.TORCH, blocks), path)
    return root


def manifest_of(root: Path) -> DeploymentManifest:
    return serial.load(DeploymentManifest, root / MANIFEST_NAME)


def programs(root: Path) -> list[StageProgram]:
    (entry,) = manifest_of(root).models
    return [program for pipeline in entry.programs for program in pipeline if program.program]


def half_workers(root: Path) -> list[str]:
    """Names of the workers that have half a GPU."""
    (entry,) = manifest_of(root).models
    stages = [stage for pipeline in entry.served.pipelines for stage in pipeline.stages]
    return [worker.name for stage in stages if stage.slices_per_gpu == 2 for worker in stage.workers]


def edit(root: Path, model: str, change: Callable[[str], str], file: str = "config.pbtxt") -> None:
    (path,) = root.glob(f"groups/*/{model}/{file}")
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def cluster(root: Path, gpus: int, memory_bytes: int | None = None) -> Cluster:
    """The deployment's servers, each with so many GPUs of so much memory."""
    servers = manifest_of(root).servers
    classes = {server.group for server in servers}
    return Cluster(
        gpu_classes=tuple(GpuClass(name=name, memory_bytes=memory_bytes) for name in sorted(classes)),
        servers=tuple(
            Server(name=server.name, gpu=server.group, gpu_count=gpus, bandwidth_gbps=10)
            for server in servers
        ),
    )


def profile(root: Path, weight_bytes: int) -> Profile:
    """Two blocks of so many weights each, cut where the plan cuts."""
    (entry,) = manifest_of(root).models
    first, second = entry.programs[0]
    measured = ModelProfile(
        model=entry.model,
        cut_bytes=(0,),
        tables=(),
        cut_tensors=(second.inputs,),
        inputs=first.inputs,
        outputs=second.outputs,
        weight_bytes=(weight_bytes, weight_bytes),
        activation_bytes=(0, 0),
    )
    return Profile(models=(measured,))


def test_clean_as_generated(generated: Path) -> None:
    assert lint(generated) == ()


def test_one_group_alone_is_held_against_the_manifest_above(generated: Path) -> None:
    group = next(path for path in sorted((generated / "groups").iterdir()) if path.name != "entry")
    assert lint(group) == ()
    shutil.rmtree(next(path for path in sorted(group.iterdir())))
    assert "manifest-model" in codes(lint(group))


def test_a_model_that_no_server_loads(generated: Path) -> None:
    name = half_workers(generated)[0]
    (folder,) = generated.glob(f"groups/*/{name}")
    shutil.copytree(folder, folder.parent / "stray")
    edit(generated, "stray", lambda text: text.replace(f'name: "{name}"\n', 'name: "stray"\n'))
    assert codes(lint(generated)) == ["manifest-unused"]


def test_a_missing_program_is_a_warning(generated: Path) -> None:
    for program in programs(generated):
        (generated / program.program).unlink(missing_ok=True)
    assert set(codes(lint(generated))) == {"manifest-program"}


def test_a_missing_block_is_told_of_the_stages_that_run_it(generated: Path) -> None:
    (path,) = {generated / program.program for program in programs(generated)}
    path.with_suffix(".b2.pt2").unlink()
    found = lint(generated)
    assert {finding.model for finding in found} == set(half_workers(generated))
    assert all("b2.pt2 is not there; no worker starts" in finding.message for finding in found)
    listed = serial.load(ProgramList, path)
    serial.save(dataclasses.replace(listed, blocks=listed.blocks[:1]), path)
    assert any("has no block 1, which the stage runs" in finding.message for finding in lint(generated))
    path.write_text("[]")
    assert all("is no list of programs: " in finding.message for finding in lint(generated))


def test_another_list_than_the_manifests_is_told(generated: Path) -> None:
    manifest = manifest_of(generated)
    (entry,) = manifest.models
    changed = dataclasses.replace(
        entry,
        programs=tuple(
            tuple(dataclasses.replace(program, program_sha256="0" * 64) for program in row)
            for row in entry.programs
        ),
    )
    serial.save(dataclasses.replace(manifest, models=(changed,)), generated / MANIFEST_NAME)
    assert any("is another file than deployment.json" in finding.message for finding in lint(generated))


@pytest.mark.parametrize(
    ("pattern", "put", "said"),
    [
        (r'"server": "\S+"', '"server": "slow-9"', "server is 'slow-9'"),
        (r'"max_batch_size": \d+', '"max_batch_size": 64', "program is"),
        (r'"deployment": "\w+"', '"deployment": "x"', "deployment is 'x', and deployment.json says"),
        (r'"gpu_id": \d+', '"gpu": 0', "its place cannot be read: place.json.place.gpu: unknown field"),
    ],
)
def test_a_place_that_is_not_as_its_dispatcher_has_it(
    generated: Path, pattern: str, put: str, said: str
) -> None:
    model = half_workers(generated)[-1]
    edit(generated, model, lambda text: re.sub(pattern, put, text, count=1), PLACE_NAME)
    found = [each for each in lint(generated) if each.code == "manifest-place"]
    assert [(each.model, each.file.endswith(f"{model}/place.json")) for each in found] == [(model, True)]
    assert said in found[0].message


@pytest.mark.parametrize(
    ("pattern", "put", "code"),
    [
        (r"max_batch_size: \d+", "max_batch_size: 64", "manifest-batch"),
        (r'input \{\s+name: "\w+"', 'input {\n  name: "q"', "manifest-tensors"),
        (SHARED_FRAMES, "other_frames", "manifest-tensors"),
        (r"\Z", "dynamic_batching { }\n", "manifest"),
        (r"count: 1", "count: 2", "manifest-executor"),
        (r"gpus: 0", "", "manifest-executor"),
    ],
)
def test_a_stage_that_is_not_as_planned(generated: Path, pattern: str, put: str, code: str) -> None:
    edit(generated, half_workers(generated)[-1], lambda text: re.sub(pattern, put, text, count=1))
    assert codes(lint(generated)) == [code]


def test_two_whole_gpus_of_work_do_not_fit_one(generated: Path) -> None:
    path = generated / MANIFEST_NAME
    path.write_text(path.read_text().replace('"slices_per_gpu": 2', '"slices_per_gpu": 1'))
    (finding,) = lint(generated)
    assert finding.code == "gpu-shared"
    assert "carries 2 GPUs of work" in finding.message


def test_gpu_ids_against_the_cluster(generated: Path) -> None:
    assert lint(generated, context=Context(cluster=cluster(generated, gpus=2))) == ()
    edit(generated, half_workers(generated)[0], lambda text: re.sub(r"gpus: \d+", "gpus: 7", text))
    findings = lint(generated, context=Context(cluster=cluster(generated, gpus=2)))
    assert codes(findings) == ["gpu-id"]


def test_gpu_ids_are_known_from_the_manifest_too(generated: Path) -> None:
    edit(generated, half_workers(generated)[0], lambda text: re.sub(r"gpus: \d+", "gpus: 7", text))
    (finding,) = lint(generated)
    assert finding.code == "gpu-id"
    assert "GPU 7 is not on server" in finding.message


def test_memory_of_a_gpu_is_shared_by_its_workers(generated: Path) -> None:
    needed = 2 * (GIB + CONTEXT_BYTES) + SERVER_BYTES
    two_fit = Context(cluster=cluster(generated, 2, needed), profile=profile(generated, GIB))
    assert lint(generated, context=two_fit) == ()
    one_fits = dataclasses.replace(two_fit, cluster=cluster(generated, 2, needed - 1))
    (finding,) = lint(generated, context=one_fits)
    assert finding.code == "gpu-memory"
    assert "need 3.50" in finding.message


def test_a_broken_manifest_is_an_error(generated: Path) -> None:
    (generated / MANIFEST_NAME).write_text("{}")
    with pytest.raises(serial.FormatError, match="missing"):
        lint(generated)


def change_manifest(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / MANIFEST_NAME
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))


def servers_of(plain: dict[str, Any], group: str) -> list[dict[str, Any]]:
    return [server for server in plain["servers"] if server["group"] == group]


def test_two_servers_of_one_host_and_one_gpu(generated: Path) -> None:
    def same_device(plain: dict[str, Any]) -> None:
        for server in servers_of(plain, "slow"):
            server["devices"] = ["1"]

    change_manifest(generated, same_device)
    (finding,) = lint(generated)
    assert finding.code == "host-device"
    assert "device 1 of 127.0.0.1 is of servers 'slow-0' and 'slow-1'" in finding.message


def test_two_gpu_servers_of_one_host_that_do_not_say_which_gpus(generated: Path) -> None:
    change_manifest(generated, lambda plain: [server.pop("devices") for server in plain["servers"]])
    assert codes(lint(generated)) == ["host-device", "host-device"]


def test_gpu_servers_of_hosts_of_their_own_need_not_say_which(generated: Path) -> None:
    def apart(plain: dict[str, Any]) -> None:
        for index, server in enumerate(plain["servers"]):
            server |= {"host": f"10.0.0.{index + 1}", "devices": []}

    change_manifest(generated, apart)
    assert lint(generated) == ()


def test_a_port_that_two_servers_of_one_host_have(generated: Path) -> None:
    def same_port(plain: dict[str, Any]) -> None:
        first, second = servers_of(plain, "slow")
        second["http_port"] = first["grpc_port"]

    change_manifest(generated, same_port)
    (finding,) = lint(generated)
    assert finding.code == "host-port"
    assert "is grpc_port of server 'slow-0' and http_port of server 'slow-1'" in finding.message
