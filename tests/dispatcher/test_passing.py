"""Dispatchers of two entries in one process, with leases in a file: who owns what, which frames go to the
other one, and what becomes of them when it ends. The server in front of each is a small one of gRPC's;
workers answer at once.
"""

from __future__ import annotations

import fcntl
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from model_repo_generator.emulated import build_manifest
from planner.manifest import DeploymentManifest, EntryPorts
from planner.owned import HOP_US, owned_part
from planner.shards import Shard
from planner.streams import StreamPolicy
from ppipe.serving.ports import free_base
from python_backend.dispatcher.entries.passing import PassingOn
from python_backend.dispatcher.entries.this_entry import ENTRY_VARIABLE
from python_backend.dispatcher.factory import Dispatcher, make_dispatcher
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.wiring import Wiring
from python_backend.leases.opening import FOLDER_VARIABLE
from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.core import SchedulerCore
from python_backend.wire import forwarded
from python_backend.wire.clock import now_us
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.null_transport import NullTransport
from python_backend.wire.peer_words import Word
from python_backend.wire.self_report import Reports
from python_backend.wire.signing.keys import Keys, TicketError, wall_us
from tests.live.data_plane_client import OUTPUT, two_stage_model
from tests.waiting import wait_for

SHARDS = (
    Shard(("a", "b"), 250.0, (((0,), (0,)),)),
    Shard(("b", "a"), 250.0, (((1,), (1,)),)),
)
ONE_SHARD = (Shard(("b", "a"), 500.0, (((0, 1), (0, 1)),)),)
"""Of a model whose workers entry b owns alone."""
of_one_shard = pytest.mark.parametrize("deployment", [ONE_SHARD], indirect=True, ids=["one shard"])
PATIENT_US = 20_000_000
PATIENCE_S = 30.0


class Caller:
    """Who sent a frame, and what he is answered."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.answered = threading.Event()

    def outputs(self, outputs: Mapping[str, Any]) -> None:
        self.answers.append(dict(outputs))
        self.answered.set()

    def error(self, code: ErrorCode, text: str) -> None:
        self.answers.append((code, text))
        self.answered.set()

    def wait(self) -> Any:
        assert self.answered.wait(PATIENCE_S)
        (answer,) = self.answers
        return answer


class Front(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Takes calls of one entry's public model, as its tritonserver does."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.texts: list[str] = []
        self._numbers = iter(range(1_000_000, 2_000_000))

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        text = request.parameters[forwarded.PARAMETER].string_param
        self.texts.append(text)
        mark = self.dispatcher.forwarded(text)
        caller = Caller()
        data = memoryview(request.raw_input_contents[0])
        frame = frame_of(next(self._numbers), caller, mark.left_us, data=data, stays=True)
        self.dispatcher.driver.arrive([frame])
        answer = caller.wait()
        if isinstance(answer, tuple):
            context.abort(grpc.StatusCode.UNAVAILABLE, answer[1])
        response = pb.ModelInferResponse()
        for name, array in answer.items():
            response.outputs.add(name=name, datatype="FP32", shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response


def frame_of(number: int, caller: Caller, time_us: int = PATIENT_US, **changes: Any) -> Frame:
    fields: dict[str, Any] = {"data": memoryview(np.zeros(1_000, np.float32).tobytes())}
    arrived_us = now_us()
    return Frame(
        request_id=number,
        arrived_us=arrived_us,
        deadline_us=arrived_us + time_us,
        send_outputs=caller.outputs,
        send_error=caller.error,
        **(fields | changes),
    )


class Entry:
    """A dispatcher on one entry, and what is in front of it."""

    def __init__(self, manifest: DeploymentManifest, name: str, folder: Path, log: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ENTRY_VARIABLE, name)
            patch.setenv(FOLDER_VARIABLE, str(folder))
            self.dispatcher = make_dispatcher(manifest, manifest.models[0], {"transport": "null"}, log.append)
        # There are no servers to ask for a sign of life.
        self.dispatcher.health.close()
        self.dispatcher.health.keep(())
        for _, worker in manifest.models[0].served.workers():
            self.dispatcher.driver.worker_back(worker.name)
        self.front = Front(self.dispatcher)
        self.server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.front, self.server)
        self.server.add_insecure_port(manifest.server(name).grpc_address)
        self.server.start()
        self._numbers = iter(range(1_000_000))
        self.log = log

    @property
    def owned(self) -> Mapping[str, int]:
        assert self.dispatcher.shards is not None
        return self.dispatcher.shards.owned

    @property
    def passed(self) -> int:
        assert self.dispatcher.passing is not None
        return sum(self.dispatcher.passing.counts.sent.values())

    def send(self, **changes: Any) -> Caller:
        caller = Caller()
        self.dispatcher.driver.arrive([frame_of(next(self._numbers), caller, **changes)])
        return caller

    def end(self) -> None:
        self.server.stop(0).wait()
        self.dispatcher.close()


def two_entries(
    shards: tuple[Shard, ...] = SHARDS, streams: StreamPolicy | None = None
) -> DeploymentManifest:
    made = build_manifest([two_stage_model(streams=streams)], free_base(31_000, 40), "d")
    spare = made.models[0].feedback_port + 30
    address = replace(made.entry, name="b", grpc_port=spare + 1)
    return replace(
        made,
        entry=replace(made.entry, name="a"),
        models=(replace(made.models[0], shards=shards),),
        more_entries=(EntryPorts(address, {"tiny": spare}),),
        unsigned_tickets=True,
    )


@pytest.fixture
def deployment(request: pytest.FixtureRequest) -> DeploymentManifest:
    wanted = getattr(request, "param", SHARDS)
    return two_entries(streams=wanted) if isinstance(wanted, StreamPolicy) else two_entries(wanted)


Start = Callable[[str], Entry]


@pytest.fixture
def start(deployment: DeploymentManifest, tmp_path: Path) -> Iterator[Start]:
    started: list[Entry] = []

    def begin(name: str) -> Entry:
        started.append(Entry(deployment, name, tmp_path / "leases", log=[]))
        return started[-1]

    yield begin
    for entry in started:
        entry.end()


@contextmanager
def both(start: Start) -> Iterator[tuple[Entry, Entry]]:
    a, b = start("a"), start("b")
    wait_for(lambda: (set(a.owned), set(b.owned)) == ({"0"}, {"1"}))
    yield a, b


def test_each_owns_its_shard_and_serves_its_own_frames(start: Start) -> None:
    with both(start) as (a, b):
        for entry in (a, b):
            assert set(entry.send().wait()) == {OUTPUT[0].name}
        assert a.passed == b.passed == 0
        workers = [worker.name for _, worker in a.dispatcher.driver.table.entry.served.workers()]
        assert workers == ["tiny.p0.s0.w0", "tiny.p0.s1.w0"]


def test_who_ends_is_stood_in_for_and_gets_its_shard_back(start: Start) -> None:
    with both(start) as (a, b):
        first_term = b.owned["1"]
        b.end()
        wait_for(lambda: set(a.owned) == {"0", "1"})
        assert a.owned["1"] > first_term
        assert set(a.send().wait()) == {OUTPUT[0].name}
        again = start("b")
        wait_for(lambda: (set(a.owned), set(again.owned)) == ({"0"}, {"1"}))
        assert again.owned["1"] > first_term + 1


def test_frames_that_come_where_nothing_is_owned_go_to_an_owner(start: Start) -> None:
    a = start("a")
    wait_for(lambda: set(a.owned) == {"0", "1"})  # nobody else is there
    b = start("b")
    assert b.dispatcher.passing is not None
    if not b.owned:
        wait_for(lambda: b.passed == 1 or bool(b.owned) or not b.send().wait())
    wait_for(lambda: set(b.owned) == {"1"})
    # A newer owner is told by its own worker: b gives up its shard before it looks at the store.
    assert b.dispatcher.shards is not None
    seen = b.owned["1"] + 100
    b.dispatcher.shards.failed(HopFailure(FailureKind.FENCED, 0, "tiny.p0.s0.w1", f"owner has term {seen}"))
    wait_for(lambda: b.owned.get("1", seen) >= seen)


def test_a_frame_is_passed_on_once_and_its_answer_comes_back(start: Start) -> None:
    with both(start) as (a, b):
        passing, driver = b.dispatcher.passing, b.dispatcher.driver
        assert passing is not None
        caller = Caller()
        frame = frame_of(77, caller)
        assert a.dispatcher.passing is not None
        taken = a.dispatcher.passing.counts.taken
        driver._frames.add([frame])  # as if it had just been given up
        wait_for(lambda: "a" in passing._way.peers)
        assert passing.rescue(frame, DropReason.OVERLOAD, now_us())
        assert not passing.rescue(frame, DropReason.OVERLOAD, now_us())
        assert set(caller.wait()) == {OUTPUT[0].name}
        assert a.dispatcher.passing.counts.taken == taken + 1
        (text,) = a.front.texts
        with pytest.raises(TicketError, match="to is 'a'; this is 'b'"):
            passing.read(text)


@pytest.mark.parametrize("deployment", [StreamPolicy(order="stream", keep="newest")], indirect=True)
def test_a_stream_is_served_at_its_home_wherever_its_frames_come(start: Start) -> None:
    with both(start) as (a, b):
        for one, other in ((a, "b"), (b, "a")):
            wait_for(lambda one=one, other=other: other in one.dispatcher.passing._way.peers)  # type: ignore[misc]
        streams = [f"camera {number}" for number in range(12)]
        for place, entry in enumerate((a, b, a, b)):
            callers = [entry.send(stream=stream, place=place) for stream in streams]
            assert all(set(caller.wait()) == {OUTPUT[0].name} for caller in callers)
        # Each entry keeps the streams whose home it is, and passes all frames of the others on.
        assert a.passed % 2 == b.passed % 2 == 0
        assert 0 < a.passed < 2 * len(streams)
        assert a.passed + b.passed == 2 * len(streams)
        # When one ends, its streams are served by the other.
        b.end()
        wait_for(lambda: set(a.owned) == {"0", "1"})
        passed = a.passed
        callers = [a.send(stream=stream, place=9) for stream in streams]
        assert all(set(caller.wait()) == {OUTPUT[0].name} for caller in callers)
        assert a.passed == passed


@contextmanager
def owned_by_b(start: Start) -> Iterator[tuple[Entry, Entry]]:
    b, a = start("b"), start("a")
    wait_for(lambda: set(b.owned) == {"0"})
    wait_for(lambda: "b" in a.dispatcher.passing._way.peers)  # type: ignore[union-attr]
    yield a, b


@of_one_shard
def test_no_frame_is_lost_while_a_shard_is_adopted_and_given_back(start: Start) -> None:
    with owned_by_b(start) as (a, b):
        senders, sent, ended = [a], [], threading.Event()

        def send() -> None:
            while not ended.wait(0.003):
                sent.extend(entry.send() for entry in senders)

        thread = threading.Thread(target=send)
        thread.start()
        b.end()
        wait_for(lambda: set(a.owned) == {"0"})
        again = start("b")
        senders.append(again)
        wait_for(lambda: (set(a.owned), set(again.owned)) == (set(), {"0"}))
        enough = len(sent) + 50
        wait_for(lambda: len(sent) > enough)
        ended.set()
        thread.join()
        answers = [caller.wait() for caller in sent]
        assert [answer for answer in answers if not isinstance(answer, dict)] == []
        assert a.passed > 0


@of_one_shard
def test_a_frame_waits_for_an_owner_as_long_as_that_helps(start: Start, tmp_path: Path) -> None:
    with owned_by_b(start) as (a, b), (tmp_path / "leases" / "leases.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody adopts
        assert a.dispatcher.passing is not None
        assert b.dispatcher.passing is not None
        b.dispatcher.passing.owns({}, 0.0)
        wait_for(lambda: a.dispatcher.passing._way.peers == {})  # type: ignore[union-attr]
        began_us = now_us()
        hasty, passed_on, patient = a.send(time_us=300_000), a.send(stays=True), a.send()
        assert "reason=no_owner" in passed_on.wait()[1], "who has passed it on looks for another"
        assert "reason=no_owner" in hasty.wait()[1]
        assert now_us() - began_us > 200_000
        assert not patient.answered.is_set()
        b.dispatcher.passing.owns(b.owned, 500.0)
        assert set(patient.wait()) == {OUTPUT[0].name}


@of_one_shard
def test_a_frame_that_another_entry_owns_no_more_waits_for_the_next(
    start: Start, deployment: DeploymentManifest
) -> None:
    with owned_by_b(start) as (a, b):

        def serve(owned: Mapping[str, int]) -> None:
            part, manifest = owned_part(deployment.models[0], owned), deployment.seen_from("b")
            core = SchedulerCore(part.entry.served)
            b.dispatcher.driver.hand_over(
                0, manifest, part.entry, core, NullTransport(part.entry.outputs), part.fences
            )

        serve({})  # b has said that it owns the shard, and schedules none of its workers
        caller = a.send()
        assert a.dispatcher.passing is not None
        counts = a.dispatcher.passing.counts
        wait_for(lambda: counts.came_back > 2)
        assert not caller.answered.is_set()
        serve(b.owned)
        assert set(caller.wait()) == {OUTPUT[0].name}


def test_while_the_leases_cannot_be_reached_owners_serve_on_and_nobody_adopts(
    start: Start, tmp_path: Path
) -> None:
    with both(start) as (a, b):
        terms = dict(a.owned), dict(b.owned)
        with (tmp_path / "leases" / "leases.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for entry in (a, b):
                wait_for(lambda said=entry.log: any("nothing is adopted" in line for line in said))  # type: ignore[misc]
                assert set(entry.send().wait()) == {OUTPUT[0].name}
            b.server.stop(0).wait()
            assert (dict(a.owned), dict(b.owned)) == terms
            assert set(a.send().wait()) == {OUTPUT[0].name}
        for entry in (a, b):
            wait_for(lambda said=entry.log: any("answers again" in line for line in said))  # type: ignore[misc]
        assert (dict(a.owned), dict(b.owned)) == terms


def test_an_entry_of_another_revision_or_with_other_keys_gets_nothing_and_is_told(
    start: Start, deployment: DeploymentManifest, tmp_path: Path
) -> None:
    with both(start) as (a, _):
        passing = a.dispatcher.passing
        assert passing is not None
        wait_for(lambda: "b" in passing._way.peers)
        other = PassingOn(
            replace(deployment, epoch=9).seen_from("b"), deployment.models[0], Keys.none(), a.log.append
        )
        other.owns({"1": 3}, 250.0)
        wait_for(lambda: any("entry b serves revision 9 and a revision 1" in line for line in a.log))
        assert passing.take(b"PPW1 not signed by us")
        assert any("has other ticket keys" in line for line in a.log)
        other.close()


def test_a_frame_whose_other_entry_is_gone_comes_back(start: Start) -> None:
    with both(start) as (a, b):
        assert b.dispatcher.passing is not None
        passing = b.dispatcher.passing
        wait_for(lambda: "a" in passing._way.peers)
        a.server.stop(0).wait()
        caller = Caller()
        frame = frame_of(78, caller)
        b.dispatcher.driver._frames.add([frame])
        assert passing.rescue(frame, DropReason.OVERLOAD, now_us())
        assert set(caller.wait()) == {OUTPUT[0].name}
        assert passing.counts.came_back == 1


@pytest.fixture
def passing(deployment: DeploymentManifest) -> Iterator[PassingOn]:
    """Of entry a, which tells nothing by itself."""
    made = PassingOn(deployment, deployment.models[0], Keys.none(), lambda text: None)
    yield made
    made.close()


def word_of(passing: PassingOn, number: int, **changes: Any) -> Word:
    fields: dict[str, Any] = {"backlog_us": 0, "rate_rps": 250.0, "owned": {"1": 1}}
    fields |= {"echo_us": 0, "held_us": 0, "sent_us": number, "began_us": 1, "said_us": wall_us()} | changes
    return Word("d", "tiny", "b", passing._revision, "run", number, **fields)


def test_the_shortest_of_its_last_round_trips_is_an_entrys_hop(passing: PassingOn) -> None:
    for number, rtt_us in enumerate((90_000, 2_000, 40_000)):
        passing._hear(word_of(passing, number, echo_us=1_000, held_us=500), 1_500 + rtt_us)
    assert passing._way.peers["b"].hop_us == HOP_US + 1_000
    for number in range(3, 20):
        passing._hear(word_of(passing, number, echo_us=1_000), 41_000)
    assert passing._way.peers["b"].hop_us == HOP_US + 20_000


def test_frames_are_passed_on_while_words_cannot_be_sent(
    passing: PassingOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_go = threading.Event(), threading.Event()
    looked_up = socket.getaddrinfo

    def stuck(*arguments: Any, **more: Any) -> Any:
        began.set()
        may_go.wait(PATIENCE_S)
        return looked_up(*arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    passing._peers["b"].sender._connected_until_s = 0.0
    telling = threading.Thread(target=passing.owns, args=({"0": 1}, 250.0))
    telling.start()
    assert began.wait(PATIENCE_S)
    assert passing._lock.acquire(timeout=PATIENCE_S)
    passing._lock.release()
    assert telling.is_alive()
    may_go.set()
    telling.join()


def test_who_waits_for_an_owner_is_woken_by_owners_alone(passing: PassingOn) -> None:
    passing._hear(word_of(passing, 1, owned={}), 1)
    assert not passing._heard_any.is_set()
    passing._hear(word_of(passing, 2), 2)
    assert passing._heard_any.is_set()


def test_a_frame_that_cannot_even_be_sent_comes_back(passing: PassingOn) -> None:
    back: list[Frame] = []
    passing._returns = SimpleNamespace(came_back=back.append, owner_heard=lambda: None)  # type: ignore[assignment]
    passing._hear(word_of(passing, 1), now_us())
    passing._onward._calls.clear()
    frame = frame_of(1, Caller())
    assert passing.rescue(frame, DropReason.OVERLOAD, now_us())
    assert back == [frame]
    assert "b" in passing._way.peers
    assert passing._way.target(-1, now_us()) == "b", "it is not to blame"
    frame.claim()


def test_words_of_long_ago_count_as_silence(passing: PassingOn) -> None:
    logged: list[str] = []
    passing._log = logged.append
    passing._hear(word_of(passing, 1, said_us=wall_us() - 11_000_000), now_us())
    assert passing._way.peers == {}
    assert "entry b sends words that are not of now" in logged[0]


def test_a_mark_is_good_once_and_of_a_priority_that_clients_may_have(passing: PassingOn) -> None:
    mark = Forwarded("d", "tiny", "b", "a", 1_000, priority=-8)
    text = forwarded.encode(mark, Keys.none())
    assert passing.read(text) == mark
    with pytest.raises(TicketError, match="ppipe_forwarded: ticket was used before"):
        passing.read(text)
    for priority in (1, -9, 1 << 40):
        with pytest.raises(TicketError, match=f"ppipe_forwarded: priority is {priority}; expected -8 to 0"):
            passing.read(forwarded.encode(replace(mark, priority=priority), Keys.none()))


def test_a_frame_whose_caller_has_gone_is_given_up_at_the_other_entry(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = start("a")
    passing, driver = entry.dispatcher.passing, entry.dispatcher.driver
    assert passing is not None
    given_up: list[Frame] = []
    monkeypatch.setattr(passing._onward, "send", lambda *sent: None)  # it is never answered there
    monkeypatch.setattr(passing._onward, "give_up", given_up.append)
    passing._hear(word_of(passing, 1), now_us())
    caller = Caller()
    frame = frame_of(99, caller)
    driver._frames.add([frame])
    assert passing.rescue(frame, DropReason.OVERLOAD, now_us())
    driver.cancel(frame)
    assert "reason=cancelled" in caller.wait()[1]
    wait_for(lambda: given_up == [frame])


def test_no_datagram_ends_the_thread_that_reads_them() -> None:
    def fail(datagram: bytes) -> bool:
        raise OverflowError("int too large to convert to float")

    logged: list[str] = []
    wiring = Wiring(Keys.none(), Reports(Keys.none()), "tiny", logged.append)
    wiring.passing = SimpleNamespace(take=fail)  # type: ignore[assignment]
    for _ in range(3):
        wiring.take(b"PPW1")
    assert logged == ["a datagram cannot be taken: OverflowError('int too large to convert to float')"]
