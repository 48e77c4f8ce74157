"""Each door tried once, as a stranger on the host, a caller of the entry and a peer on the network would.

A try returns '' where the door held, else what got through.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from math import prod
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks.helpers.doors.stand import Stand
from benchmarks.helpers.doors.wire import (
    closing_with_a_large_body,
    grpc_call,
    http,
    in_small_chunks,
    raw,
)
from planner.manifest import ServerAddress
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.wire import ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice, encode
from python_backend.wire.ragged import FrameInfo, FrameKind
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import Way, WireTicket

Try = Callable[[Stand], str]
_TRACE = "/inference.GRPCInferenceService/TraceSetting"
_LIMIT = 20.0


def all_tries(stand: Stand) -> dict[str, Try]:
    """By name; those of each server twice, over HTTP and gRPC."""
    tries: dict[str, Try] = {}
    for server in stand.servers:
        for name, made in _of_server(server):
            tries[f"{server.name}: {name}"] = made
    tries |= {
        "host: others read no file of the run": _files,
        "host: no key on a command line or in an environment": _key_in_the_open,
        "stage: no ticket": _no_ticket,
        "stage: a ticket of another key": _forged_ticket,
        "stage: a ticket again": _replayed,
        "stage: a sniffed ticket with other tensors": _other_tensors,
        "entry: forged notices": _forged_notices,
        "entry: distinct priorities": _priorities,
        "entry: an hour's timeout": _long_timeout,
        "entry: an image of too many pixels": _bomb,
    }
    if stand.front_http:
        tries |= {f"front: {name}": made for name, made in _FRONT.items()}
    return tries


# Model control, shared memory, trace, logging


def _of_server(server: ServerAddress) -> Iterator[tuple[str, Try]]:
    model = server.models[0]
    code = base64.b64encode(b"open('/tmp/ppipe-doors-open', 'w').close()").decode()
    load = {"parameters": {"config": json.dumps({"backend": "python"}), "file:1/model.py": code}}
    region = {"key": "/ppipe-none", "offset": 0, "byte_size": 8}
    for name, method, path, body in (
        ("load", "POST", f"repository/models/{model}/load", load),
        ("load by a longer way", "POST", f"/repository//models/{model}/load", load),
        ("unload", "POST", f"repository/models/{model}/unload", {}),
        ("index", "POST", "repository/index", {}),
        ("shared memory", "POST", "systemsharedmemory/region/a/register", region),
        ("shared memory there is", "GET", "systemsharedmemory/status", {}),
        ("CUDA memory there is", "GET", "cudasharedmemory/status", {}),
        ("trace", "POST", "trace/setting", {"trace_file": "/tmp/ppipe-doors-trace"}),
        ("a model's trace", "POST", f"models/{model}/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
        ("log", "POST", "logging", {"log_file": "/tmp/ppipe-doors-log"}),
    ):
        yield f"HTTP {name}", _refused_over_http(server, method, f"/v2/{path}", body)
    for name, call in _GRPC_CALLS.items():
        yield f"gRPC {name}", _refused_over_grpc(server, call)
    yield "HTTP with the header's own value", _stolen_over_http(server)
    yield "gRPC with the header's own value", _stolen_over_grpc(server)


def _refused_over_http(server: ServerAddress, method: str, path: str, body: Mapping[str, Any]) -> Try:
    def attempt(stand: Stand) -> str:
        content = json.dumps(body).encode() if method == "POST" else b""
        status, said = http(server.host, server.http_port, method, path, content)
        return _still_serves(stand, server) or (f"{status} {said[:200]!r}" if 200 <= status < 300 else "")

    return attempt


def _load(stub: Any, model: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=model)
    request.parameters["config"].string_param = json.dumps({"backend": "python"})
    request.parameters["file:1/model.py"].bytes_param = b"open('/tmp/ppipe-doors-open', 'w').close()"
    stub.RepositoryModelLoad(request, timeout=_LIMIT)


_GRPC_CALLS: dict[str, Callable[[Any, str], Any]] = {
    "load": _load,
    "unload": lambda stub, model: stub.RepositoryModelUnload(
        pb.RepositoryModelUnloadRequest(model_name=model), timeout=_LIMIT
    ),
    "index": lambda stub, model: stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=_LIMIT),
    "shared memory": lambda stub, model: stub.SystemSharedMemoryRegister(
        pb.SystemSharedMemoryRegisterRequest(name="a", key="/x", byte_size=8), timeout=_LIMIT
    ),
    "CUDA memory": lambda stub, model: stub.CudaSharedMemoryStatus(
        pb.CudaSharedMemoryStatusRequest(), timeout=_LIMIT
    ),
    "trace": lambda stub, model: stub.TraceSetting(pb.TraceSettingRequest(), timeout=_LIMIT),
    "log": lambda stub, model: stub.LogSettings(pb.LogSettingsRequest(), timeout=_LIMIT),
}


def _refused_over_grpc(server: ServerAddress, call: Callable[[Any, str], Any]) -> Try:
    def attempt(stand: Stand) -> str:
        with grpc.insecure_channel(server.grpc_address) as channel:
            try:
                answer = call(service_pb2_grpc.GRPCInferenceServiceStub(channel), server.models[0])
            except grpc.RpcError:
                return _still_serves(stand, server)
        return f"answered: {answer}"

    return attempt


def _stolen(stand: Stand, server: ServerAddress, flag: str) -> tuple[bytes, bytes]:
    """The header, name and value, that the command line shows to every user of the host."""
    words = Path(f"/proc/{stand.pid(server.name)}/cmdline").read_bytes().split(b"\0")
    (word,) = [word for word in words if word.startswith(flag.encode())]
    name, _, value = word.partition(b":")[2].partition(b"=")
    return name, value


def _stolen_over_http(server: ServerAddress) -> Try:
    def attempt(stand: Stand) -> str:
        name, value = _stolen(stand, server, "--http-restricted-api")
        for spelled in (value, value.replace(b"\n", b"\n "), value.replace(b"\n", b"\r\n\t")):
            head = b"GET /v2/trace/setting HTTP/1.1\r\nHost: x\r\n" + name + b": " + spelled
            said = raw(server.host, server.http_port, iter([head + b"\r\n\r\n"]))
            if b" 200 " in said[:20]:
                return f"{spelled!r}: {said[:200]!r}"
        return _still_serves(stand, server)

    return attempt


def _stolen_over_grpc(server: ServerAddress) -> Try:
    def attempt(stand: Stand) -> str:
        name, value = _stolen(stand, server, "--grpc-restricted-protocol")
        for spelled in (name, name.lower(), name.replace(b" ", b"-")):
            key = b"triton-grpc-protocol-" + spelled
            said = grpc_call(server.host, server.grpc_port, _TRACE, key, value)
            if b"grpc-status\x010" in said or b"trace_rate" in said:
                return f"{spelled!r}: {said[-200:]!r}"
        return _still_serves(stand, server)

    return attempt


def _still_serves(stand: Stand, server: ServerAddress) -> str:
    if Path("/tmp/ppipe-doors-open").exists():
        return "code of ours has run in a server"
    try:
        stand.pid(server.name)
    except AssertionError:
        return f"server {server.name} has ended"
    return "" if answers(stand) else "a right frame is not answered any more"


def frame_request(stand: Stand, timeout_us: int = 0, rows: int = 1) -> pb.ModelInferRequest:
    """Right frames, as a client that prepares itself sends them."""
    spec = stand.entry.input
    request = pb.ModelInferRequest(model_name=stand.entry.dispatcher)
    request.inputs.add(name=spec.name, datatype=spec.dtype, shape=[rows, *spec.shape])
    request.raw_input_contents.append(bytes(rows * spec.bytes_per_frame))
    if timeout_us:
        request.parameters["timeout"].int64_param = timeout_us
    return request


def foreign_page(stand: Stand) -> dict[str, Any]:
    """What the entry itself, without a front, says to a web page of another origin. No door of ours: Triton
    cannot refuse it. infer: the status of a request that browsers send unasked; asked: of the question that
    they ask before others; allowed: the origin that may read the answers.
    """
    spec, entry = stand.entry.input, stand.manifest.entry
    zeros = [0.0] * prod(spec.shape)
    tensor = {"name": spec.name, "datatype": spec.dtype, "shape": [1, *spec.shape], "data": zeros}
    body = json.dumps({"inputs": [tensor]}).encode()
    page = {"Origin": "https://evil.example"}
    simple = {**page, "Content-Type": "text/plain"}
    connection = HTTPConnection(entry.host, entry.http_port, timeout=_LIMIT)
    found: dict[str, Any] = {"allowed": []}
    for name, method, headers, sent in (("infer", "POST", simple, body), ("asked", "OPTIONS", page, b"")):
        connection.request(method, _infer_path(stand), body=sent, headers=headers)
        answer = connection.getresponse()
        answer.read()
        found[name] = answer.status
        found["allowed"] += answer.headers.get_all("Access-Control-Allow-Origin") or []
    connection.close()
    return found


def answers(stand: Stand) -> bool:
    """Whether one of a few frames is answered."""
    with grpc.insecure_channel(stand.manifest.entry.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(20):
            try:
                stub.ModelInfer(frame_request(stand), timeout=_LIMIT)
            except grpc.RpcError:
                continue
            return True
    return False


# The host


def _files(stand: Stand) -> str:
    prefix = f"ppipe_{os.getpid()}_"
    files = [*Path("/dev/shm").glob(f"{prefix}*"), stand.key_file, *(stand.root / "logs").glob("*.log")]
    folders = [path for path in (stand.root / "logs" / "models").iterdir() if path.is_dir()]
    open_ = [path.name for path in (*files, *folders) if path.stat().st_mode & 0o077]
    found = len(files) > len(stand.processes()) - len(stand.servers)
    return f"others may read {', '.join(open_)}" if open_ else "" if found else "no shared memory was found"


def _key_in_the_open(stand: Stand) -> str:
    keys = [line.encode() for line in stand.key_file.read_text().split()]
    for name, pid in stand.processes().items():
        for what in ("cmdline", "environ"):
            if any(key in Path(f"/proc/{pid}/{what}").read_bytes() for key in keys):
                return f"{what} of {name} has a key"
    return ""


# Tickets


def stage_wire(stand: Stand, batch_id: int) -> WireTicket:
    """As the dispatcher would send a batch of one frame, that the network takes as it is."""
    workers = [stage.workers[0] for stage in stand.entry.served.pipelines[0].stages]
    at_us = now_us()
    hops = tuple(tensor_hop(worker.name, at_us, at_us, at_us, at_us + 10_000) for worker in workers)
    size = stand.entry.input.bytes_per_frame
    ticket = plain_ticket(batch_id, 0, 0, at_us + 5_000_000, hops)
    return WireTicket(
        stand.manifest.deployment, stand.manifest.epoch, 0, ticket,
        ingress=(FrameInfo(FrameKind.TENSOR, size, 0, 0, 1),),
        way=Way(tuple(worker.server for worker in workers), stand.manifest.entry.name, 0),
    )  # fmt: skip


def stage_request(stand: Stand, text: str, fill: int = 0) -> pb.ModelInferRequest:
    """A batch of one frame for the first stage, with this ticket."""
    size = stand.entry.input.bytes_per_frame
    worker = stand.entry.served.pipelines[0].stages[0].workers[0].name
    request = pb.ModelInferRequest(model_name=worker)
    request.inputs.add(name="ppipe_ragged", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(size.to_bytes(4, "little") + bytes([fill]) * size)
    if text:
        request.parameters[ticket_codec.PARAMETER].string_param = text
    return request


def ask_stage(stand: Stand, text: str, fill: int = 0) -> str:
    """What a stage says to a ticket; '' where it serves it."""
    with grpc.insecure_channel(stand.manifest.servers[0].grpc_address) as channel:
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
                stage_request(stand, text, fill), timeout=_LIMIT
            )
        except grpc.RpcError as error:
            return error.details() or error.code().name
    return ""


def sniffed(stand: Stand, batch_id: int, fill: int = 0) -> str:
    """The text of a genuine ticket as it crosses the network."""
    size = stand.entry.input.bytes_per_frame
    body = [[size.to_bytes(4, "little"), bytes([fill]) * size]]
    return ticket_codec.encode(stage_wire(stand, batch_id), stand.keys(), now_us(), body)


def _no_ticket(stand: Stand) -> str:
    return "" if "called by their dispatcher" in ask_stage(stand, "") else "served without a ticket"


def _forged_ticket(stand: Stand) -> str:
    path = stand.root / "other.key"
    path.write_text("another key altogether, of more than enough text")
    text = ticket_codec.encode(stage_wire(stand, 1), Keys(path))
    unsigned = ticket_codec.encode(stage_wire(stand, 1), Keys.none())
    refused = all("signature" in ask_stage(stand, each) for each in (text, unsigned))
    return "" if refused else "served a ticket of another key"


def _replayed(stand: Stand) -> str:
    text = sniffed(stand, 2)
    first = ask_stage(stand, text)
    if first:
        return f"a genuine ticket was refused: {first}"
    return "" if "used before" in ask_stage(stand, text) else "served a ticket twice"


def _other_tensors(stand: Stand) -> str:
    text = sniffed(stand, 3)
    if "not those it was signed for" not in ask_stage(stand, text, fill=7):
        return "served other tensors"
    return ask_stage(stand, text)


# The entry


def _forged_notices(stand: Stand) -> str:
    address = (stand.manifest.entry.host, stand.entry.feedback_port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(500):
            notice = Notice(stand.manifest.epoch, number, 0, 0, True, now_us() + 10**9, 10**9)
            sender.sendto(encode(notice, Keys.none()), address)
            sender.sendto(os.urandom(100), address)
    return "" if answers(stand) else "the dispatcher serves no more"


def _priorities(stand: Stand) -> str:
    with grpc.insecure_channel(stand.manifest.entry.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for priority in (0, 10, -1, 1 << 40):
            request = frame_request(stand)
            request.parameters["ppipe_priority"].int64_param = priority
            try:
                stub.ModelInfer(request, timeout=_LIMIT)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    continue
                return f"priority {priority}: {error.code().name}"
            return f"priority {priority} was taken"
    return ""


def _long_timeout(stand: Stand) -> str:
    longest_us = stand.entry.longest_us
    return "" if longest_us < 100_000_000 else f"a caller may wait for {longest_us / 1e6:.0f} s"


def bomb() -> bytes:
    """The header of a PNG of 50 million pixels, and as little behind it as a decoder wants."""
    import io
    import zlib

    from PIL import Image

    small = io.BytesIO()
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(small, format="PNG")
    data = bytearray(small.getvalue())
    data[16:24] = (10_000).to_bytes(4, "big") + (5_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def image_request(stand: Stand, data: bytes) -> pb.ModelInferRequest:
    """An encoded image."""
    assert stand.entry.prepare is not None
    request = pb.ModelInferRequest(model_name=stand.entry.dispatcher)
    request.inputs.add(name=stand.entry.prepare.frame.name, datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
    return request


def _bomb(stand: Stand) -> str:
    with grpc.insecure_channel(stand.manifest.entry.grpc_address) as channel:
        try:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
                image_request(stand, bomb()), timeout=_LIMIT
            )
        except grpc.RpcError as error:
            refused = error.code() is grpc.StatusCode.INVALID_ARGUMENT and "pixels" in (error.details() or "")
            return "" if refused else f"{error.code().name}: {error.details()}"
    return "it was served"


# The front


def _front_status(stand: Stand, method: str, path: str, **headers: str) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return http("127.0.0.1", stand.front_http, method, path, b"{}" if method == "POST" else b"", names)[0]


def _refuses(method: str, path: str, *expected: int, **headers: str) -> Try:
    def attempt(stand: Stand) -> str:
        status = _front_status(stand, method, path, **headers)
        return "" if status in expected else f"{method} {path}: {status}"

    return attempt


def _infer_path(stand: Stand) -> str:
    return f"/v2/models/{stand.entry.dispatcher}/infer"


def _chunks(stand: Stand) -> str:
    said = raw("127.0.0.1", stand.front_http, in_small_chunks(_infer_path(stand), 600_000))
    return _still_serves(stand, stand.manifest.entry) or ("" if b" 411 " in said[:20] else f"{said[:80]!r}")


def _large_closing(stand: Stand) -> str:
    size = 4_000_000
    said = raw("127.0.0.1", stand.front_http, closing_with_a_large_body(_infer_path(stand), size))
    return _still_serves(stand, stand.manifest.entry) or (
        "" if b" 200 " not in said[:20] else "it was served"
    )


def _beyond_the_limit(stand: Stand) -> str:
    size = 64 << 20
    said = raw("127.0.0.1", stand.front_http, closing_with_a_large_body(_infer_path(stand), size))
    return "" if b" 413 " in said[:20] or not said else f"{said[:80]!r}"


def _front_serves(stand: Stand) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{stand.front_grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ModelInfer(frame_request(stand), timeout=_LIMIT)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    ready = _front_status(stand, "GET", f"/v2/models/{stand.entry.dispatcher}/ready")
    return "" if ready == 200 else f"ready: {ready}"


def _closed_rpcs(stand: Stand) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{stand.front_grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for name, call in _GRPC_CALLS.items():
            try:
                call(stub, stand.entry.dispatcher)
            except grpc.RpcError:
                continue
            return name
        try:
            list(stub.ModelStreamInfer(iter([frame_request(stand)]), timeout=_LIMIT))
        except grpc.RpcError:
            return ""
    return "a stream was opened"


_FRONT: dict[str, Try] = {
    "a right frame comes through": _front_serves,
    "a request of 600,000 chunks": _chunks,
    "4 MB with Connection: close": _large_closing,
    "64 MB": _beyond_the_limit,
    "a compressed body": lambda stand: _refuses("POST", _infer_path(stand), 415, Content_Encoding="gzip")(
        stand
    ),
    "a page of another origin": lambda stand: _refuses(
        "POST", _infer_path(stand), 403, Origin="https://evil.example"
    )(stand),
    "model control": _refuses("POST", "/v2/repository/models/tiny/load", 404),
    "model control by a longer way": _refuses("POST", "/v2/models/../repository/index", 400, 404),
    "statistics": _refuses("GET", "/v2/models/stats", 404),
    "a stage": _refuses("POST", "/v2/models/tiny.p0.s0.w0/infer", 404),
    "gRPC but for inference": _closed_rpcs,
}
