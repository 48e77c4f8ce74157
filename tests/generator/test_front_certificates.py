"""Who shows the front a certificate of its CA is known: a real nginx, an entry that repeats what it hears."""

from __future__ import annotations

import ssl
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.helpers.doors.stand import find_nginx, front
from model_repo_generator.emulated import build_manifest
from model_repo_generator.front import FrontOptions, render_front
from python_backend.wire.parameters.caller import is_known
from tests.live.data_plane_client import two_stage_model
from tests.live.handmade import free_ports
from tests.live.test_data_plane_tls import make_certificates


class Repeats(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said = self.headers.get("ppipe-caller", "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def entry_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Repeats) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_who_shows_a_certificate_is_known(entry_port: int, tmp_path: Path) -> None:
    nginx = find_nginx()
    if nginx is None:
        pytest.skip("no nginx here")
    files = make_certificates(tmp_path / "tls")
    http, grpc_port = free_ports(2)
    options = FrontOptions(
        http_port=http,
        grpc_port=grpc_port,
        certificate=Path(files.certificate),
        key=Path(files.key),
        client_ca=Path(files.ca),
        folder=tmp_path / "front",
    )
    manifest = build_manifest([two_stage_model()], 40_000, "d")
    config = render_front(manifest, options, [replace(manifest.entry, http_port=entry_port)])
    with front(nginx, options.folder, config):
        plain, shown = (ssl.create_default_context(cafile=files.ca) for _ in range(2))
        shown.load_cert_chain(files.certificate, files.key)
        said = []
        for context in (plain, shown):
            context.check_hostname = False  # the certificate is another host's
            url = f"https://127.0.0.1:{http}/v2/health/ready"
            with urllib.request.urlopen(url, context=context, timeout=30) as answer:
                said.append(answer.read().decode())
    assert said[0] == "127.0.0.1"
    assert is_known(said[1])
    assert len(said[1].removeprefix("known/")) == 40, (
        "the certificate's SHA-1, by which callers are told apart"
    )
