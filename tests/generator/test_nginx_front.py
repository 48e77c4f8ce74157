"""The front before the entries: what it lets through, and what it refuses to be made of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.helpers.doors.stand import check_front, find_nginx
from model_repo_generator.emulated import build_manifest
from model_repo_generator.front import (
    FrontError,
    FrontLimits,
    FrontOptions,
    KnownLimits,
    front_limits,
    known_limits,
    largest_body,
    render_front,
)
from planner.manifest import DeploymentManifest
from ppipe.cli import run
from python_backend.dispatcher.frames.room import SMALLEST_FRAMES
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


def test_what_an_address_may_send_follows_from_what_is_served(manifest: DeploymentManifest) -> None:
    (model,) = manifest.models
    served = replace(model.served, planned_rps=2_000.0, slo_us=200_000)
    large = replace(model, served=served, longest_timeout_us=1_000_000)
    assert front_limits([large]) == FrontLimits(200, 8_000, 3_000)
    assert front_limits([large, large]) == FrontLimits(400, 16_000, 6_000)
    assert front_limits([large] * 3).all_connections == 16_384, "nginx sets memory aside for each"
    small = replace(large, served=replace(served, planned_rps=3.0))
    assert front_limits([small]) == FrontLimits(64, 4_096, 100)
    assert front_limits([small]).all_connections >= SMALLEST_FRAMES


def test_strangers_leave_known_callers_their_share(manifest: DeploymentManifest) -> None:
    (model,) = manifest.models
    large = replace(model, served=replace(model.served, planned_rps=2_000.0, slo_us=200_000))
    assert known_limits([large], 0.75) == KnownLimits(800, 50, 3_000)
    assert known_limits([large], 0.5).strangers == 100
    small = replace(large, served=replace(large.served, planned_rps=3.0))
    assert known_limits([small], 0.75) == KnownLimits(256, 4, 100)


def test_who_is_known_is_a_network_or_has_a_certificate(manifest: DeploymentManifest) -> None:
    plain = render_front(manifest, FrontOptions())
    assert "strangers" not in plain
    text = render_front(manifest, FrontOptions(known=("10.1.0.0/16", "2001:db8::/32")))
    assert "geo $near { default 0; 10.1.0.0/16 1; 2001:db8::/32 1; }" in text
    assert "ssl_client_certificate" not in text
    tls = {"certificate": Path("/a.pem"), "key": Path("/a.key"), "client_ca": Path("/ca.pem")}
    text = render_front(manifest, FrontOptions(**tls))  # type: ignore[arg-type]
    assert text.count("ssl_client_certificate /ca.pem;") == text.count("ssl_verify_client optional;") == 2


def test_what_is_asked_for_counts_before_what_is_served(manifest: DeploymentManifest) -> None:
    text = render_front(manifest, FrontOptions(connections=7, all_connections=70, requests_per_s=9))
    for line in (
        "limit_conn caller 7;", "limit_conn all 70;", "rate=9r/s;", "burst=7 nodelay;",
        "worker_connections 204;",
    ):  # fmt: skip
        assert line in text


@pytest.mark.parametrize(
    ("options", "streams"),
    [
        ({"connections": 7}, 7),
        ({"connections": 500}, 128),
        ({"connections": 7, "known": ("10.0.0.0/8",)}, 128),
    ],
)
def test_one_connection_carries_no_more_than_its_caller_may_have_under_way(
    manifest: DeploymentManifest, options: dict[str, object], streams: int
) -> None:
    text = render_front(manifest, FrontOptions(**options))  # type: ignore[arg-type]
    assert f"http2_max_concurrent_streams {streams};" in text


def test_an_entry_is_told_who_called_and_not_by_the_caller(manifest: DeploymentManifest) -> None:
    text = render_front(manifest, FrontOptions())
    for kind in ("proxy", "grpc"):
        assert f"{kind}_set_header ppipe-caller $named;" in text


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", None),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2"),
        ("2001:db8:1:2::6", "2001:db8:1:2"),
        ("2001:db8::6", "2001:db8"),
        ("::1", None),
        ("2001::1:2:3:4:5", "2001::1"),
        ("2001:db8::3:4:5:6:7", "2001:db8::3"),
        ("2001:db8::1:2:3:4", "2001:db8"),
        ("64:ff9b::c000:207", "64:ff9b::c000:207"),
        ("64:ff9b:1::c000:207", "64:ff9b:1::c000:207"),
        ("fe80::1:2:3:4", "fe80::1:2:3:4"),
        ("::ffff:192.0.2.7", None),
    ],
)
def test_of_an_ipv6_caller_the_half_that_is_not_his_to_choose_counts(
    manifest: DeploymentManifest, address: str, caller: str | None
) -> None:
    text = render_front(manifest, FrontOptions())
    rules = re.findall(r"^ +\"?~(\S+?)\"? \$1;$", text, re.MULTILINE)
    assert len(rules) == 5
    found = next((match for rule in rules if (match := re.search(rule, address))), None)
    assert (found and found[1]) == caller


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
        ({"known": ("10.1.2.3/16",)}, "--known '10.1.2.3/16': 10.1.2.3/16 has host bits set"),
        ({"known": ("cameras",)}, "expected an address or a network"),
        ({"client_ca": Path("/ca.pem")}, "--client-ca: clients show certificates over TLS alone"),
        ({"known": ("10.0.0.0/8",), "known_share": 1.0}, "--known-share 1.0: expected a part"),
    ],
)
def test_a_front_that_would_not_be_safe_is_not_made(
    manifest: DeploymentManifest, options: dict[str, object], said: str
) -> None:
    with pytest.raises(FrontError, match=re.escape(said)):
        render_front(manifest, FrontOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [(), ("10.1.0.0/16", "2001:db8::/32", "192.0.2.7")])
def test_nginx_takes_it(manifest: DeploymentManifest, tmp_path: Path, known: tuple[str, ...]) -> None:
    nginx = find_nginx()
    if nginx is None:
        pytest.skip("no nginx here")
    config = tmp_path / "nginx.conf"
    options = FrontOptions(listen="::1", folder=tmp_path, origins=("https://a.example",), known=known)
    config.write_text(render_front(manifest, options))
    assert check_front(nginx, config) == ""


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["front", str(tmp_path)]) == 1
    assert "no deployment.json there" in capsys.readouterr().err.replace("\n", " ")
