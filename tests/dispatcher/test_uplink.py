"""Dispatchers of one entry hear what the others send over its uplink, and keep clear of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from planner.frames import FrameCost
from planner.manifest import DeploymentManifest
from planner.serving import ServedEnds, ServedEntry
from python_backend.dispatcher.driver import Driver, DriverSettings
from python_backend.dispatcher.recording import FOLDER_VARIABLE
from python_backend.dispatcher.uplink import Uplink
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.event_log import read_logs
from python_backend.scheduler.events import LinkTaken
from python_backend.simulator.replay import replay_as_it_was
from python_backend.wire.clock import sleep_until
from python_backend.wire.shm import link_ledger
from python_backend.wire.shm.file import PREFIX_VARIABLE, SHM
from python_backend.wire.ticket_codec import WireTicket
from tests.dispatcher.test_driver import Client, Hops, manifest

TRANSFER_US = 20_000
ENTRY = ServedEntry("up", "down", 8, 1, FrameCost(1, 0.0, 0.0), ())
ENDS = ServedEnds(TRANSFER_US / 8, 0.0, 0.0, TRANSFER_US / 8, (0,) * 2, (0,) * 2, (0,) * 2, (0,) * 2)


def two_models() -> DeploymentManifest:
    made = manifest()
    (model,) = made.models
    pipelines = tuple(replace(pipeline, ends=ENDS) for pipeline in model.served.pipelines)
    served = replace(model.served, entry=ENTRY, pipelines=pipelines, slo_us=60_000_000)
    models = [replace(model, model=name, served=replace(served, model=name)) for name in ("a", "b")]
    return replace(made, models=tuple(replace(each, dispatcher=f"{each.model}_dispatch") for each in models))


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    prefix = f"ppipe_test_{uuid.uuid4().hex}_"
    monkeypatch.setenv(PREFIX_VARIABLE, prefix)
    yield prefix
    assert not list(SHM.glob(f"{prefix}*")), "the last one to leave takes the file along"


def test_dispatchers_keep_clear_of_each_other_and_their_logs_replay(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(link_ledger, "PATIENCE_US", 60_000_000)  # this machine may have much to do
    made = two_models()
    drivers, clients, hops = [], [Client(), Client()], [Hops(before=_in_time), Hops(before=_in_time)]
    for model, sender in zip(made.models, hops, strict=True):
        uplink = Uplink()
        core = SchedulerCore(model.served, told=uplink.join(made, model))
        settings = DriverSettings(record_mb=1)
        drivers.append(Driver(made, model, core, sender, print, settings, uplink=uplink))
    for number in range(6):
        for driver, client in zip(drivers, clients, strict=True):
            driver.arrive([client.frame(number, slo_us=60_000_000)])
    for client in clients:
        client.wait()
    for driver in drivers:
        driver.close()
    sent = sorted(
        wire.ticket.hops[0].transfer_start_us
        for sender in hops
        for wire, _ in sender.batches
        if wire.ticket is not None
    )
    assert len(sent) == 12
    assert all(after - before >= TRANSFER_US for before, after in pairwise(sent)), sent
    heard = 0
    for path in tmp_path.iterdir():
        ((header, body),) = [(header, list(body)) for header, body in read_logs(iter(_lines(path)), "log")]
        assert header.told
        heard += sum(isinstance(event, LinkTaken) for line in body for event in line.events)
        replayed = replay_as_it_was(header, body)
        assert replayed.equal_lines == replayed.lines
    assert heard >= 6, "who has no frames any more need not listen"


def test_a_table_of_other_models_has_a_ledger_of_its_own(prefix: str) -> None:
    made = two_models()
    a, b = made.models
    c = replace(b, model="c", dispatcher="c_dispatch")
    more = replace(made, models=(*made.models, c))
    uplinks = [Uplink(), Uplink(), Uplink()]
    assert uplinks[0].join(made, a)
    assert uplinks[1].join(made, b)
    _tell(uplinks[0], 1, 2)
    assert _news(uplinks[1]) == [(1, 2)]
    assert all(uplink.join(more, model) for uplink, model in zip(uplinks, more.models, strict=True))
    _tell(uplinks[1], 3, 4)
    assert [_news(uplink) for uplink in uplinks] == [[(3, 4)], [], [(3, 4)]]
    for uplink in uplinks:
        uplink.close()


def test_who_has_nobody_to_hear_keeps_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_models()
    monkeypatch.delenv(PREFIX_VARIABLE, raising=False)
    uplink = Uplink()
    assert not uplink.join(made, made.models[0]), "no memory that is this server's alone"
    monkeypatch.setenv(PREFIX_VARIABLE, f"ppipe_test_{uuid.uuid4().hex}_")
    assert not uplink.join(replace(made, models=made.models[:1]), made.models[0])
    _tell(uplink, 1, 2)
    assert (uplink.shared, _news(uplink)) == (False, [])
    uplink.close()


def _in_time(wire: WireTicket) -> None:
    """As a fleet does: what is answered early gives its links back early."""
    assert wire.ticket is not None
    sleep_until(wire.ticket.hops[-1].end_us)


def _tell(uplink: Uplink, start_us: int, until_us: int) -> None:
    uplink.hear()
    uplink.tell([LinkTaken("up", start_us, until_us)])


def _news(uplink: Uplink) -> list[tuple[int, int]]:
    news = [(taken.start_us, taken.until_us) for taken in uplink.hear()]
    uplink.tell([])
    return news


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)
