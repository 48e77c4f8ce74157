"""An nginx front for servers that strangers reach: only what clients need gets through, within limits.

The text is templates/nginx.conf.j2.

Rules
- What is not allowed here is refused: inference and readiness of public models, nothing else. Stages, model
  control, shared memory, trace, logging, statistics and streams are not to be had.
- HTTP bodies go on whole, with their length and on a kept connection: a server of 2.51 ends on one request of
  many small chunks, and on a body of 4 MB with 'Connection: close'. Chunked and compressed bodies are refused
  to begin with.
- A body is at most the largest frame that a model takes; a connection is a caller's for so long and so many.
- Of one address, requests under way and requests per second are bounded (front_limits), and so are those of
  all that are under way. Over gRPC each request counts, however few connections they share. What is beyond
  is refused at once, with 503 (UNAVAILABLE for a gRPC client), and no entry hears of it. A gRPC connection
  carries no more than its caller may have under way, so who keeps to one waits instead of being refused.
- Known callers, by network or by a client's certificate, keep their share whatever strangers send: all
  strangers together may have under way only what leaves them that (known_limits). Without known callers
  all are equal, and many addresses together can take what one of them may not.
- With a certificate there is TLS for both ports; without one the front listens on loopback alone.
- Requests of web pages (Origin) are refused, but for the origins that are named.
- Entries are used by who has least to do; one that fails is left out for a while.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from model_repo_generator.texts import render_text
from planner.addresses import authority
from planner.manifest import DeploymentManifest, ModelEntry, ServerAddress

MESSAGE_BYTES = 65_536
"""Of a request beside its frame: names, shapes, parameters."""
_LEAST_CONNECTIONS = 64
_LEAST_OF_ALL = 4_096
"""Of all addresses: so that it takes many of them, not a few, to leave others none."""
_MOST_STREAMS = 128
"""Requests of one gRPC connection at a time, as nginx has it by default."""
_MOST_CONNECTIONS = 16_384
"""By default; nginx sets memory aside for each, and takes no more than 65,535."""

_LEAST_KNOWN = 256
"""Requests that a known caller may have under way: it may be a gateway."""
_LEAST_STRANGERS = 4
_LEAST_RPS = 100
_RATE_TIMES = 1.5
_LEAST_OPEN, _OPEN_TIMES = 512, 4
"""Of a dispatcher's bound on open frames, as dispatcher.frames.room has it."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_CALLS = ("ModelInfer", "ModelMetadata", "ModelReady", "ServerLive", "ServerReady", "ServerMetadata")


class FrontError(Exception):
    """A front that would not be safe, or cannot be made; the message says what would do."""


@dataclass(frozen=True)
class FrontOptions:
    """Where the front listens and what it allows. `connections`: of one address at a time, for gRPC requests;
    `all_connections`: of all; `requests_per_s`: of one address; None: as front_limits says. `origins`: whose
    web pages may ask. `body_bytes`: None: the largest frame of the models. `known`: networks (CIDR) of known
    callers; `client_ca`: whoever shows a certificate of it is known too. `known_share`: of what the plan
    serves, kept for them.
    """

    listen: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    certificate: Path | None = None
    key: Path | None = None
    connections: int | None = None
    all_connections: int | None = None
    requests_per_s: int | None = None
    body_bytes: int | None = None
    origins: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    client_ca: Path | None = None
    known_share: float = 0.8
    folder: Path = field(default_factory=lambda: Path("/var/lib/ppipe-front"))
    """Of nginx's own files: bodies on their way, its pid, its log."""

    @property
    def knows(self) -> bool:
        """Whether there are known callers."""
        return bool(self.known) or self.client_ca is not None


@dataclass(frozen=True)
class FrontLimits:
    """Requests of one address under way, of all under way, and of one address per second."""

    connections: int
    all_connections: int
    requests_per_s: int


def front_limits(models: Sequence[ModelEntry]) -> FrontLimits:
    """What a caller with honest business stays below, by what the plan serves.

    An address may have under way half of what is served within the SLOs: more would only wait, and those
    that call from elsewhere still end in time behind it. It may send one and a half times what is served, in
    bursts of what it may have under way. All together may have under way what dispatchers let be open
    (dispatcher.frames.room), _LEAST_OF_ALL at least: dispatchers refuse what is beyond.
    """
    in_slo = sum(_frames_in(model, model.served.slo_us) for model in models)
    open_frames = sum(max(_LEAST_OPEN, _OPEN_TIMES * _frames_in(model, model.longest_us)) for model in models)
    return FrontLimits(
        connections=min(_MOST_CONNECTIONS, max(_LEAST_CONNECTIONS, ceil(in_slo / 2))),
        all_connections=min(_MOST_CONNECTIONS, max(_LEAST_OF_ALL, ceil(open_frames))),
        requests_per_s=max(_LEAST_RPS, ceil(_RATE_TIMES * sum(model.served.planned_rps for model in models))),
    )


@dataclass(frozen=True)
class KnownLimits:
    """Requests under way of a known caller, and of all strangers together, and of these per second."""

    connections: int
    strangers: int
    strangers_per_s: int


def known_limits(models: Sequence[ModelEntry], known_share: float) -> KnownLimits:
    """What keeps `known_share` of what the plan serves for known callers.

    Frames wait in one queue, and strangers send the next when one is answered. So n of theirs under way make
    every frame wait n / (served - known) where known callers send as much as is kept for them: half an SLO.
    A request that is refused at once costs as well, so those per second are bounded too.
    """
    in_slo = sum(_frames_in(model, model.served.slo_us) for model in models)
    planned_rps = sum(model.served.planned_rps for model in models)
    return KnownLimits(
        connections=min(_MOST_CONNECTIONS, max(_LEAST_KNOWN, ceil(2 * in_slo))),
        strangers=min(_MOST_CONNECTIONS, max(_LEAST_STRANGERS, ceil((1 - known_share) * in_slo / 2))),
        strangers_per_s=max(_LEAST_RPS, ceil(_RATE_TIMES * planned_rps)),
    )


def _frames_in(model: ModelEntry, time_us: int) -> float:
    return model.served.planned_rps * time_us / 1e6


def render_front(
    manifest: DeploymentManifest, options: FrontOptions, entries: Sequence[ServerAddress] = ()
) -> str:
    """The whole nginx.conf. entries: that frames go to; the manifest's without. Raises FrontError."""
    _check(options)
    addressed = [
        {"http": authority(entry.host, entry.http_port), "grpc": authority(entry.host, entry.grpc_port)}
        for entry in entries or manifest.entries
    ]
    limits = front_limits(manifest.models)
    known = known_limits(manifest.models, options.known_share)
    connections = options.connections or limits.connections
    return render_text(
        "nginx.conf",
        options=options,
        connections=connections,
        streams=min(_MOST_STREAMS, known.connections if options.knows else connections),
        all_connections=options.all_connections or limits.all_connections,
        requests_per_s=options.requests_per_s or limits.requests_per_s,
        known=known,
        entries=addressed,
        body_bytes=options.body_bytes or largest_body(manifest.models),
        models="|".join(re.escape(name) for name in sorted(_public(manifest))),
        calls="|".join(_CALLS),
        http_address=authority(options.listen, options.http_port),
        grpc_address=authority(options.listen, options.grpc_port),
    )


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
    for network in options.known:
        _check_network(network)
    if options.client_ca is not None and options.certificate is None:
        raise FrontError(
            "--client-ca: clients show certificates over TLS alone; give --certificate and --key"
        )
    if not 0 < options.known_share < 1:
        raise FrontError(f"--known-share {options.known_share}: expected a part between 0 and 1, as 0.8")
    for path in (options.certificate, options.key, options.client_ca, options.folder):
        if path is not None and (not path.is_absolute() or re.search(r"[\s;{}$'\"\\]", str(path))):
            raise FrontError(f"{path}: expected an absolute path without spaces and signs: nginx reads it")


def _check_network(network: str) -> None:
    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        raise FrontError(
            f"--known {network!r}: {error}; expected an address or a network, as 10.1.0.0/16"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise FrontError(f"--listen {host!r}: expected an address such as 0.0.0.0, :: or 127.0.0.1") from None


def _public(manifest: DeploymentManifest) -> Iterator[str]:
    bodies = (model.body_ensemble for model in manifest.models)
    for name in filter(None, (*manifest.doors, *bodies)):
        if not _NAME.fullmatch(name):
            raise FrontError(f"model {name!r}: expected letters, digits, '_', '.' and '-' in its name")
        yield name
