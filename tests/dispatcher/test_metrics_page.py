"""The metrics page under callers who mean harm: slow ones, many, and frequent ones."""

from __future__ import annotations

import socket
import struct
import time
import urllib.request
from collections.abc import Iterator

import pytest

from python_backend.dispatcher.metrics import page as metrics_page
from python_backend.dispatcher.metrics.page import MOST_CONNECTIONS, MetricsPage, open_page
from tests.waiting import wait_for


@pytest.fixture
def made() -> list[float]:
    """When the text was made."""
    return []


@pytest.fixture
def page(made: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsPage]:
    monkeypatch.setattr(metrics_page, "CONNECTION_S", 0.4)
    shown = MetricsPage(
        lambda _: (made.append(time.monotonic()) or b"text\n", "text/plain"), ("127.0.0.1", 0)
    )
    yield shown
    shown.close()


def ask(page: MetricsPage) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=60) as answer:
        return bytes(answer.read())


def test_asking_often_makes_it_seldom(page: MetricsPage, made: list[float]) -> None:
    began_s = time.monotonic()
    for _ in range(100):
        assert ask(page) == b"text\n"
    assert len(made) <= 2 + (time.monotonic() - began_s) / metrics_page.FRESH_S


def sent_again(caller: socket.socket) -> int:
    """Packets that the kernel has sent again for a connection: tcpi_total_retrans of Linux's tcp_info."""
    return int(struct.unpack_from("I", caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])


def test_a_burst_of_callers_has_nobody_try_again_after_a_second(page: MetricsPage) -> None:
    callers = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(3 * MOST_CONNECTIONS)]
    assert sum(sent_again(caller) for caller in callers) == 0
    for caller in callers:
        caller.close()


def test_callers_who_say_nothing_or_a_byte_at_a_time_are_sent_away(page: MetricsPage) -> None:
    callers = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(3 * MOST_CONNECTIONS)]
    slow = callers[0]
    ended_s = time.monotonic() + 60
    try:
        while time.monotonic() < ended_s:
            slow.send(b"G")
            time.sleep(0.05)
    except OSError:
        pass
    assert time.monotonic() < ended_s, "a byte now and then kept the connection"
    assert ask(page) == b"text\n"
    for caller in callers:
        caller.close()


def test_a_page_whose_port_is_taken_opens_when_it_is_free(
    page: MetricsPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_page, "RETRY_S", 0.05)
    address, said = ("127.0.0.1", page.port), list[str]()
    wanted = open_page("m", lambda: lambda _: (b"another's\n", "text/plain"), address, said.append)
    assert wanted is not None
    assert [f"TCP port {page.port}" in text for text in said] == [True]
    assert ask(page) == b"text\n"
    page.close()
    wait_for(lambda: len(said) == 2)
    assert ask(page) == b"another's\n"
    wanted.close()
    MetricsPage(lambda _: (b"", ""), address).close()


def test_a_page_that_never_got_its_port_closes_at_once(page: MetricsPage) -> None:
    wanted = open_page("m", lambda: lambda _: (b"", ""), ("127.0.0.1", page.port), lambda text: None)
    assert wanted is not None
    began_s = time.monotonic()
    wanted.close()
    assert time.monotonic() - began_s < metrics_page.RETRY_S
