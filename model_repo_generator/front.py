"""An nginx front for servers that strangers reach: only what clients need gets through, within limits.

Rules
- What is not allowed here is refused: inference and readiness of public models, nothing else. Stages, model
  control, shared memory, trace, logging, statistics and streams are not to be had.
- HTTP bodies go on whole, with their length and on a kept connection: a server of 2.51 ends on one request of
  many small chunks, and on a body of 4 MB with 'Connection: close'. Chunked and compressed bodies are refused
  to begin with.
- A body is at most the largest frame that a model takes; a connection is a caller's for so long and so many.
- With a certificate there is TLS for both ports; without one the front listens on loopback alone.
- Requests of web pages (Origin) are refused, but for the origins that are named.
- Entries are used by who has least to do; one that fails is left out for a while.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from planner.addresses import authority
from planner.manifest import DeploymentManifest, ModelEntry, ServerAddress

MESSAGE_BYTES = 65_536
"""Of a request beside its frame: names, shapes, parameters."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SERVICE = "/inference.GRPCInferenceService/"
_CALLS = ("ModelInfer", "ModelMetadata", "ModelReady", "ServerLive", "ServerReady", "ServerMetadata")
_HEALTH = "grpc.health.v1.Health/Check"


class FrontError(Exception):
    """A front that would not be safe, or cannot be made; the message says what would do."""


@dataclass(frozen=True)
class FrontOptions:
    """Where the front listens and what it allows. `connections`: of one address at a time; `all_connections`:
    of all. `origins`: whose web pages may ask. `body_bytes`: None: the largest frame of the models.
    """

    listen: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    certificate: Path | None = None
    key: Path | None = None
    connections: int = 64
    all_connections: int = 4096
    body_bytes: int | None = None
    origins: tuple[str, ...] = ()
    folder: Path = field(default_factory=lambda: Path("/var/lib/ppipe-front"))
    """Of nginx's own files: bodies on their way, its pid, its log."""


def render_front(
    manifest: DeploymentManifest, options: FrontOptions, entries: Sequence[ServerAddress] = ()
) -> str:
    """The whole nginx.conf. entries: that frames go to; the manifest's without. Raises FrontError."""
    _check(options)
    lines = [
        "# Written by ppipe front. nginx 1.22 or later: nginx -c FILE.",
        "worker_processes auto;",
        f"pid {options.folder}/nginx.pid;",
        f"error_log {options.folder}/error.log warn;",
        f"events {{ worker_connections {2 * options.all_connections + 64}; }}",
        "http {",
        *_indented(_common(manifest, options)),
        *_indented(_upstreams(entries or (manifest.entry,))),
        *_indented(_http(manifest, options)),
        *_indented(_grpc(options)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def largest_body(models: Sequence[ModelEntry]) -> int:
    """Bytes of the largest request that any model takes."""
    return MESSAGE_BYTES + max(map(_largest_frame, models))


def _largest_frame(model: ModelEntry) -> int:
    tensor = model.input.bytes_per_frame
    if model.prepare is None:
        return tensor
    limits = model.prepare.limits
    return max(tensor, limits.max_bytes, model.prepare.channels * limits.max_pixels)


def _check(options: FrontOptions) -> None:
    if (options.certificate is None) != (options.key is None):
        raise FrontError("give both --certificate and --key, or neither")
    if options.certificate is None and not _is_loopback(options.listen):
        raise FrontError(
            f"--listen {options.listen}: others reach it, and frames and answers would travel in the open; "
            "give --certificate and --key, or listen on 127.0.0.1 or ::1"
        )
    for origin in options.origins:
        if not _ORIGIN.fullmatch(origin):
            raise FrontError(f"--origin {origin!r}: expected an origin such as https://app.example")
    for path in (options.certificate, options.key, options.folder):
        if path is not None and (not path.is_absolute() or re.search(r"[\s;{}$'\"\\]", str(path))):
            raise FrontError(f"{path}: expected an absolute path without spaces and signs: nginx reads it")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise FrontError(f"--listen {host!r}: expected an address such as 0.0.0.0, :: or 127.0.0.1") from None


def _common(manifest: DeploymentManifest, options: FrontOptions) -> Iterator[str]:
    yield "server_tokens off;"
    yield "access_log off;"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield f"{kind}_temp_path {options.folder}/{kind};"
    yield f"client_max_body_size {options.body_bytes or largest_body(manifest.models)};"
    yield "client_body_buffer_size 512k;"
    yield "client_header_timeout 5s;"
    yield "client_body_timeout 10s;"
    yield "send_timeout 10s;"
    yield "keepalive_timeout 30s;"
    yield "reset_timedout_connection on;"
    yield "large_client_header_buffers 4 8k;"
    yield "limit_conn_zone $binary_remote_addr zone=caller:10m;"
    yield "limit_conn_zone $server_port zone=all:1m;"
    yield f"limit_conn caller {options.connections};"
    yield f"limit_conn all {options.all_connections};"
    yield "limit_conn_status 503;"
    yield "map $http_transfer_encoding $chunked { default 1; '' 0; }"
    yield "map $http_content_encoding $compressed { default 1; '' 0; identity 0; }"
    yield "map $http_grpc_encoding $packed { default 1; '' 0; identity 0; }"
    allowed = "".join(f" '{origin}' 0;" for origin in options.origins)
    yield f"map $http_origin $foreign {{ default 1; '' 0;{allowed} }}"


def _upstreams(entries: Sequence[ServerAddress]) -> Iterator[str]:
    for kind in ("http", "grpc"):
        yield f"upstream entries_{kind} {{"
        yield f"    zone entries_{kind} 256k;"
        yield "    least_conn;"
        for entry in entries:
            address = authority(entry.host, getattr(entry, f"{kind}_port"))
            yield f"    server {address} max_fails=2 fail_timeout=2s;"
        yield "    keepalive 64;"
        yield "}"


def _http(manifest: DeploymentManifest, options: FrontOptions) -> Iterator[str]:
    names = "|".join(re.escape(name) for name in sorted(_public(manifest)))
    yield "server {"
    yield f"    listen {authority(options.listen, options.http_port)}{_ssl(options)};"
    yield from _indented(_certificate(options))
    yield "    if ($chunked) { return 411; }"
    yield "    if ($compressed) { return 415; }"
    yield "    if ($foreign) { return 403; }"
    yield "    proxy_http_version 1.1;"
    yield "    proxy_set_header Connection '';"
    yield "    proxy_set_header Origin '';"
    yield "    proxy_request_buffering on;"
    yield "    proxy_read_timeout 120s;"
    yield "    proxy_next_upstream error timeout;"
    yield "    proxy_next_upstream_tries 2;"
    yield f"    location ~ ^/v2/models/({names})(/versions/[0-9]+)?/infer$ {{"
    yield "        limit_except POST { deny all; }"
    yield "        proxy_pass http://entries_http;"
    yield "    }"
    yield f"    location ~ ^/v2(/health/(live|ready)|/models/({names})(/versions/[0-9]+)?(/ready)?)?$ {{"
    yield "        limit_except GET { deny all; }"
    yield "        client_max_body_size 1k;"
    yield "        proxy_pass http://entries_http;"
    yield "    }"
    yield "    location / { return 404; }"
    yield "}"


def _grpc(options: FrontOptions) -> Iterator[str]:
    calls = "|".join(_CALLS)
    yield "server {"
    yield f"    listen {authority(options.listen, options.grpc_port)}{_ssl(options)} http2;"
    yield from _indented(_certificate(options))
    yield "    http2_max_concurrent_streams 128;"
    yield "    if ($packed) { return 415; }"
    yield "    if ($foreign) { return 403; }"
    yield "    grpc_read_timeout 120s;"
    yield "    grpc_next_upstream error timeout;"
    yield "    grpc_next_upstream_tries 2;"
    yield f"    location ~ ^{_SERVICE}({calls})$ {{ grpc_pass grpc://entries_grpc; }}"
    yield f"    location = /{_HEALTH} {{ grpc_pass grpc://entries_grpc; }}"
    yield "    location / { return 404; }"
    yield "}"


def _public(manifest: DeploymentManifest) -> Iterator[str]:
    for model in manifest.models:
        for name in (model.dispatcher, model.body_ensemble):
            if name and not _NAME.fullmatch(name):
                raise FrontError(f"model {name!r}: expected letters, digits, '_', '.' and '-' in its name")
            if name:
                yield name


def _ssl(options: FrontOptions) -> str:
    return "" if options.certificate is None else " ssl"


def _certificate(options: FrontOptions) -> Iterator[str]:
    if options.certificate is not None:
        yield f"ssl_certificate {options.certificate};"
        yield f"ssl_certificate_key {options.key};"
        yield "ssl_protocols TLSv1.2 TLSv1.3;"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)
