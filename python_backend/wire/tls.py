"""Mutual TLS between a deployment's hosts: a stage server and who calls it show each other certificates.

Both must be signed by the deployment's CA. Files are read when a channel is made; a renewed certificate is
used by whatever is started after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc

from planner.manifest import TlsFiles

Options = Sequence[tuple[str, object]]


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
