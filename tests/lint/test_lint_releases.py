"""Rules of other releases than the one that runs here; each names where it was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_repo_generator.lint import Context, Effect, Finding, Host, lint
from model_repo_generator.lint.command import main
from model_repo_generator.lint.releases import READ, SEEN, Release, UnknownRelease, parse
from model_repo_generator.lint.rules.releases import RULES
from planner.cluster import Cluster, GpuClass, Server
from tests.lint.battery.case import MODEL_PY, config, ensemble_text, python_model, step


def found(root: Path, minor: int, **host: object) -> dict[str, Finding]:
    """By code, what is found for servers of release 2.`minor`."""
    context = Context(host=Host(triton=Release(minor), **host))  # type: ignore[arg-type]
    return {finding.code: finding for finding in lint(root, context=context)}


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "release", "container"),
    [
        ("24.10", 51, "24.10"),
        ("2.51.0", 51, "24.10"),
        ("24.10-py3", 51, "24.10"),
        ("25.06", 59, "25.06"),
        ("25.07", 59, "25.06"),  # 2.59.1
        ("25.09", 61, "25.09"),
        ("2.69", 69, "26.05"),
        ("v2.73.0", 73, "26.09"),
        ("26.10", 74, "26.10"),
    ],
)
def test_containers_and_versions_are_one_order(text: str, release: int, container: str) -> None:
    assert parse(text) == Release(release)
    assert parse(text).container == container


@pytest.mark.parametrize("text", ["", "latest", "24", "24.13", "3.1", "24.09", "2.50.0", "-1.2"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UnknownRelease, match=r"24\.10"):
        parse(text)


def test_every_rule_says_where_it_was_read_and_is_of_a_release_that_was_read() -> None:
    for rule in RULES:
        assert rule.source
        assert SEEN < rule.since <= READ
        assert not rule.holds(SEEN)


INFLIGHT = ensemble_text(step("m", inputs='"x": "in"'), "max_inflight_requests: 4", name="e")
METRICS = (
    "model_metrics { metric_control [ { metric_identifier { family: %s } "
    "histogram_options { buckets: %s } } ] }"
)


def test_fields_are_known_from_the_release_that_brought_them(tmp_path: Path) -> None:
    write(tmp_path, {"e/config.pbtxt": INFLIGHT, "e/1/x": "", **python_model(config("m"), "m")})
    assert found(tmp_path, 62)["newer-field"].message.endswith("2.63 (25.11) does")
    assert found(tmp_path, 63).keys() == {"inflight-per-request"}
    assert found(tmp_path, 68) == {}


@pytest.mark.parametrize(
    ("family", "buckets", "fine"), [('"f"', "[ 1, 2 ]", True), ('""', "[ 1 ]", False), ('"f"', "[ ]", False)]
)
def test_metrics_are_checked_where_they_are_known(
    family: str, buckets: str, fine: bool, tmp_path: Path
) -> None:
    write(tmp_path, python_model(config("m", rest=METRICS % (family, buckets)), "m"))
    assert found(tmp_path, 51).keys() == {"newer-field"}
    assert found(tmp_path, 52).keys() == (set() if fine else {"model-metrics"})


def test_aoti_models(tmp_path: Path) -> None:
    write(tmp_path, {"m/config.pbtxt": config("m", head='platform: "torch_aoti"'), "m/1/model.pt2": ""})
    assert found(tmp_path, 51)["platform"].effect is Effect.REFUSED
    assert found(tmp_path, 66).keys() == {"aoti-filename"}
    assert found(tmp_path, 73) == {}
    (tmp_path / "m" / "1" / "model.pt2").rename(tmp_path / "m" / "1" / "net.pt2")
    assert found(tmp_path, 73).keys() == {"model-file"}


def test_aoti_models_are_told_by_their_file(tmp_path: Path) -> None:
    write(tmp_path, {"m/config.pbtxt": config("m", head=""), "m/1/model.pt2": ""})
    assert found(tmp_path, 51).keys() == {"backend"}
    assert found(tmp_path, 73) == {}


@pytest.mark.parametrize(
    ("minor", "rest", "fine"),
    [(51, "", True), (70, "", False), (72, 'default_model_filename: "model.py"', True), (73, "", True)],
)
def test_weights_beside_a_class_of_the_python_runtime(
    minor: int, rest: str, fine: bool, tmp_path: Path
) -> None:
    text = config("m", head='backend: "pytorch" runtime: "model.py"', rest=rest)
    write(tmp_path, {"m/config.pbtxt": text, "m/1/model.py": "", "m/1/model.pt": ""})
    assert found(tmp_path, minor).keys() == (set() if fine else {"runtime-weights"})


@pytest.mark.parametrize(("told", "status"), [((), 0), (("--triton", "2.70"), 1), (("--triton", "24.10"), 0)])
def test_a_fault_that_was_mended_is_a_warning_where_no_release_is_told(
    told: tuple[str, ...], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = config("m", head='backend: "pytorch" runtime: "model.py"')
    write(tmp_path, {"m/config.pbtxt": text, "m/1/model.py": "", "m/1/model.pt": ""})
    assert main([str(tmp_path), *told]) == status
    said = capsys.readouterr().out
    assert ("on Triton 2.68 to 2.72, the weights" in said) == (told == ())
    assert ("1 warning" in said) == (told == ())


def test_tensorflow_left_the_containers(tmp_path: Path) -> None:
    text = config("m", head='platform: "tensorflow_savedmodel"')
    write(tmp_path, {"m/config.pbtxt": text, "m/1/model.savedmodel/x": ""})
    assert found(tmp_path, 55) == {}
    assert found(tmp_path, 56).keys() == {"backend-removed"}
    assert found(tmp_path, 56, backends=frozenset({"tensorflow"})) == {}


def test_names_of_python_models(tmp_path: Path) -> None:
    write(tmp_path, {"a b/config.pbtxt": config("a b"), "a b/1/model.py": MODEL_PY})
    assert found(tmp_path, 59)["folder-name-hangs"].effect is Effect.HANGS
    assert found(tmp_path, 60)["folder-name-checked"].effect is Effect.DOUBTFUL


def test_names_with_dots_cannot_be_loaded_by_request(tmp_path: Path) -> None:
    write(tmp_path, python_model(config("a..b"), "a..b"))
    assert found(tmp_path, 66) == {}
    assert found(tmp_path, 67).keys() == {"load-name"}


def test_full_queues_of_steps(tmp_path: Path) -> None:
    limited = config("m", rest="dynamic_batching { default_queue_policy { max_queue_size: 4 } }")
    write(tmp_path, {"e/config.pbtxt": ensemble_text(step("m"), name="e"), "e/1/x": ""})
    write(tmp_path, python_model(limited, "m"))
    assert [minor for minor in (51, 63, 65, 66) if found(tmp_path, minor)] == [63, 65]
    assert found(tmp_path, 64).keys() == {"queue-full-stuck"}


def test_what_ended_the_server_is_refused_by_newer_ones(tmp_path: Path) -> None:
    rest = 'instance_group [ { profile: "99999999999" } ]'
    write(
        tmp_path, {"m/config.pbtxt": config("m", head='backend: "tensorrt"', rest=rest), "m/1/model.plan": ""}
    )
    assert found(tmp_path, 71)["profile-huge"].effect is Effect.DIES
    newer = found(tmp_path, 72)["profile-huge"]
    assert (newer.effect, newer.source[:13]) == (Effect.REFUSED, "read, not run")


def test_old_gpus(tmp_path: Path) -> None:
    write(tmp_path, python_model(config("m"), "m"))
    classes = tuple(GpuClass(name=name, memory_bytes=None) for name in ("P4", "T4", "V100", "ours"))
    servers = tuple(Server(name=c.name, gpu=c.name, gpu_count=1, bandwidth_gbps=1) for c in classes)
    cluster = Cluster(gpu_classes=classes, servers=servers)
    for release, wanted in ((Release(51), []), (Release(56), ["P4", "V100"])):
        findings = lint(tmp_path, context=Context(host=Host(triton=release), cluster=cluster))
        assert [finding.field for finding in findings] == wanted


def test_the_release_is_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path, {"m/config.pbtxt": config("m", rest=METRICS % ('"f"', "[ 1 ]")), "m/1/model.py": MODEL_PY}
    )
    assert main([str(tmp_path), "--triton", "24.10"]) == 1
    assert main([str(tmp_path), "--triton", "24.11"]) == 0
    assert main([str(tmp_path)]) == 0, "the oldest recommended one"
    assert main([str(tmp_path), "--triton", "2.73.0", "--client-shm"]) == 0
    assert "--allow-client-shm=true [client-shm: doubtful; read, not run" in capsys.readouterr().out
    assert main([str(tmp_path), "--triton", "27.01"]) == 0
    assert "newer than what was read" in capsys.readouterr().err
    assert main([str(tmp_path), "--triton", "newest"]) == 2
    assert "'newest' is no release of Triton" in capsys.readouterr().err


def test_the_page_has_each_rule_with_its_releases() -> None:
    page = (Path(__file__).parents[2] / "docs" / "lint.md").read_text()
    for rule in RULES:
        until = "" if rule.before is None else str(Release(rule.before.minor - 1))
        rows = [line for line in page.splitlines() if line.startswith("| 2.") and f"`{rule.code}`" in line]
        cells = [[cell.strip() for cell in row.split("|")[1:3]] for row in rows]
        if rule.code != "model-metrics":  # which is in the row of its field
            assert cells == [[str(rule.since), until]], rule.code
