"""When batches are sent: at once, or when the entry's uplink is theirs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.frames import NO_COST
from planner.manifest import ModelEntry
from planner.serving import ServedEnds, ServedEntry
from python_backend.dispatcher.frames.frame import Frame
from python_backend.dispatcher.hops import Hops
from python_backend.dispatcher.tables.served_table import ServedTable
from python_backend.scheduler.actions import Ticket, plain_ticket, tensor_hop
from python_backend.scheduler.core import SchedulerCore
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Awaited, Outputs
from tests.dispatcher.test_driver import manifest

LINK = ServedEntry("e.up", "e.down", frame_bytes=1_000, frame_pixels=100, prepare=NO_COST, hosts=())
ENDS = ServedEnds(0.04, 0.04, 0.0, 0.04, (0,), (0,), (0,), (0,))
IN_US = 500_000
"""Longer than a busy machine takes between two lines."""
FAR_US = 60_000_000


class Wire:
    """A transport that says when it was asked."""

    def __init__(self) -> None:
        self.begun_us: list[int] = []
        self.sent_us: list[int] = []

    def begin(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Awaited | None:
        self.begun_us.append(now_us())
        return lambda: {"y": np.zeros((batch, 1))}

    def infer(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Outputs:
        self.sent_us.append(now_us())
        assert timeout_s > 0
        return {"y": np.zeros((batch, 1))}

    def close(self) -> None:
        pass


@pytest.fixture
def ended() -> queue.SimpleQueue[Ticket]:
    return queue.SimpleQueue()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture(params=[LINK, None], ids=["planned uplink", "links not counted"])
def entry(request: pytest.FixtureRequest) -> ServedEntry | None:
    found: ServedEntry | None = request.param
    return found


def with_entry(entry: ServedEntry | None) -> ModelEntry:
    (model,) = manifest().models
    ends = None if entry is None else ENDS
    pipelines = tuple(replace(pipeline, ends=ends) for pipeline in model.served.pipelines)
    return replace(model, served=replace(model.served, entry=entry, pipelines=pipelines))


@pytest.fixture
def hops(entry: ServedEntry | None, wire: Wire, ended: queue.SimpleQueue[Ticket]) -> Iterator[Hops]:
    hops = Hops(
        manifest(),
        with_entry(entry),
        wire,
        lambda ticket, frames, outputs: ended.put(ticket),
        lambda *failed: None,
        print,
    )
    yield hops
    hops.close()


def batch(start_us: int) -> tuple[Ticket, list[Frame]]:
    """One whose transfer was reserved from then on."""
    hop = tensor_hop("m.p0.s0.w0", start_us, start_us + 1_000, start_us + 1_000, start_us + 3_000)
    number = memoryview(np.int64(7).tobytes())
    frame = Frame(
        request_id=1,
        data=number,
        arrived_us=start_us,
        deadline_us=start_us + FAR_US,
        send_outputs=lambda outputs: None,
        send_error=lambda code, text: None,
    )
    return plain_ticket(1, 0, 0, start_us + FAR_US, (hop,)), [frame]


def send(hops: Hops, start_us: int) -> None:
    hops.send(*batch(start_us))


def test_a_batch_goes_when_the_uplink_is_its_own(
    hops: Hops, wire: Wire, ended: queue.SimpleQueue[Ticket], entry: ServedEntry | None
) -> None:
    due_us = now_us() + IN_US
    send(hops, due_us)
    ended.get(timeout=30)
    if entry is None:
        assert (len(wire.begun_us), wire.sent_us) == (1, [])
    else:
        assert wire.begun_us == []
        assert wire.sent_us[0] >= due_us


def test_a_batch_that_is_due_goes_at_once(hops: Hops, wire: Wire, ended: queue.SimpleQueue[Ticket]) -> None:
    send(hops, now_us() - IN_US)
    ended.get(timeout=30)
    assert (len(wire.begun_us), wire.sent_us) == (1, [])


def test_a_batch_whose_worker_is_lost_before_its_time_is_not_sent(wire: Wire) -> None:
    failures: queue.SimpleQueue[HopFailure] = queue.SimpleQueue()
    entry = with_entry(LINK)
    table = ServedTable(
        0,
        manifest(),
        entry,
        SchedulerCore(entry.served),
        wire,
        lambda *served: None,
        lambda ticket, frames, failure: failures.put(failure),
        print,
    )
    ticket, frames = batch(now_us() + IN_US)
    table.hops.send(ticket, frames)
    table.under_way.sent(ticket, frames, now_us())
    assert table.under_way.abandon("m.p0.s0.w0") == [ticket]
    failure = failures.get(timeout=30)
    assert (failure.kind, failure.text) == (FailureKind.EXPIRED, "given up before it was sent")
    assert not failure.kind.blames_worker
    assert (wire.begun_us, wire.sent_us) == ([], [])
    table.hops.close()


def no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_was_sent_gives_its_memory_back_though_no_thread_was_there_to_wait_for_it(
    hops: Hops, wire: Wire, ended: queue.SimpleQueue[Ticket], monkeypatch: pytest.MonkeyPatch
) -> None:
    awaited: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(wire, "begin", lambda *message: lambda: awaited.put(1) or {"y": np.zeros((1, 1))})
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        for _ in range(2):
            send(hops, now_us() - IN_US)
    assert awaited.empty()
    send(hops, now_us() - IN_US)
    ended.get(timeout=30)
    for _ in range(3):
        awaited.get(timeout=30)
