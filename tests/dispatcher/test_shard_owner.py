"""What follows from a change of what is owned: leases are renewed while a table is made, the last change is
served, also where a table could not be, and nothing of tables that are over is left.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import OwnedPart
from planner.shards import Shard
from python_backend.dispatcher import factory
from python_backend.dispatcher.entries import shard_owner
from python_backend.dispatcher.entries.shard_owner import ShardOwner
from python_backend.dispatcher.entries.this_entry import ENTRY_VARIABLE
from python_backend.dispatcher.tables.making import PartsMaker
from python_backend.dispatcher.tables.served_table import ServedTable
from python_backend.dispatcher.tables.taking_over import TableFailed
from python_backend.leases.file_store import FileStore
from python_backend.leases.keeper import LeaseKeeper
from python_backend.leases.opening import FOLDER_VARIABLE
from python_backend.wire.null_transport import NullTransport
from python_backend.wire.shm.layout import MemoryLayout
from tests.dispatcher.test_passing import two_entries
from tests.waiting import wait_for

SHARDS = (Shard(("a",), 250.0, (((0,), (0,)),)), Shard(("a",), 250.0, (((1,), (1,)),)))


class Serving:
    """Makes tables as it is told to, and the driver that takes them."""

    def __init__(self) -> None:
        self.served: list[set[str]] = []
        self.numbers: list[int] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.began = threading.Event()
        self.fails = 0
        self.tidied: list[bool] = []
        self.table = SimpleNamespace(number=0)
        self.failed_table: TableFailed | None = None

    def serve(self, number: int, manifest: DeploymentManifest, entry: ModelEntry, part: OwnedPart) -> None:
        self.began.set()
        assert self.may_go.wait(60)
        if self.fails:
            self.fails -= 1
            raise OSError("no connections left")
        self.numbers.append(number)
        self.served.append({fence.shard for fence in part.fences.values()})


@pytest.fixture
def deployment() -> DeploymentManifest:
    return two_entries()


@pytest.fixture
def serving() -> Serving:
    return Serving()


@pytest.fixture
def owner(
    serving: Serving,
    deployment: DeploymentManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ShardOwner]:
    monkeypatch.setattr(shard_owner, "_AGAIN_S", 0.01)
    entry = replace(deployment.models[0], shards=SHARDS)
    passing: Any = SimpleNamespace(serves=lambda *_: None, owns=lambda *_: None)
    made = ShardOwner(
        0,
        deployment,
        entry,
        serving.serve,
        lambda worker: None,
        lambda: True,
        passing,
        serving,
        serving.tidied.append,
        tmp_path,
        lambda text: None,
    )
    yield made
    serving.may_go.set()
    made.close()


def test_leases_are_renewed_while_a_table_is_made(
    serving: Serving, owner: ShardOwner, tmp_path: Path
) -> None:
    serving.may_go.clear()
    owner.start()
    assert serving.began.wait(60)
    store = FileStore(tmp_path, lock_s=5.0)
    wait_for(lambda: all(store.look("d/tiny/")[f"d/tiny/{shard}"].beat >= 3 for shard in "01"))
    assert owner.owned == {}
    serving.may_go.set()
    wait_for(lambda: set(owner.owned) == {"0", "1"})


def test_of_changes_that_came_meanwhile_the_last_is_served(serving: Serving, owner: ShardOwner) -> None:
    owner._thread.start()
    serving.may_go.clear()
    owner.owns({"0": 1})
    assert serving.began.wait(60)
    for changed in ({}, {"0": 2}, {"0": 2, "1": 1}):
        owner.owns(changed)
    serving.may_go.set()
    wait_for(lambda: owner.owned == {"0": 2, "1": 1})
    assert serving.served == [{"0"}, {"0", "1"}]


def test_a_table_that_could_not_be_made_or_taken_is_tried_again(serving: Serving, owner: ShardOwner) -> None:
    serving.fails = 2
    owner._thread.start()
    owner.owns({"0": 1})
    wait_for(lambda: owner.owned == {"0": 1})
    assert serving.served == [{"0"}]
    serving.failed_table = TableFailed(0, "its core cannot take over")
    wait_for(lambda: serving.served == [{"0"}, {"0"}])
    assert serving.tidied.count(True) == 1


def test_after_a_hand_over_that_was_not_taken_the_table_before_is_served_on(
    serving: Serving,
    owner: ShardOwner,
    deployment: DeploymentManifest,
) -> None:
    owner._thread.start()
    owner.take(1, deployment, replace(deployment.models[0], shards=SHARDS))
    serving.failed_table = TableFailed(1, "its core cannot take over")
    wait_for(lambda: serving.numbers == [1, 0])
    owner.owns({"0": 1})
    wait_for(lambda: serving.numbers == [1, 0, 0])


class Noted:
    """A transport that says when it is closed."""

    def __init__(self, transport: NullTransport) -> None:
        self._transport, self.closed = transport, threading.Event()

    def begin(self, *sent: Any) -> Any:
        return self._transport.begin(*sent)

    def infer(self, *sent: Any) -> Any:
        return self._transport.infer(*sent)

    def close(self) -> None:
        self._transport.close()
        self.closed.set()


def test_no_table_that_is_over_is_left_and_no_two_send_through_one_file(
    tmp_path: Path,
    deployment: DeploymentManifest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With workers on this host and no folder of tables that are handed over."""
    monkeypatch.setenv(ENTRY_VARIABLE, "a")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(LeaseKeeper, "start", lambda keeper: None)  # the test itself says what is owned
    monkeypatch.setattr(factory, "_OWNER_S", 0.0)
    names: list[str] = []
    make = PartsMaker._ways

    def noting(maker: PartsMaker, *arguments: Any) -> tuple[Any, Noted]:
        names.extend(argument.name for argument in arguments if isinstance(argument, MemoryLayout))
        prober, transport = make(maker, *arguments)
        return prober, Noted(transport)  # type: ignore[arg-type]

    monkeypatch.setattr(PartsMaker, "_ways", noting)
    tables: list[ServedTable] = []
    manifest = replace(deployment, models=(replace(deployment.models[0], shards=SHARDS),))
    with_shards = factory.make_dispatcher(manifest, manifest.models[0], {"transport": "null"}, lambda _: None)
    try:
        shards, driver = with_shards.shards, with_shards.driver
        assert shards is not None
        tables.append(driver.table)
        for owned in ({"0": 7, "1": 7}, {"0": 7}, {"0": 7, "1": 8}, {}, {"0": 9, "1": 9}):
            shards.owns(owned)
            wait_for(lambda owned=owned: shards.owned == owned and driver.table is not tables[-1])
            tables.append(driver.table)
        assert len(set(names)) == len(names) >= len(tables)
        for table in tables[:-1]:
            wait_for(table.hops.transport.closed.is_set)
        assert not tables[-1].hops.transport.closed.is_set()
    finally:
        with_shards.close()


def test_an_entry_that_reaches_no_worker_says_so_once(
    owner: ShardOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    owner._log = said.append
    monkeypatch.setattr(shard_owner, "_ALONE_S", -1.0)
    assert [owner._ready(lambda: False) for _ in range(4)] == [False] * 4
    assert owner._ready(lambda: True)
    assert [line.partition(": this")[0] for line in said] == ["tiny", "tiny: workers answer again"]
    assert "reaches none of the model's workers: it takes no shard, and passes frames on" in said[0]
    assert owner._ready(lambda: True)
    assert len(said) == 2
