"""The front before the entries: what it lets through, and what it refuses to be made of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.helpers.door_stand import check_front, find_nginx
from model_repo_generator.emulated import build_manifest
from model_repo_generator.front import FrontError, FrontOptions, largest_body, render_front
from planner.manifest import DeploymentManifest
from ppipe.cli import run
from tests.live.data_plane_client import two_stage_model

ANYWHERE = {"listen": "0.0.0.0"}


@pytest.fixture
def manifest() -> DeploymentManifest:
    return build_manifest([two_stage_model()], 40_000, "d")


def test_only_public_models_and_inference_are_reached(manifest: DeploymentManifest) -> None:
    text = render_front(manifest, FrontOptions())
    places = re.findall(r"location (?:~|=)? ?(\S+) \{", text)
    reached = [
        path
        for path in (
            "/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer", "/v2/health/ready", "/v2",
            "/v2/models/tiny/ready", "/v2/models/tiny", "/v2/models/tiny.p0.s0.w0/infer",
            "/v2/repository/index", "/v2/models/tiny/load", "/v2/models/stats", "/v2/trace/setting",
            "/v2/logging", "/v2/systemsharedmemory/status", "/v2/models/tinyx/infer", "/metrics",
            "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer",
            "/inference.GRPCInferenceService/RepositoryModelLoad",
        )
        if any(re.fullmatch(place.strip("^$"), path) for place in places if place != "/")
    ]  # fmt: skip
    assert reached == [
        "/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer", "/v2/health/ready", "/v2",
        "/v2/models/tiny/ready", "/v2/models/tiny", "/inference.GRPCInferenceService/ModelInfer",
    ]  # fmt: skip
    assert f"client_max_body_size {largest_body(manifest.models)};" in text


def test_frames_are_shared_by_all_entries(manifest: DeploymentManifest) -> None:
    entries = [replace(manifest.entry, host=f"10.0.0.{number}") for number in (1, 2)]
    text = render_front(manifest, FrontOptions(), entries)
    assert text.count("server 10.0.0.1:") == text.count("server 10.0.0.2:") == 2
    assert "least_conn;" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ANYWHERE, "--listen 0.0.0.0: others reach it"),
        ({"listen": "front.example"}, "an address such as"),
        ({"certificate": Path("/a.pem")}, "give both --certificate and --key, or neither"),
        ({"origins": ("https://a.example'; return 200 'x",)}, "an origin such as"),
        ({"folder": Path("/tmp/a b")}, "an absolute path"),
        ({"folder": Path("run")}, "an absolute path"),
    ],
)
def test_a_front_that_would_not_be_safe_is_not_made(
    manifest: DeploymentManifest, options: dict[str, object], said: str
) -> None:
    with pytest.raises(FrontError, match=re.escape(said)):
        render_front(manifest, FrontOptions(**options))  # type: ignore[arg-type]


def test_nginx_takes_it(manifest: DeploymentManifest, tmp_path: Path) -> None:
    nginx = find_nginx()
    if nginx is None:
        pytest.skip("no nginx here")
    config = tmp_path / "nginx.conf"
    options = FrontOptions(listen="::1", folder=tmp_path, origins=("https://a.example",))
    config.write_text(render_front(manifest, options))
    assert check_front(nginx, config) == ""


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["front", str(tmp_path)]) == 1
    assert "no deployment.json there" in capsys.readouterr().err.replace("\n", " ")
