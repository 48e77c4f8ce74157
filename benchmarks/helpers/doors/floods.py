"""Doors under load: each flood for some seconds, twice, while a good client sends half of what can be served.

A flood is run by threads until `stop` is set, within the bounds of its own loop.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from benchmarks.helpers.doors.callers import Cpu, flood
from benchmarks.helpers.doors.stand import CAPACITY_RPS, SLO_US, Stand, Way
from benchmarks.helpers.doors.tries import (
    bomb,
    frame_request,
    image_request,
    sniffed,
    stage_request,
)
from benchmarks.helpers.doors.wire import closing_with_a_large_body, in_small_chunks, raw
from benchmarks.helpers.loads.tagged import TaggedFrame, TaggedLoad
from python_backend.dispatcher.frames.room import bounds_of
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice, encode
from python_backend.wire.signing.keys import Keys

Flood = Callable[[Stand, threading.Event], None]
_GOOD_SHARE = 0.5
CALLERS = 5_000
FRONT_SOURCES = (1, 8)
"""Addresses that they come from, where they come through the front."""
_COPIES = 2
"""Of a request that Triton has: as it came, and in shared memory. Of an open frame as many more: in the
dispatcher, and in a transport."""
SETTLE_S = 1.0
"""Before an attack, with the good client alone, and after it; also until a new entry has taken what memory it
takes at its start.
"""
_CAME = "frames_total"


@dataclass(frozen=True)
class Borne:
    """What the good client saw, and what the deployment took. Bytes at the peak of each attack, in order.
    `came`: frames that reached the dispatcher, the good client's among them.
    """

    sent: int
    answered: int
    came: int
    attainment: float
    ended: tuple[str, ...]
    peak_bytes: tuple[int, ...]
    lost: Mapping[str, int]
    """Frames that were not served in time, by what became of them."""

    @property
    def growth(self) -> float:
        """Of an attack's peak over that of the one before it, at most."""
        return max(later / peak for peak, later in pairwise(self.peak_bytes)) - 1

    def figures(self) -> Mapping[str, Any]:
        """For a report."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "came": self.came,
            "attainment": round(self.attainment, 4),
            "ended": list(self.ended),
            "peak_mib": [size >> 20 for size in self.peak_bytes],
            "growth": round(self.growth, 4),
            "lost": dict(self.lost),
        }


def most_bytes(stand: Stand, rest_bytes: int, callers: int) -> int:
    """What the deployment may take at most while so many call at once, by docs/security.md: `rest_bytes` that
    it takes by itself, their requests, and the frames that a dispatcher lets be open.
    """
    entry = stand.entry
    frame_bytes = entry.input.bytes_per_frame
    bounds = bounds_of(
        entry.served, entry.longest_us, stand.manifest.time_us(entry.model), len(stand.manifest.models)
    )
    open_bytes = min(bounds.bytes, bounds.frames * frame_bytes)
    return rest_bytes + _COPIES * (open_bytes + callers * frame_bytes)


def memory_bytes(stand: Stand) -> int:
    """That the deployment's processes have to themselves or share, now."""
    return sum(map(_proportional_bytes, stand.processes().values()))


def bear(stand: Stand, attack: Attack, seconds: float, times: int = 2) -> Borne:
    """So many attacks of this kind, two or more, one after the other."""
    before, came = stand.processes(), stand.metric(_CAME)
    peaks, frames = [], []
    for _ in range(times):
        memory = _Peak(stand)
        load = _good_client(stand, attack.way)
        stop = threading.Event()
        attackers = threading.Thread(target=attack.flood, args=(stand, stop))
        client = threading.Thread(target=load.run, args=(_steady(seconds + 2 * SETTLE_S),))
        with memory:
            client.start()
            time.sleep(SETTLE_S)
            attackers.start()
            time.sleep(seconds)
            stop.set()
            client.join()
            attackers.join()
        load.close()
        frames += load.frames
        peaks.append(memory.bytes)
    now = stand.processes()
    lost = Counter(ending_of(frame) for frame in frames if frame.wrong or not frame.in_time(SLO_US / 1e6))
    return Borne(
        sent=len(frames),
        answered=sum(frame.answers == 1 for frame in frames),
        came=round(stand.metric(_CAME) - came),
        attainment=1 - lost.total() / len(frames),
        ended=tuple(name for name, pid in before.items() if now.get(name) != pid),
        peak_bytes=tuple(peaks),
        lost=lost,
    )


def ending_of(frame: TaggedFrame) -> str:
    """What became of a frame that was not served in time."""
    if frame.wrong:
        return "wrong"
    reason = re.search("reason=[a-z_]+", frame.error)
    return reason[0] if reason else frame.error[:60] or "late"


def _good_client(stand: Stand, way: Way) -> TaggedLoad:
    return TaggedLoad(
        [(stand.address(way), stand.entry.dispatcher)], stand.entry.input, stand.entry.outputs[0].name, SLO_US
    )


def _steady(seconds: float) -> list[int]:
    rps = _GOOD_SHARE * CAPACITY_RPS
    return [round(1e6 * number / rps) for number in range(int(seconds * rps))]


class _Peak:
    """The most memory that the deployment's processes have to themselves or share, every 0.2 s."""

    def __init__(self, stand: Stand) -> None:
        self._pids = list(stand.processes().values())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self.bytes = max(self.bytes, sum(map(_proportional_bytes, self._pids)))


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


# Floods


def bombs(stand: Stand, stop: threading.Event) -> None:
    """Forty small files a second that say they are images of 50 million pixels."""
    data = bomb()
    with grpc.insecure_channel(stand.manifest.entry.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while not stop.wait(0.025):
            with contextlib.suppress(grpc.RpcError):
                stub.ModelInfer(image_request(stand, data), timeout=5)


def callers(
    stand: Stand,
    stop: threading.Event,
    count: int = CALLERS,
    way: Way = Way.ENTRY,
    cpu: Cpu = Cpu.LESS,
) -> None:
    """So many calls at once that ask for an hour's time, again whenever all are answered."""
    request = frame_request(stand, timeout_us=3_600_000_000)
    flood(stand.address(way), request.SerializeToString(), count, stop, cpu=cpu)


def callers_through_front(
    stand: Stand,
    stop: threading.Event,
    sources: int,
    timeout_us: int = 0,
    count: int = CALLERS,
    way: Way = Way.FRONT,
    rows: int = 1,
    cpu: Cpu = Cpu.LESS,
) -> None:
    """So many calls at once through the front, again whenever all are answered, from so many other addresses
    than the good client's.
    timeout_us: that they ask for; 0: none, so they are as urgent as the good client's. rows: frames of each.
    """
    request = frame_request(stand, timeout_us, rows)
    flood(stand.address(way), request.SerializeToString(), count, stop, sources, cpu)


def slow_readers(stand: Stand, stop: threading.Event) -> None:
    """Connections to the metrics page and to the front that say a byte a second, or nothing."""
    ports = [stand.entry.feedback_port, *([stand.front_http] if stand.front_http else [])]
    open_: list[socket.socket] = []
    for port in itertools.islice(itertools.cycle(ports), 200):
        with contextlib.suppress(OSError):
            open_.append(socket.create_connection((stand.manifest.entry.host, port), timeout=2))
    while not stop.wait(0.5):
        for connection in open_:
            with contextlib.suppress(OSError):
                connection.send(b"G")
    for connection in open_:
        connection.close()


def replays(stand: Stand, stop: threading.Event) -> None:
    """One genuine ticket over and over, with its own tensors and with others."""
    text = sniffed(stand, 1 << 30)
    with grpc.insecure_channel(stand.manifest.servers[0].grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for fill in itertools.cycle((0, 7)):
            if stop.wait(0.005):
                return
            with contextlib.suppress(grpc.RpcError):
                stub.ModelInfer(stage_request(stand, text, fill), timeout=5)


def notices(stand: Stand, stop: threading.Event) -> None:
    """Forged notices and noise, two thousand a second."""
    address = (stand.manifest.entry.host, stand.entry.feedback_port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in itertools.count():
            if number % 20 == 0 and stop.wait(0.01):
                return
            forged = Notice(stand.manifest.epoch, number, 0, 0, True, now_us() + 10**9, 10**9)
            sender.sendto(encode(forged, Keys.none()) if number % 2 else os.urandom(90), address)


def front_attacks(stand: Stand, stop: threading.Event) -> None:
    """Both requests that end a server of 2.51, through the front, some each second."""
    path = f"/v2/models/{stand.entry.dispatcher}/infer"
    while not stop.wait(0.2):
        raw("127.0.0.1", stand.front_http, in_small_chunks(path, 600_000))
        raw("127.0.0.1", stand.front_http, closing_with_a_large_body(path, 4_000_000))


@dataclass(frozen=True)
class Attack:
    """A flood, and how the good client comes meanwhile."""

    flood: Flood
    way: Way = Way.ENTRY


def all_attacks(stand: Stand, addresses: Sequence[int] = FRONT_SOURCES) -> dict[str, Attack]:
    """By name. addresses: from how many callers come through the front, one attack each."""
    attacks = {
        "bombs": Attack(bombs),
        "callers": Attack(callers),
        "slow readers": Attack(slow_readers),
        "replays": Attack(replays),
        "forged notices": Attack(notices),
    }
    if stand.front_http:
        attacks["HTTP attacks on the front"] = Attack(front_attacks)
        for way, sources in itertools.product((Way.FRONT, Way.KNOWING_FRONT), addresses):
            made = partial(callers_through_front, sources=sources, way=way)
            attacks[f"callers through the {way.value}, {_addresses(sources)}"] = Attack(made, way)
    return attacks


def compared(stand: Stand, addresses: Sequence[int] = FRONT_SOURCES) -> dict[str, Attack]:
    """What shows how much of a good client's loss is the callers' own work, on processors that it shares with
    them, by name: the same callers, met by an nginx that refuses all; and callers that take as much of the
    processors as the entry gets, which none on machines of their own do.
    """
    if not stand.front_http:
        return {}
    attacks = {
        "callers, refused elsewhere": Attack(partial(callers, way=Way.NOWHERE)),
        "callers, on equal terms": Attack(partial(callers, cpu=Cpu.EQUAL)),
    }
    for sources in addresses:
        made = partial(callers_through_front, sources=sources)
        name = f"callers through the front, {_addresses(sources)}"
        attacks[f"{name}, refused elsewhere"] = Attack(partial(made, way=Way.NOWHERE), Way.FRONT)
        for way in (Way.FRONT, Way.KNOWING_FRONT):
            name = f"callers through the {way.value}, {_addresses(sources)}"
            attacks[f"{name}, on equal terms"] = Attack(partial(made, way=way, cpu=Cpu.EQUAL), way)
    return attacks


def _addresses(sources: int) -> str:
    return f"{sources} address{'es' if sources > 1 else ''}"
