"""Channels of the gRPC library. With mutual TLS between a deployment's hosts, a stage server and who calls it
show each other certificates.

Both must be signed by the deployment's CA. Files are read when a channel is made; a renewed certificate is
used by whatever is started after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from planner.manifest import TlsFiles

Options = Sequence[tuple[str, object]]

CHANNEL_OPTIONS = (
    # A restarted server is usable within 0.05 s of being back, instead of gRPC's 2 s and more.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


def open_channel(address: str, tls: TlsFiles | None, options: Options) -> grpc.Channel:
    """A channel to a stage server; without `tls` a plain one. Raises OSError when a file cannot be read."""
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=Path(tls.ca).read_bytes(),
        private_key=Path(tls.key).read_bytes(),
        certificate_chain=Path(tls.certificate).read_bytes(),
    )
    named = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(address, credentials, options=[*options, *named])
