"""What plain TCP carries between two hosts, without PPipe: bytes a second, and how long batches take.

Run as a process on each of the two hosts: a receiver that answers every message with one byte, and a sender
that sends one after another, over so many connections at once.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.helpers.machines.hosts import Host

_PORT = 23_900
_READY = b"ready\n"
_ROOT = Path(__file__).parents[3]
_SLOWEST = 0.99
_LIMIT_S = 30.0


@dataclass(frozen=True)
class Carried:
    """Payload in Mbit/s, and the time from a message's first byte to its answer."""

    connections: int
    message_bytes: int
    mbit: float
    median_ms: float
    slowest_ms: float
    """Of one message in a hundred."""


def carried(sender: Host, receiver: Host, message_bytes: int, connections: int, seconds: float) -> Carried:
    """Raises subprocess.SubprocessError where one of both fails."""
    told = [receiver.address, str(message_bytes)]
    listening = subprocess.Popen(
        receiver.command([sys.executable, "-m", __name__, "receive", *told]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_ROOT,
    )
    assert listening.stdin is not None
    assert listening.stdout is not None
    try:
        if listening.stdout.readline() != _READY:
            raise subprocess.SubprocessError(f"nothing receives on {receiver.name}")
        said = subprocess.run(
            sender.command([sys.executable, "-m", __name__, "send", *told, str(connections), str(seconds)]),
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            check=True,
            timeout=seconds + _LIMIT_S,
        )
        return Carried(**json.loads(said.stdout))
    finally:
        listening.stdin.close()
        listening.wait()
        listening.stdout.close()


def receive(address: str, message_bytes: int) -> None:
    """Until standard input ends."""
    with socket.create_server((address, _PORT)) as server:
        threading.Thread(target=_accept, args=(server, message_bytes), daemon=True).start()
        sys.stdout.buffer.write(_READY)
        sys.stdout.flush()
        sys.stdin.read()


def _accept(server: socket.socket, message_bytes: int) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_answer, args=(connection, message_bytes), daemon=True).start()


def _answer(connection: socket.socket, message_bytes: int) -> None:
    buffer = bytearray(1 << 16)
    left = message_bytes
    while got := connection.recv_into(buffer, min(left, len(buffer))):
        left -= got
        if left == 0:
            connection.sendall(b".")
            left = message_bytes


def send(address: str, message_bytes: int, connections: int, seconds: float) -> Carried:
    """For so long; the messages of all connections together."""
    end_s = time.monotonic() + seconds
    took_s: list[list[float]] = [[] for _ in range(connections)]
    threads = [
        threading.Thread(target=_send, args=(address, message_bytes, end_s, times)) for times in took_s
    ]
    began_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted_s = time.monotonic() - began_s
    every = sorted(took for times in took_s for took in times)
    return Carried(
        connections=connections,
        message_bytes=message_bytes,
        mbit=round(len(every) * message_bytes * 8 / lasted_s / 1e6, 1),
        median_ms=round(statistics.median(every) * 1e3, 1),
        slowest_ms=round(every[int(_SLOWEST * (len(every) - 1))] * 1e3, 1),
    )


def _send(address: str, message_bytes: int, end_s: float, took_s: list[float]) -> None:
    message = bytes(message_bytes)
    with socket.create_connection((address, _PORT), timeout=_LIMIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (began_s := time.monotonic()) < end_s:
            connection.sendall(message)
            if not connection.recv(1):
                return
            took_s.append(time.monotonic() - began_s)


def main(arguments: Sequence[str]) -> None:
    """As one of both processes."""
    what, address, message_bytes, *rest = arguments
    if what == "receive":
        receive(address, int(message_bytes))
        return
    connections, seconds = rest
    print(json.dumps(asdict(send(address, int(message_bytes), int(connections), float(seconds)))))


if __name__ == "__main__":
    main(sys.argv[1:])
