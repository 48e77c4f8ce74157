"""Hosts whose network delays and loses packets: every frame ends in time, once, with its own answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from benchmarks.helpers.loads.jpeg import JpegLoad, Sent
from benchmarks.helpers.machines.hosts import delays
from ppipe.bench.frames import encode_jpeg, make_pictures
from python_backend.simulator.arrivals import Poisson
from tests.live.hosts import HostsServed, Link, hosts, jpeg_model, require_hosts, serve_on_hosts

pytestmark = pytest.mark.live

_LINKS = {
    "delay": Link(100, delay_ms=5.0, jitter_ms=1.0),
    "loss": Link(100, delay_ms=1.2, jitter_ms=1.0, loss_percent=0.5),
}
_RATE_RPS, _SECONDS = 25.0, 8.0
"""Half of what is planned."""
_OUTCOMES = ("in_time_total", "late_total", "dropped_total", "unusable_total")
_ENDED_AFTER_US = 1_000_000
"""A frame may end so long after its deadline: its caller hears of it over a link of its own, at once."""
_ATTAINED = 0.95
"""A loss costs a frame of 60 KB a few milliseconds or, where its last packet is lost, TCP's timer of 200 ms:
of 400 ms there is room for one.
"""


@pytest.fixture(scope="module", params=_LINKS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsServed]:
    require_hosts()
    if delays() is None:
        pytest.skip("packets cannot be delayed here: no netem and no /dev/net/tun")
    root = tmp_path_factory.mktemp(request.param)
    links = dict.fromkeys(("entry", "a", "b"), _LINKS[request.param])
    with (
        hosts(links, ("entry", Link(1_000)), clocks_apart=True) as made,
        serve_on_hosts(root, [jpeg_model()], made) as running,
    ):
        yield running


def test_every_frame_ends_by_its_deadline_with_its_own_answer_once(served: HostsServed) -> None:
    jpegs = [encode_jpeg(picture) for picture in make_pictures(4, seed=3, width=640, height=480)]
    model = served.manifest.models[0]
    load = JpegLoad(served.address, "net", jpegs, model.served.slo_us)
    with contextlib.closing(load):
        load.run(list(Poisson(_RATE_RPS).times_us(2.0, 1, "net")))
        before = _outcomes(served)
        frames = load.run(list(Poisson(_RATE_RPS).times_us(_SECONDS, 2, "net")))
    assert not [frame for frame in frames if frame.wrong]
    limit_us = model.served.slo_us + _ENDED_AFTER_US
    assert not [frame for frame in frames if frame.ended_us is None or _took_us(frame) > limit_us]
    assert _outcomes(served) - before == len(frames), "each counted once, whatever came of it"
    in_time = sum(frame.in_time for frame in frames) / len(frames)
    assert in_time >= _ATTAINED, [frame.error for frame in frames if not frame.in_time]


def _took_us(frame: Sent) -> int:
    assert frame.ended_us is not None
    return frame.ended_us - frame.sent_us


def _outcomes(served: HostsServed) -> float:
    return sum(served.metric(served.manifest.models[0], name) for name in _OUTCOMES)
