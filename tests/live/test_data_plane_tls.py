"""Stage servers that take calls over mutual TLS only; certificates by openssl, on loopback."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from model_repo_generator.emulated import write_deployment
from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest, TlsFiles
from ppipe.commands.status import silent_models
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base, is_free
from python_backend.wire import kserve
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.signing.keys import Keys
from python_backend.wire.transport import targets_of
from tests.live.data_plane_client import PATIENT_US, Client, tag_of, two_stage_model

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

NAME = "stages.example"


def make_certificates(folder: Path) -> TlsFiles:
    """A CA and one certificate made out to NAME."""
    folder.mkdir()
    extension = folder / "extension"
    extension.write_text(f"subjectAltName=DNS:{NAME}\n")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(folder, "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    run(folder, "req", *new, "-keyout", "host.key", "-out", "host.csr", "-subj", f"/CN={NAME}")
    signed = [
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        str(extension),
    ]
    run(folder, "x509", "-req", "-in", "host.csr", "-out", "host.pem", *signed)
    return TlsFiles(
        ca=str(folder / "ca.pem"),
        certificate=str(folder / "host.pem"),
        key=str(folder / "host.key"),
        server_name=NAME,
    )


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def probe(manifest: DeploymentManifest, tls: TlsFiles | None) -> None:
    """Ask a stage for a sign of life. Raises HopFailure."""
    entry = manifest.models[0]
    targets = targets_of(manifest, entry, own_host=manifest.entry.host)
    transport = GrpcTransport(targets, Keys.none(), tls)
    try:
        transport.probe(next(iter(targets)), timeout_s=3.0)
    finally:
        transport.close()


def test_hops_go_over_mutual_tls_and_strangers_are_turned_away(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "ours")
    strangers = make_certificates(tmp_path / "strangers")
    root = tmp_path / "repository"
    written = write_deployment(root, [two_stage_model()], base_port=free_base(29_000, 20))
    (root / MANIFEST_NAME).write_text(serial.dumps(replace(written, tls=tls)))
    with ServedDeployment(root, tmp_path / "logs") as deployment:
        deployment.start()
        manifest = deployment.manifest
        client = Client(manifest)
        for number in range(20):
            assert tag_of(client.infer(number, timeout=PATIENT_US)["scores"]) == number
        client.close()
        probe(manifest, tls)
        for caller in (
            None,
            strangers,
            replace(strangers, ca=tls.ca),
            replace(tls, server_name="other.example"),
        ):
            with pytest.raises(HopFailure) as refused:
                probe(manifest, caller)
            assert refused.value.kind in (FailureKind.UNREACHABLE, FailureKind.TIMED_OUT)
        assert silent_models(manifest, manifest.servers[0]) == {}
        with grpc.insecure_channel(f"{manifest.entry.host}:{manifest.entry.grpc_port}") as channel:
            channel.unary_unary(kserve.LIVE_METHOD)(b"", timeout=3.0)  # the public way in is as it was
        assert not is_free(manifest.servers[0].http_port)
