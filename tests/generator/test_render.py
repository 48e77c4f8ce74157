"""What a plan's repositories say, read back by Triton's own protobuf."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator import config, naming
from model_repo_generator.checking.fit import PlanFault
from model_repo_generator.entry import EntryFault
from model_repo_generator.generate import placed, render_once
from planner import serial
from planner.cluster import Executor
from planner.deployment import Deployment, DeploymentError, parse_deployment
from planner.manifest import MANIFEST_NAME, RAGGED, SHARED_FRAMES, STATUS, DeploymentManifest
from planner.places import ADDRESSES_NAME, Place, ServerTable, StageBlocks, StagePlace
from planner.plan import BlockRange, Plan
from planner.profile import Profile, TensorSpec
from tests.generator.conftest import FAST, SLOW, SPLIT, WHOLE


@pytest.fixture
def files(deployment: Deployment, profile: Profile, plan: Plan) -> Mapping[str, str]:
    return render(deployment, profile, plan)


def render(deployment: Deployment, profile: Profile, plan: Plan) -> Mapping[str, str]:
    return render_once(deployment, profile, placed(plan, deployment, profile)).files


def parsed(text: str) -> Any:
    return text_format.Parse(text, triton.ModelConfig())


def parameters(model: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in model.parameters.items()}


def test_there_is_one_triton_model_per_worker_and_the_entry_group(files: Mapping[str, str]) -> None:
    models = sorted(path.removesuffix("/config.pbtxt") for path in files if path.endswith("/config.pbtxt"))
    assert models == [
        "groups/entry/net",
        "groups/entry/net_body",
        f"groups/fast/{FAST}",
        f"groups/fast/{WHOLE}",
        f"groups/slow/{SLOW[0]}",
        f"groups/slow/{SLOW[1]}",
        f"groups/slow/{SLOW[2]}",
    ]
    for path in models:
        assert parsed(files[f"{path}/config.pbtxt"]).name == path.rsplit("/", 1)[1]
        assert any(other.startswith(f"{path}/1/") for other in files), "Triton wants a version folder"


def test_a_first_stage_takes_the_input_and_gives_final_or_cut_tensors(files: Mapping[str, str]) -> None:
    model = parsed(files[f"groups/fast/{FAST}/config.pbtxt"])
    assert [(tensor.name, list(tensor.dims), tensor.optional) for tensor in model.input] == [
        (RAGGED, [1], False),
    ]
    outputs = [tensor.name for tensor in model.output]
    assert outputs == ["classes", "scores", "relu_1", "pool_1", STATUS]
    assert model.max_batch_size == 4
    assert not model.HasField("dynamic_batching")
    assert [(group.count, group.kind) for group in model.instance_group] == [
        (1, triton.ModelInstanceGroup.KIND_CPU)
    ]
    assert parameters(model) == {
        "root": "../../..",
        "model": "net",
    }, "nothing of a plan"


def test_a_place_says_all_that_a_worker_must_know_and_nothing_of_a_plan(files: Mapping[str, str]) -> None:
    place = serial.loads(StagePlace, files[f"groups/slow/{SLOW[2]}/place.json"])
    assert place.worker == SLOW[2]
    assert place.place == Place("slow-0", gpu_id=1, slice_index=0, slices_per_gpu=2)
    assert place.blocks == StageBlocks(SPLIT, 2, 3, 3)
    assert (place.blocks.is_first, place.blocks.is_last, place.takes_frames) == (False, True, False)
    assert len(place.latency_us) == place.program.max_batch_size == 4
    assert place.finish is not None
    first = serial.loads(StagePlace, files[f"groups/fast/{FAST}/place.json"])
    assert (first.finish, first.takes_frames) == (None, True)
    text = files[f"groups/slow/{SLOW[2]}/place.json"]
    assert not [word for word in ("pipeline", "plan_hash", "epoch", "revision") if word in text]


def test_the_table_of_servers_has_all_of_them(files: Mapping[str, str]) -> None:
    table = serial.loads(ServerTable, files[ADDRESSES_NAME])
    manifest = serial.loads(DeploymentManifest, files[MANIFEST_NAME])
    assert [server.name for server in table.servers] == ["fast-0", "fast-1", "slow-0"]
    for server in manifest.servers:
        assert table.server(server.name).grpc_address == server.grpc_address
    assert table.feedback("entry", "net") == (manifest.entry.host, manifest.models[0].feedback_port)
    with pytest.raises(KeyError, match="no server 'gone' in the table"):
        table.server("gone")
    with pytest.raises(KeyError, match="no dispatcher of model 'other' on entry server 'entry'"):
        table.feedback("entry", "other")


def test_a_slice_of_a_gpu_names_its_gpu_and_limits_its_threads_before_torch(
    files: Mapping[str, str],
) -> None:
    model = parsed(files[f"groups/slow/{SLOW[2]}/config.pbtxt"])
    (group,) = model.instance_group
    assert (group.count, group.kind) == (1, triton.ModelInstanceGroup.KIND_GPU)
    gpus = [parsed(files[f"groups/slow/{name}/config.pbtxt"]).instance_group[0].gpus[0] for name in SLOW]
    assert sorted(gpus) in ([0, 0, 1], [0, 1, 1])
    assert [tensor.name for tensor in model.input] == ["relu_1", "pool_1", SHARED_FRAMES]
    assert [tensor.name for tensor in model.output] == ["classes", "scores", "logits"]
    code = files[f"groups/slow/{SLOW[2]}/1/model.py"]
    assert code.index('"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "50"') < code.index("python_backend")
    assert "CUDA" not in files[f"groups/fast/{FAST}/1/model.py"]


def test_the_manifest_says_the_same_as_the_folders(files: Mapping[str, str]) -> None:
    manifest = serial.loads(DeploymentManifest, files[MANIFEST_NAME])
    for server in (manifest.entry, *manifest.servers):
        for model in server.models:
            assert f"{server.repository}/{model}/config.pbtxt" in files
    assert {server.name: server.models for server in manifest.servers}["slow-0"] == (
        SLOW[0],
        SLOW[1],
        SLOW[2],
    )
    (entry,) = manifest.models
    program = entry.programs[0][0]
    assert program.program == f"programs/net.{SPLIT}.json"
    assert (program.first_block, program.past_block) == (0, 2)
    assert entry.programs[0][0].padded
    assert not entry.programs[0][1].padded
    assert [tensor.name for tensor in entry.public_inputs] == ["jpeg", "image"]
    assert [tensor.name for tensor in entry.outputs] == ["classes", "scores"]
    assert entry.feedback_port == 21003


def test_clients_call_the_dispatcher_in_one_of_its_ways_in(files: Mapping[str, str]) -> None:
    model = parsed(files["groups/entry/net/config.pbtxt"])
    assert model.backend == "python"
    assert [(tensor.name, tensor.optional) for tensor in model.input] == [("jpeg", True), ("image", True)]
    assert [tensor.name for tensor in model.output] == ["classes", "scores"]
    assert model.HasField("dynamic_batching")
    assert model.max_batch_size >= 8
    assert "plan_hash" not in parameters(model), "a new revision must not change its configuration"


def test_bare_bodies_have_a_door_of_their_own(files: Mapping[str, str]) -> None:
    model = parsed(files["groups/entry/net_body/config.pbtxt"])
    assert model.platform == "ensemble"
    assert model.max_batch_size == 1, "one frame per request"
    assert [tensor.name for tensor in model.input] == ["jpeg"], "Triton takes a bare body for one input alone"
    steps = [(step.model_name, dict(step.input_map)) for step in model.ensemble_scheduling.step]
    assert steps == [("net", {"jpeg": "jpeg"})]


def test_raw_outputs_are_answered_where_they_are_asked_for(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    data["models"][0]["postprocess"]["raw_outputs"] = True
    files = render(parse_deployment(data, "test"), profile, plan)
    for path in ("groups/entry/net", f"groups/slow/{SLOW[0]}"):
        model = parsed(files[f"{path}/config.pbtxt"])
        assert [tensor.name for tensor in model.output] == ["logits", "classes", "scores"]


def test_a_model_without_steps_takes_and_gives_tensors(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    del data["models"][0]["preprocess"], data["models"][0]["postprocess"]
    files = render(parse_deployment(data, "test"), profile, plan)
    model = parsed(files["groups/entry/net/config.pbtxt"])
    assert [(tensor.name, tensor.optional) for tensor in model.input] == [("image", False)]
    assert [tensor.name for tensor in model.output] == ["logits"]
    assert not any("net_body" in path for path in files)
    first = parsed(files[f"groups/fast/{FAST}/config.pbtxt"])
    assert [tensor.name for tensor in first.input] == ["image", SHARED_FRAMES]


def test_rendering_twice_gives_the_same_bytes(deployment: Deployment, profile: Profile, plan: Plan) -> None:
    again = parse_deployment(json.loads(deployment.model_dump_json()), "test")
    assert render(deployment, profile, plan) == render(again, profile, plan)


def test_an_emulated_class_runs_no_program(data: dict[str, Any], profile: Profile, plan: Plan) -> None:
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    manifest = serial.loads(
        DeploymentManifest, render(parse_deployment(data, "test"), profile, plan)[MANIFEST_NAME]
    )
    programs = [program for pipeline in manifest.models[0].programs for program in pipeline]
    assert {(each.program, each.executor) for each in programs} == {("", Executor.EMULATED)}


@pytest.mark.parametrize(
    ("stage", "fields", "said"),
    [
        (0, {"gpu": "A100"}, "unknown GPU class 'A100'; the deployment has fast, slow"),
        (0, {"blocks": BlockRange(0, 1)}, "starts at block 2 where 1 is next"),
        (1, {"blocks": BlockRange(2, 9)}, "ends at block 9, but the profile has 3 blocks"),
        (1, {"slices_per_gpu": 5}, "slices_per_gpu 5 is not in 1..2"),
        (1, {"workers": 10**9}, "the plan's workers take 5e+08 GPUs of class 'slow'; there are 2"),
        (1, {"batch_size": 64}, "batch_size 64 is not in the profiled 1..4"),
        (1, {"workers": 0}, "workers 0 must be at least 1"),
        (1, {"workers": 5}, "the plan's workers take 2.5 GPUs of class 'slow'; there are 2"),
    ],
)
def test_a_plan_edited_into_nonsense_is_refused(
    deployment: Deployment,
    profile: Profile,
    change_stage: Callable[..., Plan],
    stage: int,
    fields: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ValueError, match="plan") as fault:
        render(deployment, profile, change_stage(0, stage, **fields))
    assert said in str(fault.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"server": "nowhere"}, "unknown server 'nowhere'"),
        ({"gpu_id": 7}, "gpu_id 7 is not in 0..1 of server 'slow-0'"),
        ({"slice_index": 2}, "slice_index 2 is not in 0..1"),
        ({"server": "fast-0", "gpu_id": 0}, "has GPUs of class 'fast', not 'slow'"),
        ({"worker": 3}, "worker 3 of stage 1 of pipeline 0 of 'net' is placed and not planned"),
        ({"worker": 0}, "worker 0 of stage 1 of pipeline 0 of 'net' is placed 2 times"),
    ],
)
def test_a_placement_edited_into_nonsense_is_refused(
    deployment: Deployment, profile: Profile, plan: Plan, fields: dict[str, Any], said: str
) -> None:
    good = placed(plan, deployment, profile)
    assert good.placement is not None
    workers = [
        dataclasses.replace(worker, **fields) if (worker.stage, worker.worker) == (1, 2) else worker
        for worker in good.placement.workers
    ]
    bad = dataclasses.replace(good, placement=dataclasses.replace(good.placement, workers=tuple(workers)))
    with pytest.raises(PlanFault) as fault:
        render(deployment, profile, bad)
    assert said in str(fault.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"uplink": 0.0}, "'net' has no share of the uplink of 'fast-0'"),
        ({"uplink": 1.5}, "shares of the uplink of 'fast-0' sum to 1.500, above 1"),
        ({"server": "fast-9"}, "'net' has no share of the uplink of 'fast-0'"),
    ],
)
def test_link_shares_edited_into_nonsense_are_refused(
    deployment: Deployment, profile: Profile, plan: Plan, fields: dict[str, Any], said: str
) -> None:
    good = placed(plan, deployment, profile)
    assert good.placement is not None
    shares = [
        dataclasses.replace(share, **fields) if share.server == "fast-0" else share
        for share in good.placement.link_shares
    ]
    bad = dataclasses.replace(good, placement=dataclasses.replace(good.placement, link_shares=tuple(shares)))
    with pytest.raises(PlanFault) as fault:
        render(deployment, profile, bad)
    assert said in str(fault.value)


def test_plan_profile_and_deployment_of_different_models_are_refused(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    data["models"][0]["name"] = "other"
    with pytest.raises(PlanFault, match="the plan has model 'net', which is not in the deployment"):
        render(parse_deployment(data, "test"), profile, plan)


def test_a_profile_with_an_unknown_dtype_is_refused(
    deployment: Deployment, profile: Profile, plan: Plan
) -> None:
    (model,) = profile.models
    strange = dataclasses.replace(model, outputs=(TensorSpec(name="logits", dtype="FP31", shape=(5,)),))
    with pytest.raises(config.ConfigFault, match="dtype 'FP31' is not one of"):
        render(deployment, Profile(models=(strange,)), plan)


def test_a_profile_of_another_input_is_refused(data: dict[str, Any], profile: Profile, plan: Plan) -> None:
    data["models"][0]["input"]["shape"] = [3, 16, 16]
    with pytest.raises(PlanFault, match="profile again"):
        render(parse_deployment(data, "test"), profile, plan)


@pytest.mark.parametrize(
    ("postprocess", "said"),
    [
        ({"top_k": 6}, "top_k: 6 is more than the model's 5 classes"),
        ({"task": "detection"}, "detection takes boxes [n, 4] and scores [n, classes]"),
        ({"task": "segmentation"}, "segmentation takes scores [classes, height, width]"),
        ({"task": "reading"}, "reading takes probabilities [steps, symbols]"),
    ],
)
def test_postprocessing_that_does_not_fit_is_refused(
    data: dict[str, Any], profile: Profile, plan: Plan, postprocess: dict[str, Any], said: str
) -> None:
    data["models"][0]["postprocess"] = postprocess
    with pytest.raises(EntryFault) as fault:
        render(parse_deployment(data, "test"), profile, plan)
    assert said in str(fault.value)


def test_labels_must_be_as_many_as_the_classes(
    data: dict[str, Any], profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    data["models"][0]["postprocess"]["labels"] = "labels.txt"
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    deployment = parse_deployment(data, "test")
    with pytest.raises(EntryFault, match="3 labels for 5 classes"):
        render_once(deployment, profile, placed(plan, deployment, profile), base=tmp_path)
    with pytest.raises(PlanFault, match=r"models\.net\.postprocess\.labels: .*labels\.txt"):
        render_once(deployment, profile, placed(plan, deployment, profile), base=tmp_path / "elsewhere")


def test_a_class_called_as_the_entry_group_is_refused(
    data: dict[str, Any], profile: Profile, plan: Plan
) -> None:
    data["cluster"]["gpu_classes"].append({"name": "Entry"})
    with pytest.raises(naming.NameFault, match="the entry server's group"):
        render(parse_deployment(data, "test"), profile, plan)


def test_two_models_that_want_one_name_are_refused() -> None:
    with pytest.raises(naming.NameFault, match="model 'a_dispatch' and model 'a' would both be called"):
        naming.check_models({"a": ["a", "a_dispatch"], "a_dispatch": ["A_Dispatch"]})


@pytest.mark.parametrize("name", ["", "..", "a..b", "a b", "-a", "é", "a/b", "a.", "a\n", 'a"b', "x" * 121])
def test_names_that_triton_or_a_file_system_would_refuse(name: str) -> None:
    with pytest.raises(naming.NameFault, match="allowed"):
        naming.check_component(name, "models.name")


@pytest.mark.parametrize("name", ["a b", "../x", "a\nb", "été", "x" * 65])
def test_a_deployment_file_cannot_bring_such_a_name(data: dict[str, Any], name: str) -> None:
    data["models"][0]["name"] = name
    with pytest.raises(DeploymentError, match=r"models\.0\.name"):
        parse_deployment(data, "test")


@given(st.text(), st.text())
def test_no_text_breaks_out_of_its_field(name: str, value: str) -> None:
    value = value.encode(errors="ignore").decode()
    name = name.encode(errors="ignore").decode()
    text = config.dispatcher_config(
        name, [TensorSpec(name=value, dtype="FP32", shape=(1,))], [], {"key": value}
    )
    model = parsed(text)
    assert (model.name, model.input[0].name, model.parameters["key"].string_value) == (name, value, value)
    assert len(model.input) == 1
    assert not model.output
    assert model.backend == "python"


def test_no_queue_before_a_dispatcher_is_bounded() -> None:
    """Triton 2.51 then hands requests over only as others are answered (docs/decisions.md, Triton)."""
    model = parsed(config.dispatcher_config("net", [], [], {}))
    assert model.HasField("dynamic_batching")
    assert not model.dynamic_batching.HasField("default_queue_policy")
    assert not model.dynamic_batching.priority_queue_policy
