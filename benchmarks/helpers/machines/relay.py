"""A process that moves packets between tap devices of two namespaces, late and not all of them: what netem
does, on kernels that have none.

Rules
- A device's rate is bounded by its own shaper, before a packet comes here.
- Started by `relayed`, it ends when its standard input does: with whoever started it.
- What cannot be delivered, as to a device that is down, is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import gc
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.helpers.machines.wire import Nature, Wire

TUN = Path("/dev/net/tun")
_NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF = 0x4004_54CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_LARGEST = 9_216
"""Bytes of a packet: jumbo frames too."""
_AT_ONCE = 64
"""Packets read from a device before those that are due are delivered."""
_STEP_US = 100.0
"""Packets that are due so soon go with those that are due."""
_READY = b"ready\n"
_ROOT = Path(__file__).parents[3]


class NoRelay(RuntimeError):
    """The relay did not start; the message has what it said."""


@dataclass(frozen=True)
class Strand:
    """A wire between two tap devices, each (namespace, device); both exist and are nobody's."""

    one: tuple[str, str]
    other: tuple[str, str]
    nature: Nature
    seed: int


@contextlib.contextmanager
def relayed(strands: Sequence[Strand]) -> Iterator[subprocess.Popen[bytes]]:
    """The wires carry as long as it lasts. Raises NoRelay."""
    told = json.dumps([dataclasses.asdict(strand) for strand in strands])
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.helpers.machines.relay", told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=_ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        if process.stdout.readline() != _READY:
            raise NoRelay(f"packets cannot be delayed here: {process.stderr.read().decode().strip()[-500:]}")
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _open_tap(namespace: str, device: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    inside = os.open(_NAMESPACES / namespace, os.O_RDONLY)
    try:
        if libc.setns(inside, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"namespace {namespace}")
    finally:
        os.close(inside)
    tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _TAP_WITHOUT_HEADER))
    return tap


def carry(ways: dict[int, tuple[Wire, int]], until: int) -> None:
    """ways: by the tap that packets are read from: the wire, and the tap that they go to. Returns when
    `until` can be read.
    """
    watched = [*ways, until]
    while True:
        next_us = min(wire.next_us for wire, _ in ways.values())
        wait_s = None if next_us == float("inf") else max(0.0, (next_us - _now_us()) / 1e6)
        ready, _, _ = select.select(watched, [], [], wait_s)
        if until in ready:
            return
        for tap in ready:
            _read(tap, ways[tap][0])
        now_us = _now_us() + _STEP_US
        for wire, target in ways.values():
            for packet in wire.take(now_us):
                with contextlib.suppress(OSError):
                    os.write(target, packet)


def _read(tap: int, wire: Wire) -> None:
    now_us = _now_us()
    try:
        for _ in range(_AT_ONCE):
            wire.put(os.read(tap, _LARGEST), now_us)
    except OSError:  # nothing more to read, or a device that is down
        return


def _now_us() -> float:
    return time.monotonic_ns() / 1e3


def main(told: str) -> None:
    """Until standard input ends."""
    ways: dict[int, tuple[Wire, int]] = {}
    for strand in json.loads(told):
        nature = Nature(**strand["nature"])
        one, other = _open_tap(*strand["one"]), _open_tap(*strand["other"])
        ways[one] = Wire(nature, 2 * strand["seed"]), other
        ways[other] = Wire(nature, 2 * strand["seed"] + 1), one
    os.write(sys.stdout.fileno(), _READY)
    gc.disable()  # nothing here makes circles
    carry(ways, sys.stdin.fileno())


if __name__ == "__main__":
    main(sys.argv[1])
