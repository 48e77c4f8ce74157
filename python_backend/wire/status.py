"""gRPC's status codes by their numbers, without the library that names them: loading it and protobuf's takes
60 to 70 ms of a stub's start, and hops need neither (wire.http, wire.http2).
"""

from __future__ import annotations

from enum import IntEnum


class GrpcStatus(IntEnum):
    """https://grpc.github.io/grpc/core/md_doc_statuscodes.html"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def status_of(number: int) -> GrpcStatus:
    """UNKNOWN for a number that is none of them."""
    try:
        return GrpcStatus(number)
    except ValueError:
        return GrpcStatus.UNKNOWN
