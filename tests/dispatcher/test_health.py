"""Which workers are out, from what hops and probes say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from planner.manifest import ServerAddress
from python_backend.dispatcher.health import Health, HealthSettings
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.transport import Target
from tests.waiting import wait_for

SERVERS = {"a0": "a", "a1": "a", "b0": "b"}


class Prober:
    """Answers for the workers that live."""

    def __init__(self, *alive: str) -> None:
        self.alive = set(alive)
        self.asked: list[str] = []

    def probe(self, worker: str, timeout_s: float) -> None:
        self.asked.append(worker)
        if worker not in self.alive:
            raise HopFailure(FailureKind.DEAD_STUB, 0, worker, "no")


def target(name: str) -> Target:
    server = ServerAddress(SERVERS[name], SERVERS[name], "127.0.0.1", 1, 2, 3, "r")
    return Target(name, server, (), same_host=True)


@contextmanager
def watched(prober: Prober, **settings: int) -> Iterator[tuple[Health, list[str], list[str]]]:
    """Health with what it told of: lost and back."""
    lost: list[str] = []
    back: list[str] = []
    settings = {"idle_probe_us": 1 << 60, "lost_probe_us": 20_000, **settings}
    targets = {name: target(name) for name in SERVERS}
    health = Health(
        targets,
        prober,
        lambda worker, _: lost.append(worker),
        lambda worker, _: back.append(worker),
        lambda text: None,
        HealthSettings(**settings),
    )
    health.start()
    try:
        yield health, lost, back
    finally:
        health.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("health", "probe"))]


def failure(kind: FailureKind, worker: str = "a0") -> HopFailure:
    return HopFailure(kind, 0, worker, "text")


def long_unheard(health: Health) -> None:
    for worker in health._workers.values():
        worker.seen_us -= 10_000_000


def test_a_broken_connection_takes_its_server_out_and_probes_bring_it_back() -> None:
    prober = Prober()
    with watched(prober) as (health, lost, back):
        health.failed(failure(FailureKind.UNREACHABLE))
        assert sorted(lost) == ["a0", "a1"]
        prober.alive |= {"a0", "a1"}
        wait_for(lambda: sorted(back) == ["a0", "a1"])
        assert health.lost_workers() == []


def test_a_time_out_blames_only_who_has_not_been_heard_of() -> None:
    with watched(Prober()) as (health, lost, _):
        long_unheard(health)
        health.seen("a1")
        health.failed(failure(FailureKind.TIMED_OUT))
        assert lost == ["a0"]


def test_a_worker_heard_of_a_moment_ago_survives_an_old_time_out() -> None:
    with watched(Prober()) as (health, lost, _):
        long_unheard(health)
        health.seen("a0")
        health.failed(failure(FailureKind.TIMED_OUT))
        assert lost == []


def test_a_silent_worker_alone_is_out_and_is_asked_at_once() -> None:
    prober = Prober("a0")
    with watched(prober, tick_us=60_000_000) as (health, lost, back):
        health.failed(failure(FailureKind.OVERDUE))
        assert lost == ["a0"]
        wait_for(lambda: back == ["a0"])


def test_failures_of_requests_blame_nobody() -> None:
    with watched(Prober()) as (health, lost, _):
        for kind in (FailureKind.REFUSED, FailureKind.EXPIRED, FailureKind.COMPUTE):
            health.failed(failure(kind))
        assert lost == []


def test_what_became_true_later_has_the_higher_number_whenever_it_is_told() -> None:
    """A worker is back before it was told that it is lost."""
    prober, told = Prober("a1", "b0"), list[tuple[str, int]]()

    def lost(worker: str, number: int) -> None:
        prober.alive.add(worker)
        wait_for(lambda: "back" in dict(told) or len(told) == 2)
        told.append(("lost", number))

    def back(worker: str, number: int) -> None:
        told.append(("back", number))

    settings = HealthSettings(idle_probe_us=1 << 60, lost_probe_us=20_000)
    targets = {name: target(name) for name in SERVERS}
    health = Health(targets, prober, lost, back, lambda text: None, settings)
    health.start()
    try:
        health.failed(failure(FailureKind.DEAD_STUB))
        health.tell_lost()
    finally:
        health.close()
    assert told == [("back", 2), ("lost", 1)], "who is told ignores the second"
    assert health.lost_workers() == []


def test_a_question_that_ends_with_the_connections_of_an_older_table_blames_nobody() -> None:
    asked, closed = threading.Event(), threading.Event()

    class Closed(Prober):
        def probe(self, worker: str, timeout_s: float) -> None:
            asked.set()
            closed.wait(5)
            raise failure(FailureKind.TIMED_OUT, worker)

    with watched(Closed(), idle_probe_us=0) as (health, lost, _):
        assert asked.wait(5)
        long_unheard(health)
        health.look_after({name: target(name) for name in SERVERS}, Prober(*SERVERS))
        closed.set()
        wait_for(lambda: all(not worker.asking for worker in health._workers.values()))
        assert lost == []


def test_workers_of_other_entries_are_asked_rarely_and_at_once_when_they_are_ours() -> None:
    prober = Prober(*SERVERS)
    with watched(prober, idle_probe_us=1, others_probe_us=1 << 60, tick_us=1_000) as (health, _, _):
        health.leave_to_others({"b0"})
        wait_for(lambda: prober.asked.count("a0") >= 3)
        asked = prober.asked.count("b0")
        wait_for(lambda: prober.asked.count("a0") >= 13)
        assert prober.asked.count("b0") - asked <= 1, "one may have been under way"
        health.leave_to_others({"a0"})
        wait_for(lambda: prober.asked.count("b0") > asked + 1)
