"""Wires that delay and lose: by decisions; and between namespaces, with real packets."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.helpers.machines.hosts import delays, hosts, why_not
from benchmarks.helpers.machines.links import Delays, Link
from benchmarks.helpers.machines.wire import Nature, Wire

NATURES = st.builds(
    Nature,
    delay_us=st.floats(0, 10_000),
    jitter_us=st.floats(0, 10_000),
    loss=st.sampled_from([0.0, 0.3, 1.0]),
    keeps_order=st.booleans(),
)


@given(nature=NATURES, gaps_us=st.lists(st.integers(0, 5_000), max_size=40), seed=st.integers(0, 99))
def test_each_packet_is_lost_or_comes_out_once_within_its_delay(
    nature: Nature, gaps_us: list[int], seed: int
) -> None:
    wire, put_us, out, now_us = Wire(nature, seed), {}, Counter[bytes](), 0
    for number, gap_us in enumerate(gaps_us):
        now_us += gap_us
        out.update(wire.take(now_us))
        put_us[str(number).encode()] = now_us
        wire.put(str(number).encode(), now_us)
    while (next_us := wire.next_us) < float("inf"):
        assert not list(wire.take(next_us - 1e-3)), "none before it is due"
        came = list(wire.take(next_us))
        out.update(came)
        for packet in came:
            late_us = next_us - put_us[packet]
            assert late_us >= max(0.0, nature.delay_us - nature.jitter_us) - 1e-6
            if not nature.keeps_order:  # else the one before may have had the larger delay
                assert next_us <= now_us or late_us <= nature.delay_us + nature.jitter_us + 1e-6
    assert set(out.values()) <= {1}
    assert wire.lost + wire.carried == len(gaps_us)
    assert wire.carried == out.total()
    assert nature.loss or not wire.lost
    assert nature.loss < 1 or not wire.carried


def test_order_is_kept_where_it_is_asked_for_and_not_else() -> None:
    def order(keeps_order: bool) -> list[int]:
        wire = Wire(Nature(1_000, 1_000, 0.0, keeps_order), seed=1)
        for number in range(100):
            wire.put(bytes([number]), number * 10.0)
        return [packet[0] for packet in wire.take(1e9)]

    assert order(True) == list(range(100))
    assert order(False) != list(range(100))


def test_losses_are_the_seeds() -> None:
    def lost(seed: int) -> list[int]:
        wire = Wire(Nature(0, 0, 0.1), seed)
        for number in range(200):
            wire.put(bytes([number]), 0.0)
        return sorted(set(range(200)) - {packet[0] for packet in wire.take(0.0)})

    assert lost(1) == lost(1) != lost(2)
    assert 5 <= len(lost(1)) <= 40


_RECEIVER = """
import socket, sys, time
inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inbox.bind((sys.argv[1], 5000))
inbox.settimeout(60)
print("ready", flush=True)
while True:
    packet, sender = inbox.recvfrom(2000)
    if packet == b"hello":
        inbox.sendto(packet, sender)
        continue
    if packet[:4] == b"last":
        break
    number, sent_us = map(int, packet.split(b" ")[:2])
    print(number, time.monotonic_ns() // 1000 - sent_us)
"""
_SENDER = """
import socket, sys, time
outbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
outbox.connect((sys.argv[1], 5000))
outbox.settimeout(0.2)
while True:  # until addresses are known: questions about them are lost, too
    try:
        outbox.send(b"hello")
        if outbox.recv(100) == b"hello":
            break
    except OSError:
        time.sleep(0.05)
for number in range(300):
    outbox.send(b"%d %d " % (number, time.monotonic_ns() // 1000) + bytes(1000))
    time.sleep(0.0005)
for _ in range(30):
    outbox.send(b"last")
"""


def test_packets_between_hosts_are_late_and_some_are_lost() -> None:
    if reason := why_not():
        pytest.skip(reason)
    if (how := delays()) is None:
        pytest.skip("no netem and no /dev/net/tun here")
    link = Link(200, delay_ms=3.0, jitter_ms=1.0, loss_percent=10.0)
    with hosts({"a": link, "b": link}) as made:
        receiver = subprocess.Popen(
            made["b"].command([sys.executable, "-c", _RECEIVER, made["b"].address]),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        subprocess.run(made["a"].command([sys.executable, "-c", _SENDER, made["b"].address]), check=True)
        said, _ = receiver.communicate(timeout=60)
    came = [tuple(map(int, line.split())) for line in said.splitlines()]
    numbers = [number for number, _ in came]
    assert len(set(numbers)) == len(numbers), "none twice"
    assert 200 <= len(numbers) <= 285, "two links with a tenth lost each: 243 of 300 are to be expected"
    assert min(late_us for _, late_us in came) >= 2 * 2_000 - 200
    assert numbers == sorted(numbers) or how is Delays.NETEM
