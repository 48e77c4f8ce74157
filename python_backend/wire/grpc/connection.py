"""A connection of the gRPC library. The one module of the hops that loads it, and itself loaded only where
one is opened (wire.grpc.transport).
"""

from __future__ import annotations

import contextlib
from typing import Any

import grpc

from planner.manifest import TlsFiles
from python_backend.wire import kserve
from python_backend.wire.grpc.channels import CHANNEL_OPTIONS, open_channel
from python_backend.wire.status import status_of
from python_backend.wire.transport import failure_from


class GrpcConnection:
    """To one server. calls: under way on it. is_left: no new ones are to come."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        """Raises OSError where a file of `tls` cannot be read."""
        self._channel = open_channel(address, tls, CHANNEL_OPTIONS)
        # A call that, without serialisers, takes and gives the bytes as they are on the wire.
        self._infer: Any = self._channel.unary_unary(kserve.INFER_METHOD)
        self.calls = 0
        self.is_left = False

    def infer(self, worker: str, hop: int, request: bytes, timeout_s: float) -> bytes:
        """The serialised answer. Raises HopFailure for what it says of `worker`, or of a stage behind it."""
        try:
            return bytes(self._infer(request, timeout=timeout_s))
        except grpc.RpcError as error:
            status = status_of(error.code().value[0])
            raise failure_from(status, error.details() or "", hop, worker) from None

    def wake_up(self, timeout_s: float) -> None:
        """One call that waits for the server; that it fails is no harm."""
        live: Any = self._channel.unary_unary(kserve.LIVE_METHOD)
        with contextlib.suppress(grpc.RpcError, ValueError):
            live(b"", timeout=timeout_s, wait_for_ready=True)

    def close(self) -> None:
        """Calls under way end."""
        self._channel.close()

    def close_if_left(self) -> None:
        """Unless a call is under way."""
        if self.is_left and self.calls == 0:
            self.close()
