"""A stage worker as its Triton model makes it: what it opens is closed with it."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_repo_generator.places import place_of, server_table
from planner import serial
from planner.places import ADDRESSES_NAME
from planner.profile import TensorSpec
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.stage.factory import make_stage_worker
from python_backend.wire.clock import now_us
from python_backend.wire.clocks import NO_CLOCKS
from python_backend.wire.grpc.transport import GrpcTransport
from python_backend.wire.hop_failure import HopFailure
from python_backend.wire.notice_senders import NoticeSenders
from python_backend.wire.routes import RoutedTransport, Routes
from python_backend.wire.servers import Servers
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import Way, WireTicket, encode
from tests.dispatcher.test_driver import manifest
from tests.stage.test_stage_worker import Reply


def sockets() -> set[str]:
    """Those that this process has open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue  # of this very listing
    return {link for link in links if link.startswith("socket:")}


def test_no_socket_is_left_open(tmp_path: Path) -> None:
    before = sockets()
    made = replace(manifest(), unsigned_tickets=True)
    serial.save(server_table(made), tmp_path / ADDRESSES_NAME)
    place = place_of(made, "m.p0.s1.w0")
    worker = make_stage_worker(place, Servers(tmp_path / ADDRESSES_NAME), tmp_path, "cpu", print)
    hops = tuple(tensor_hop(f"m.p0.s{stage}.w0", 0, 0, 0, 2_000) for stage in range(2))
    ticket = plain_ticket(0, 0, 0, now_us() + 10_000_000, hops)
    wire = WireTicket("d", 1, 1, ticket, way=Way(("server0", "server1"), "entry", 0))
    reply = Reply()
    worker.submit(encode(wire, Keys.none()), [np.array([[4]], np.int64)], reply)
    assert reply.wait() == {"y": [4]}
    assert sockets() - before, "its notices go through one"
    worker.close()
    assert sockets() <= before


def test_the_way_on_is_by_the_addresses_of_now(tmp_path: Path) -> None:
    """A worker that a ticket names is found where its server is, also after that has moved."""
    path, made = tmp_path / ADDRESSES_NAME, manifest()
    serial.save(server_table(made), path)
    servers = Servers(path, look_us=0)
    routes = Routes(servers, made.entry.host, (TensorSpec("y", "INT64", (1,)),))
    hops = tuple(tensor_hop(name, 0, 0, 0, 1) for name in ("m.p0.s0.w0", "new.b4-9.server1"))
    ticket = plain_ticket(0, 0, 0, 9, hops)
    wire = WireTicket("d", 1, 1, ticket, way=Way(("server0", "server1"), "entry", 0))
    routes.learn(wire)
    first = routes.targets["new.b4-9.server1"]
    assert (first.server.grpc_port, first.same_host) == (made.server("server1").grpc_port, True)
    moved = replace(made, servers=tuple(replace(each, host="10.0.0.7") for each in made.servers))
    serial.save(server_table(moved), path)
    routes.learn(wire)
    assert (routes.targets["new.b4-9.server1"].server.host, first.server.host) == (
        "10.0.0.7",
        made.entry.host,
    )
    assert not routes.targets["new.b4-9.server1"].same_host
    path.write_text("{")
    routes.learn(wire)
    assert routes.targets["new.b4-9.server1"].server.host == "10.0.0.7", "one in the making changes nothing"
    lost = WireTicket("d", 1, 1, ticket, way=Way(("server0", "gone"), "entry", 0))
    with pytest.raises(HopFailure, match=r"unreachable: no server 'gone' in the table of servers") as failed:
        routes.learn(lost)
    assert failed.value.worker == "new.b4-9.server1"
    with pytest.raises(HopFailure, match="refused: the ticket does not say on which server that is"):
        routes.learn(WireTicket("d", 1, 1, ticket))


def test_connections_to_where_a_server_was_are_closed_once_their_calls_have_ended(tmp_path: Path) -> None:
    path, made = tmp_path / ADDRESSES_NAME, manifest()
    serial.save(server_table(made), path)
    servers = Servers(path, look_us=0)
    routes = Routes(servers, made.entry.host, (TensorSpec("y", "INT64", (1,)),))
    grpc = GrpcTransport(routes.targets, Keys.none())
    way_on = RoutedTransport(grpc, routes, grpc.keep)
    hops = tuple(tensor_hop(name, 0, 0, 0, 1) for name in ("m.p0.s0.w0", "m.p0.s1.w0"))
    wire = WireTicket("d", 1, 1, plain_ticket(0, 0, 0, 9, hops), way=Way(("server0", "server1"), "entry", 0))
    assert way_on.begin(wire, [[b""]], 1, 1.0) is None
    called = grpc._connection(made.server("server1"))
    other = grpc._connection(made.server("server0"))
    closed: list[object] = []
    for each in (called, other):
        each.close = functools.partial(closed.append, each)  # type: ignore[method-assign]
    called.calls += 1
    moved = [replace(each, host="10.0.0.7") if each.name == "server1" else each for each in made.servers]
    serial.save(server_table(replace(made, servers=tuple(moved))), path)
    way_on.begin(wire, [[b""]], 1, 1.0)
    assert closed == [], "a call is under way on it"
    called.calls -= 1
    called.close_if_left()
    assert closed == [called], "the address of the other is still in the table"
    assert grpc._connection(made.server("server1")) is not called
    way_on.close()


def test_sockets_to_where_an_entry_was_are_given_back(tmp_path: Path) -> None:
    path, made = tmp_path / ADDRESSES_NAME, manifest()
    serial.save(server_table(made), path)
    servers = Servers(path, look_us=0)
    notices = NoticeSenders(servers, "m", Keys.none(), NO_CLOCKS)
    before = sockets()
    notices.send_to_all(b"x")
    one = len(sockets() - before)
    for port in range(20_000, 20_005):
        models = tuple(replace(model, feedback_port=port) for model in made.models)
        serial.save(server_table(replace(made, models=models)), path)
        notices.send_to_all(b"x")
    assert len(sockets() - before) == one
    notices.close()
