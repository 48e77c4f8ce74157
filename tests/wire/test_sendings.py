"""What moves on a connection, by two real sockets: a receiver that reads slowly, one that has stopped, one
that has read all.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from python_backend.wire.clock import now_us
from python_backend.wire.http.sendings import Sending, Sendings
from tests.waiting import wait_for

SIZE = 4_000_000
_PIECE = 8_192


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Sender and receiver, with so little memory between them that most of a message is still to come."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        server.bind(("127.0.0.1", 0))
        server.listen()
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
    with sender, receiver:
        yield sender, receiver


def send(sender: socket.socket) -> threading.Thread:
    thread = threading.Thread(target=sender.sendall, args=(bytes(SIZE),), daemon=True)
    thread.start()
    return thread


def read(receiver: socket.socket, size: int) -> None:
    while size > 0:
        size -= len(receiver.recv(min(size, _PIECE)))


def test_a_message_that_arrives_slowly_moves(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    sending = Sending(sender, SIZE)
    thread = send(sender)
    lefts = []
    for _ in range(8):
        read(receiver, SIZE // 16)
        time.sleep(0.1)
        left = sending.left()
        assert left is not None
        assert now_us() - left.moved_us < 250_000
        lefts.append(left.bytes)
    assert lefts == sorted(lefts, reverse=True)
    assert 0 < lefts[-1] < lefts[0] < SIZE
    assert sending.moved_lately(1.0)
    read(receiver, SIZE - 8 * (SIZE // 16))
    thread.join(5)


def test_a_receiver_that_reads_nothing_takes_nothing_though_its_kernel_answers(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = ends
    sending = Sending(sender, SIZE)
    thread = send(sender)
    wait_for(lambda: _moved_us(sending) == 0)
    time.sleep(0.5)  # the kernel has asked for room meanwhile, and has been answered
    assert not sending.moved_lately(1.0)
    read(receiver, SIZE)
    thread.join(5)
    wait_for(lambda: _moved_us(sending) > 0)


def test_what_has_come_moved_when_the_last_of_it_did(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    sending = Sending(sender, SIZE)
    thread = send(sender)
    read(receiver, SIZE)
    thread.join(5)
    came_us = now_us()
    wait_for(lambda: _left_bytes(sending) == 0)
    time.sleep(0.3)
    assert abs(_moved_us(sending) - came_us) < 100_000
    assert not sending.moved_lately(1.0)


def test_a_second_message_is_counted_from_its_own_start(ends: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ends
    for _ in range(2):
        sending = Sending(sender, SIZE)
        assert _left_bytes(sending) == SIZE
        thread = send(sender)
        read(receiver, SIZE)
        thread.join(5)
        wait_for(lambda sending=sending: _left_bytes(sending) == 0)  # type: ignore[misc]


def test_nobody_knows_of_a_socket_that_is_closed_or_no_tcp(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    sender, _ = ends
    sending = Sending(sender, SIZE)
    sendings = Sendings()
    sendings.begun(7, sending)
    assert sendings.left(7) is not None
    sender.close()
    assert (sendings.left(7), sendings.moved_us(7)) == (None, 0)
    sendings.over(7)
    sendings.over(7)
    assert (sendings.left(7), sendings.moved_us(8)) == (None, 0)
    one, other = socket.socketpair()
    with one, other:
        assert Sending(one, SIZE).left() is None


def _moved_us(sending: Sending) -> int:
    left = sending.left()
    assert left is not None
    return left.moved_us


def _left_bytes(sending: Sending) -> int:
    left = sending.left()
    assert left is not None
    return left.bytes
