"""What a server is sent at its start, and when it is sent nothing."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from python_backend.triton import pretouch
from python_backend.triton.pretouch import BODIES, BODY_BYTES, most_resident_bytes, send_body, start_pretouch
from tests.waiting import wait_for

_NOBODY = 1 << 60
"""No process has had so much memory."""


@contextmanager
def listening() -> Iterator[tuple[int, list[bytearray]]]:
    """A server's port, and what has come on each connection."""
    came: list[bytearray] = []

    def read(connection: socket.socket, into: bytearray) -> None:
        with connection:
            while piece := connection.recv(1 << 20):
                into += piece

    def accept(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            came.append(bytearray())
            threading.Thread(target=read, args=(connection, came[-1]), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


def test_a_body_ends_a_byte_before_what_was_said() -> None:
    near, far = socket.socketpair()
    with near, far:
        send_body(near, 1_000)
        near.shutdown(socket.SHUT_WR)
        head, _, body = far.makefile("rb").read().partition(b"\r\n\r\n")
    assert b"Content-Length: 1000" in head.split(b"\r\n")
    assert body == bytes(999), "so it is no request yet"


def test_a_new_server_is_sent_all_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretouch, "most_resident_bytes", lambda pid: 0)
    said: list[str] = []
    with listening() as (port, came):
        start_pretouch(os.getpid(), "127.0.0.1", port, said.append).join(60)
        wait_for(lambda: len(came) == BODIES and min(map(len, came)) >= BODY_BYTES)
    assert said == []
    assert len(came) == BODIES
    assert all(len(each) > BODY_BYTES - 1 for each in came)


@pytest.mark.parametrize(("resident", "free"), [(_NOBODY, _NOBODY), (0, 1 << 30)])
def test_nothing_is_sent_to_a_server_that_had_as_much_or_where_memory_is_short(
    resident: int, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretouch, "most_resident_bytes", lambda pid: resident)
    monkeypatch.setattr(pretouch, "memory_free", lambda: free)
    with listening() as (port, came):
        start_pretouch(os.getpid(), "127.0.0.1", port, pytest.fail).join(60)
    assert sum(map(len, came)) == 0


def test_what_nobody_listens_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretouch, "most_resident_bytes", lambda pid: 0)
    monkeypatch.setattr(pretouch, "_PATIENCE_S", 0.1)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    start_pretouch(os.getpid(), "127.0.0.1", port, said.append).join(60)
    assert len(said) == 1
    assert f"127.0.0.1:{port}" in said[0]


def test_most_resident_bytes_are_those_of_the_peak() -> None:
    block = bytearray(os.urandom(1)) * (64 << 20)
    peak = most_resident_bytes(os.getpid())
    del block
    assert peak > 64 << 20
    assert most_resident_bytes(os.getpid()) >= peak
