"""Notices over a real socket; forged and foreign datagrams are not taken."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from python_backend.wire.clocks import Offset
from python_backend.wire.feedback import Notice, NoticeReceiver, NoticeSender, decode, encode
from python_backend.wire.signing.keys import Keys

NOTICE = Notice(revision=1, batch=7, attempt=0, stage=1, ok=True, ended_us=123_456, busy_us=5_000)


@pytest.mark.parametrize(
    ("host", "family"),
    [("127.0.0.1", socket.AF_INET), ("localhost", socket.AF_INET), ("::1", socket.AF_INET6)],
)
def test_a_notice_arrives_and_closing_wakes_the_receiver(host: str, family: socket.AddressFamily) -> None:
    receiver = NoticeReceiver((host, 0), Keys.none())
    got: list[Notice] = []
    thread = threading.Thread(target=receiver.run, args=(got.append,))
    thread.start()
    sender = NoticeSender((host, receiver.port), Keys.none())
    with socket.socket(family, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"hello", (host, receiver.port))
    sender.send(NOTICE)
    sender.send(NOTICE)
    while len(got) < 2:
        thread.join(timeout=0.01)
    receiver.close()
    thread.join(timeout=30)
    sender.close()
    assert not thread.is_alive()
    assert got == [NOTICE, NOTICE]


def test_a_forged_notice_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k" * 32)
    keys = Keys(tmp_path / "keys")
    datagram = encode(NOTICE, keys)
    assert decode(datagram, keys) == NOTICE
    assert decode(encode(NOTICE, Keys.none()), keys) is None
    for position in range(len(datagram)):
        changed = datagram[:position] + bytes([datagram[position] ^ 1]) + datagram[position + 1 :]
        assert decode(changed, keys) is None


def test_between_hosts_the_time_is_the_dispatchers_or_none_is_told() -> None:
    notice = decode(encode(NOTICE, Keys.none(), Offset(-100_000, 5)), Keys.none())
    assert notice is not None
    assert notice.ended_us == 23_456
    notice = decode(encode(NOTICE, Keys.none(), None), Keys.none())
    assert notice is not None
    assert notice.ended_us is None


def test_a_taken_port_is_named() -> None:
    receiver = NoticeReceiver(("127.0.0.1", 0), Keys.none())
    with pytest.raises(OSError, match=f"feedback_port {receiver.port}"):
        NoticeReceiver(("127.0.0.1", receiver.port), Keys.none())
    receiver.close()
