"""ppipe.serving.ports against real sockets on loopback."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys

import pytest

from ppipe.serving.ports import PortInUse, PortUse, check, free_base, holder, is_free


def use(port: int, field: str = "grpc_port", owner: str = "entry", udp: bool = False) -> PortUse:
    return PortUse(owner=owner, field=field, host="127.0.0.1", port=port, udp=udp)


@pytest.fixture
def port() -> int:
    """One that is free, and that no other program is given meanwhile: below those of outgoing connections."""
    return free_base(random.randrange(10_000, 19_000), 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_listening_port_is_reported_with_server_field_and_holder(host: str, port: int) -> None:
    with socket.create_server((host, port)):
        assert not is_free(port)
        assert holder(port) == os.getpid()
        with pytest.raises(
            PortInUse, match=rf"server 'entry': grpc_port: port {port} .* process {os.getpid()}"
        ):
            check([use(port)])
    assert is_free(port)
    check([use(port)])


def test_tcp_and_udp_ports_are_told_apart(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        assert is_free(port)
        assert not is_free(port, udp=True)
        with pytest.raises(PortInUse, match=rf"feedback_port: UDP port {port}"):
            check([use(port), use(port, field="feedback_port", udp=True)])


def test_every_fault_has_its_line(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortInUse) as caught:
        check([use(port), use(port, field="http_port", owner="slow-0")])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "server 'slow-0': http_port" in lines[1]
    assert "is also grpc_port of server 'entry'" in lines[1]


def test_a_port_whose_old_connections_linger_is_free(port: int) -> None:
    address = ("127.0.0.1", port)
    with socket.create_server(address) as server, socket.create_connection(address):
        accepted, _ = server.accept()
        accepted.close()  # we close first, so TIME_WAIT is on our side
    assert is_free(port)


def test_a_free_base_skips_a_run_with_one_port_taken() -> None:
    base = free_base(random.randrange(10_000, 19_000), 10)
    with socket.create_server(("127.0.0.1", base + 9)):
        assert free_base(base, 10) > base
        assert free_base(base, 9) == base


def test_two_processes_that_look_for_ports_at_once_find_different_ones() -> None:
    base = free_base(random.randrange(10_000, 19_000), 10)
    ask = "import sys; from ppipe.serving.ports import free_base; base = int(sys.argv[1]);"
    ask += "print(free_base(base, 10), free_base(base - 95, 100))"
    command = [sys.executable, "-c", ask, str(base)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    others = [int(word) for word in told.split()]
    assert min(others) > base + 9
    assert free_base(base, 10) == base
    assert free_base(others[0], 10) == others[0], "claims end with the process that had them"


def test_ports_of_ipv6_addresses_are_looked_at_too(port: int) -> None:
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        assert not is_free(port, host="::1")
        assert is_free(port)
        with pytest.raises(PortInUse, match=rf"port {port} on ::1 is in use by process {os.getpid()}"):
            check([PortUse("entry", "http_port", "::1", port)])


def test_one_port_of_two_loopback_addresses_is_two_ports(port: int) -> None:
    check([use(port), PortUse("slow-0", "grpc_port", "127.0.1.1", port)])
    with pytest.raises(PortInUse, match="is also grpc_port"):
        check([use(port), PortUse("slow-0", "grpc_port", "localhost", port)])
