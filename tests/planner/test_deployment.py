"""deployment.yaml: what is accepted, what each fault is told, and how ports and demands come out."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.cluster import Executor, StatedSpeed
from planner.deployment import (
    DeploymentError,
    PreprocessSpec,
    load_deployment,
    parse_deployment,
    recipe_of,
)
from planner.expectation import Expectation
from planner.profile import ModelProfile, Profile, TensorSpec

EXAMPLES = Path(__file__).parents[2] / "ensembles" / "examples"

PLAIN: dict[str, Any] = {
    "name": "fleet",
    "cluster": {
        "base_port": 20000,
        "gpu_classes": [
            {
                "name": "L4",
                "executor": "emulated",
                "stated": {"gflop_per_s": 20, "gbyte_per_s": 2},
                "cost": 2,
            },
            {"name": "T4", "max_slices_per_gpu": 4, "memory_gib": 16},
        ],
        "groups": [
            {"gpu": "L4", "count": 2, "gpus_per_server": 4},
            {
                "gpu": "T4",
                "gpus_per_server": 2,
                "bandwidth_gbps": 5,
                "servers": [{"name": "t-a", "grpc_port": 9}],
            },
        ],
    },
    "models": [
        {
            "name": "net",
            "program": {"factory": "package.module:make"},
            "input": {"name": "image", "shape": [3, 8, 8]},
            "slo_ms": 50.5,
            "rate_rps": 100,
        }
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """PLAIN with the field at a dotted path set."""
    plain = copy.deepcopy(PLAIN)
    target: Any = plain
    *parents, last = path.split(".")
    for part in parents:
        target = target[int(part)] if part.isdigit() else target[part]
    target[last] = value
    return plain


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_valid(path: Path) -> None:
    deployment = load_deployment(path)
    assert deployment.to_cluster().servers
    assert deployment.to_demands()


def test_cluster_demands_and_options() -> None:
    deployment = parse_deployment(PLAIN, "f")
    cluster = deployment.to_cluster()
    assert [(s.name, s.gpu, s.gpu_count, s.bandwidth_gbps) for s in cluster.servers] == [
        ("L4-0", "L4", 4, 10.0),
        ("L4-1", "L4", 4, 10.0),
        ("t-a", "T4", 2, 5.0),
    ]
    assert cluster.gpu_class("L4").executor is Executor.EMULATED
    assert cluster.gpu_class("L4").stated == StatedSpeed(gflop_per_s=20, gbyte_per_s=2)
    assert cluster.gpu_class("T4").memory_bytes == 16 * 2**30
    (demand,) = deployment.to_demands()
    assert (demand.slo_us, demand.weight, demand.rate_rps) == (50_500, None, 100.0)
    assert deployment.to_options().gpu_cost == {"L4": 2.0, "T4": 1.0}


def test_what_to_expect_is_part_of_the_options() -> None:
    assert parse_deployment(PLAIN, "f").to_options().expect == Expectation()
    surviving = parse_deployment(changed("planner", {"survive": {"servers": 1}}), "f")
    assert surviving.to_options().survive_servers == 1
    spot = parse_deployment(changed("cluster.gpu_classes.1.spot", True), "f").to_cluster()
    assert [one.spot for one in spot.gpu_classes] == ["", "T4"]
    stated = {"jitter": {"L4": 0.05}, "slowdown": 0.15, "arrivals": "gamma:cv=4", "held_in": 0.9}
    found = parse_deployment(changed("expect", stated), "f").to_options().expect
    assert found == Expectation(
        jitter_by_class={"L4": 0.05}, slowdown=0.15, arrivals="gamma:cv=4", held_in=0.9
    )


def test_ports_are_given_out_upwards_and_never_twice() -> None:
    cluster = parse_deployment(PLAIN, "f").to_cluster()
    entry = cluster.entry
    assert (entry.http_port, entry.grpc_port, entry.metrics_port, entry.feedback_port) == (
        20000,
        20001,
        20002,
        20003,
    )
    ports = [port for s in cluster.servers for port in (s.http_port, s.grpc_port, s.metrics_port)]
    # 20003 is the dispatcher's, 20004 that of a second revision beside it.
    assert ports == [20005, 20006, 20007, 20008, 20009, 20010, 20011, 9, 20013]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "cluster.groups.0.gpu",
            "L5",
            r"unknown GPU class 'L5' \(did you mean 'L4'\?\); gpu_classes has L4, T4",
        ),
        ("cluster.groups.0.count", 0, r"cluster\.groups\.0\.count: .*greater than or equal to 1 \(got 0\)"),
        ("cluster.groups.1.count", 2, "give either 'count' or a list of 'servers'"),
        ("cluster.gpu_classes.0.stated", {"gflops": 1}, r"stated\.gflops: unknown field; .*gflop_per_s"),
        ("cluster.gpu_classes.0.executor", "gpu", r"executor: .*'cuda', 'cpu' or 'emulated'.*\(got 'gpu'\)"),
        ("cluster.groups.1.servers.0.name", "entry", "servers: the name 'entry' is used 2 times"),
        ("cluster.bandwidth_gbps", math.inf, r"cluster\.bandwidth_gbps: .*finite number \(got inf\)"),
        ("cluster.groups.0.bandwidth_gbps", "25 Gbit", r"groups\.0\.bandwidth_gbps: .*number.*'25 Gbit'"),
        (
            "models.0.preprocess",
            {"frame": {"widht": 3}},
            r"frame\.widht: unknown field; did you mean 'width'",
        ),
        (
            "models.0.preprocess",
            {"interpolation": "nearest"},
            r"preprocess\.interpolation: .*'bilinear', 'antialias', 'bicubic' or 'area'.*'nearest'",
        ),
        ("models.0.preprocess", {"preset": "yolov9"}, r"preset 'yolov9' is not one of torchvision, timm"),
        ("models.0.preprocess", {"share": 0.5}, r"'share' belongs to fit: crop, and fit is stretch"),
        ("models.0.preprocess", {"preset": "yolo", "share": 1}, r"'share' belongs to .* fit is letterbox"),
        (
            "models.0.preprocess",
            {"mean": [1, 2]},
            r"net\.preprocess\.mean: 2 numbers .*; expected 1 or 3 numbers",
        ),
        ("models.0.preprocess", {"std": 0}, r"net\.preprocess\.std: \[0.0, 0.0, 0.0\] has a 0"),
        ("models.0.preprocess", {"scale": "1/0"}, r"preprocess\.scale"),
        ("models.0.preprocess", {"max_pixels": 1000}, r"max_pixels 1000 is less than the 2073600 pixels"),
        ("models.0.preprocess", {"max_bytes": 9}, r"max_bytes 9 is less than the 352512 bytes"),
        ("models.0.preprocess", {"formats": ["gif"]}, r"formats\.0: .*'jpeg' or 'png'"),
        (
            "models.0.preprocess",
            {"layout": "nhwc"},
            r"shape \[3, 8, 8\]; preprocessing makes \[height, width",
        ),
        ("models.0.preprocess", {"kind": "raw", "decode": "reduced"}, r"belongs to kind: jpeg"),
        ("models.0.slo_ms", -1, r"models\.0\.slo_ms: .*greater than 0 \(got -1\)"),
        ("models.0.slo", 3, r"models\.0\.slo: unknown field; did you mean 'slo_ms'\?"),
        ("models.0.input.dtype", "FP8", r"dtype 'FP8' is not one of BOOL"),
        ("models.0.input.shape", [3, 0], r"models\.0\.input\.shape\.1"),
        ("models.0.program", {}, "give one of 'factory'"),
        ("models.0.program", {"factory": "no_colon"}, r"models\.0\.program\.factory"),
        ("models.0.name", "../etc", r"models\.0\.name: .*'\.\./etc'"),
        ("planner", {"max_stages": 9}, r"planner\.max_stages: .*less than or equal to 4 \(got 9\)"),
        ("planner", {"survive": {"servers": 2}}, r"planner\.survive\.servers: .*0 or 1 \(got 2\)"),
        ("planner", {"survive": {"server": 1}}, r"survive\.server: unknown field; did you mean 'servers'"),
        ("expect", {"jitter": 3}, r"expect\.jitter: expected a share from 0 to below 1, .*\(got 3\)"),
        (
            "expect",
            {"jitter": {"T4": -1}},
            r"expect\.jitter: T4: -1 is not; expected a share from 0 to below 1",
        ),
        ("expect", {"slowdown": {"L5": 0.1}}, r"expect\.slowdown: unknown GPU class 'L5'; .* has L4, T4"),
        ("expect", {"arrivals": "gama:cv=2"}, r"expect\.arrivals: .*known: poisson, .*\(got 'gama:cv=2'\)"),
        ("expect", {"jiter": 0.1}, r"expect\.jiter: unknown field; did you mean 'jitter'\?"),
        ("doors", {"clsed": True}, r"doors\.clsed: unknown field; .*allowed: "),
        ("expect", {"held_in": 0}, r"expect\.held_in: .*greater than 0 \(got 0\)"),
        ("execution_env", "env.tar.gz", r"execution_env: expected an absolute path.*\(got 'env.tar.gz'\)"),
        ("models", [PLAIN["models"][0]] * 2, "the name 'net' is used more than once"),
    ],
)
def test_a_fault_names_field_value_and_what_is_allowed(path: str, value: Any, message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        parse_deployment(changed(path, value), "f")


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ([8, 8], "FP32", r"shape \[8, 8\]; preprocessing makes \[3, height, width\] or"),
        ([3, 8, 8], "INT8", "makes FP32, FP16 or UINT8"),
        ([1, 8, 8], "FP32", r"order: bgr has 3 channels, but the model's input 'image' has 1: expected grey"),
    ],
)
def test_preprocessing_that_does_not_fit_the_input_is_refused(shape: Any, dtype: str, said: str) -> None:
    plain = changed("models.0.input", {"name": "image", "dtype": dtype, "shape": shape})
    plain["models"][0]["preprocess"] = {"order": "bgr"} if shape[0] == 1 else {}
    with pytest.raises(DeploymentError, match=said):
        parse_deployment(plain, "f")


def test_what_stands_beside_a_preset_wins_and_is_told() -> None:
    spec = PreprocessSpec.model_validate({"preset": "mmcv", "mean": 0, "std": [58.395, 57.12, 57.375]})
    assert list(spec.overrides()) == ["mean is 0 as stated, not mmcv's [123.675, 116.28, 103.53]"]
    recipe = recipe_of(spec, TensorSpec("image", "FP32", (3, 8, 8)), "net")
    assert recipe.mean == (0.0, 0.0, 0.0)
    assert recipe.std == (58.395, 57.12, 57.375)
    fitted = PreprocessSpec.model_validate({"preset": "yolo", "fit": "stretch", "interpolation": "area"})
    assert list(fitted.overrides()) == [
        "fit is stretch as stated, not yolo's letterbox",
        "interpolation is area as stated, not yolo's bilinear",
    ]
    as_usual = PreprocessSpec.model_validate({"preset": "yolo", "scale": "1/255", "mean": 0})
    assert list(as_usual.overrides()) == []


def test_limits_follow_from_the_planned_frame() -> None:
    def limits(**fields: Any) -> tuple[int, int]:
        found = recipe_of(
            PreprocessSpec.model_validate(fields), TensorSpec("image", "FP32", (3, 8, 8)), "net"
        ).limits
        return found.max_pixels, found.max_bytes

    assert limits() == (4 * 1920 * 1080, 3 * 1920 * 1080 + 65_536), "a 4K frame; a PNG of the planned size"
    assert limits(formats=["jpeg"]) == (4 * 1920 * 1080, 4 * 352_512 + 65_536)
    small = {"width": 320, "height": 240, "bytes": 20_000}
    assert limits(frame=small, max_pixels=100_000) == (100_000, 3 * 320 * 240 + 65_536)
    assert limits(kind="raw", frame={"width": 10, "height": 10}) == (400, 3 * 400 + 65_536)


def test_a_file_that_is_not_there_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"none\.yaml: No such file"):
        load_deployment(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [", encoding="utf-8")
    with pytest.raises(DeploymentError, match="not YAML"):
        load_deployment(bad)


def test_a_class_named_twice() -> None:
    classes = [*PLAIN["cluster"]["gpu_classes"], {"name": "L4"}]
    with pytest.raises(DeploymentError, match="gpu_classes: the name 'L4' is used 2 times"):
        parse_deployment(changed("cluster.gpu_classes", classes), "f")


def test_servers_by_count_take_names_that_no_listed_server_has() -> None:
    listed = {"gpu": "L4", "gpus_per_server": 1, "servers": [{"name": "L4-1"}]}
    plain = copy.deepcopy(PLAIN)
    plain["cluster"]["groups"] = [{"gpu": "L4", "gpus_per_server": 1, "count": 2}, listed]
    names = [server.name for server in parse_deployment(plain, "d.yaml").to_cluster().servers]
    assert names == ["L4-0", "L4-2", "L4-1"]


@pytest.mark.parametrize(
    "text", ["name: a\ncluster: {}\nname: b\n", "cluster:\n  groups: []\n\n  groups: []\n"]
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(text: str, tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text(text)
    with pytest.raises(DeploymentError, match=r"'(name|groups)' stands in line [12] and in line [34]"):
        load_deployment(path)


def test_a_byte_order_mark_and_merged_keys_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("\ufeff" + yaml.safe_dump(PLAIN), encoding="utf-8")
    assert load_deployment(path).name == PLAIN["name"]
    path.write_text("base: &b {x: 1}\nother: {<<: *b, x: 2}\n")
    with pytest.raises(DeploymentError, match="unknown field"):
        load_deployment(path)


TWO_ENTRIES = [
    {"name": "a", "host": "10.0.0.1", "bandwidth_gbps": 25, "cores": 8},
    {"name": "b", "host": "10.0.0.2", "http_port": 9000},
]


def test_entries_are_one_a_list_or_a_count() -> None:
    assert [entry.name for entry in parse_deployment(PLAIN, "f").to_cluster().entries] == ["entry"]
    listed = parse_deployment(changed("cluster.entries", TWO_ENTRIES), "f").to_cluster().entries
    assert [(one.name, one.host, one.bandwidth_gbps, one.cores) for one in listed] == [
        ("a", "10.0.0.1", 25, 8),
        ("b", "10.0.0.2", 10, None),
    ]
    assert (listed[0].http_port, listed[1].http_port) == (20000, 9000)
    plain = changed("cluster.entries", 3)
    plain["cluster"]["entry"] = {"bandwidth_gbps": 40, "cores": 4}
    counted = parse_deployment(plain, "f").to_cluster()
    assert [(one.name, one.bandwidth_gbps, one.cores) for one in counted.entries] == [
        (f"entry-{number}", 40, 4) for number in range(3)
    ]
    ports = [
        port
        for one in (*counted.entries, *counted.servers)
        for port in (one.http_port, one.grpc_port, one.metrics_port)
    ]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize(
    ("entries", "entry", "said"),
    [
        ([{"name": "a"}, {"name": "a", "host": "10.0.0.2"}], {}, "the name 'a' is used more than once"),
        (
            [{"name": "a", "http_port": 9000}, {"name": "b", "http_port": 9000}],
            {},
            "port 9000 of 127.0.0.1 is http_port of server 'a' and http_port of server 'b'",
        ),
        ([{"name": "L4-0", "cores": 2}, {"name": "b"}], {}, "the name 'L4-0' is used 2 times"),
        ([{"host": "10.0.0.2"}], {}, "cluster.entries.0.name: Field required"),
        ([{"name": "a", "host": "10.0.0.2"}], {"cores": 4}, "give one 'entry', or a list of 'entries'"),
        (2, {"http_port": 9000}, "its ports cannot be those of 2 entries"),
        (0, {}, "a count of entries is from 1 to 64"),
        (65, {}, "a count of entries is from 1 to 64"),
        (True, {}, "cluster.entries: expected a list of entries, each with its name, or a count"),
        ("two", {}, "cluster.entries: expected a list of entries, each with its name, or a count"),
        ([{"name": "a", "host": "10.0.0.1", "port": 1}], {}, "unknown field; did you mean 'http_port'?"),
    ],
)
def test_entries_that_cannot_be_are_told_with_field_and_reason(entries: Any, entry: Any, said: str) -> None:
    plain = changed("cluster.entries", entries)
    plain["cluster"]["entry"] = entry
    with pytest.raises(DeploymentError) as caught:
        parse_deployment(plain, "f")
    assert said in str(caught.value)


def test_what_a_dispatcher_carries_counts_where_there_are_several() -> None:
    profile = Profile(models=(ModelProfile(model="net", cut_bytes=(), tables=()),))
    assert not parse_deployment(PLAIN, "f").with_costs(profile).model("net").overheads.dispatch.assumed
    several = parse_deployment(changed("cluster.entries", 2), "f").with_costs(profile)
    assert several.model("net").overheads.dispatch.assumed
