"""Many callers at once, in a process of its own:

    python -m benchmarks.helpers.doors.callers ADDRESS COUNT SOURCES CPU

with a serialised request on its standard input. When all are answered, all call again at once, until the
process is ended. SOURCES: 0: on one connection; else from so many addresses of loopback, on as many
connections as let all call at once.
CPU: `less` for a process that leaves others most of the processors while they want them, or `equal`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc

from python_backend.wire import kserve

_LIMIT_S: Final = 20.0
_NICE: Final = 10
"""A flood comes from machines of its own; here it has two cores in common with what it floods."""
_STREAMS: Final = 50
"""Calls of one connection: fewer than a front lets it have at a time."""
_PIECE: Final = 1 << 16


class Cpu(Enum):
    """Which part of the processors a flood has: a tenth of what each server may, or as much."""

    LESS = "less"
    EQUAL = "equal"


def flood(
    address: str,
    request: bytes,
    count: int,
    stop: threading.Event,
    sources: int = 0,
    cpu: Cpu = Cpu.LESS,
) -> None:
    """Make so many calls at once, again whenever all are answered, until `stop` is set. The process is
    started again if it ends before: under such calls a check of its own has ended gRPC's client.
    """
    module = "benchmarks.helpers.doors.callers"
    command = [sys.executable, "-m", module, address, str(count), str(sources), cpu.value]
    while not stop.is_set():
        _call(command, request, stop)


def _call(command: Sequence[str], request: bytes, stop: threading.Event) -> None:
    """One process, until it ends or `stop` is set."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as callers:
        assert callers.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            callers.stdin.write(request)
            callers.stdin.close()
        while not stop.wait(0.1) and callers.poll() is None:
            pass
        callers.terminate()


def main() -> NoReturn:
    """Of the process."""
    if Cpu(sys.argv[4]) is Cpu.LESS:
        _give_way()
    address, count, sources = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    request = sys.stdin.buffer.read()
    channels = list(_channels(address, count, sources))
    made: list[Any] = [channel.unary_unary(kserve.INFER_METHOD) for channel in channels]
    while True:
        calls = [made[number % len(made)].future(request, timeout=_LIMIT_S) for number in range(count)]
        for each in calls:
            each.exception()


def _give_way() -> None:
    """To processes of other sessions, too: Linux shares processors out among sessions first, where it makes
    groups of them (sched(7), autogroup), and a process's own nice value counts within its session alone.
    """
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # a kernel without such groups
        Path("/proc/self/autogroup").write_text(str(_NICE), encoding="ascii")


def _channels(address: str, count: int, sources: int) -> Iterator[grpc.Channel]:
    if not sources:
        yield grpc.insecure_channel(address)
        return
    relays = _relays(address, [f"127.0.1.{number + 1}" for number in range(sources)])
    connections = -(-count // (sources * _STREAMS))
    for relay in relays:
        for _ in range(connections):
            # Else gRPC has all channels to one address share a connection.
            yield grpc.insecure_channel(relay, options=[("grpc.use_local_subchannel_pool", 1)])


def _relays(address: str, sources: Sequence[str]) -> list[str]:
    """Addresses here; what connects to the first of them reaches `address` from the first source, and so on:
    a channel of gRPC cannot say where it calls from.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    host, _, port = address.rpartition(":")
    return [
        asyncio.run_coroutine_threadsafe(_relay(host, int(port), source), loop).result() for source in sources
    ]


async def _relay(host: str, port: int, source: str) -> str:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(host, port, local_addr=(source, 0))
        await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    return "{}:{}".format(*server.sockets[0].getsockname())


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    main()
