"""A KServe v2 gRPC server in this process, for tests of clients: answers as told, needs no Triton."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

Answer = Callable[[service_pb2.ModelInferRequest, grpc.ServicerContext], service_pb2.ModelInferResponse]


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def ModelInfer(  # noqa: N802 - the service calls it that
        self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        return self._answer(request, context)


@contextlib.contextmanager
def serving(answer: Answer, threads: int = 32) -> Iterator[str]:
    """The address of a server that answers every inference with `answer`."""
    server = grpc.server(futures.ThreadPoolExecutor(threads))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
