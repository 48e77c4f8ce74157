"""A batch through shared memory: who has which range, what the stage makes of a ticket that names a place,
and what the sender does when the stage cannot read it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
)
from model_repo_generator.places import place_of
from planner.manifest import DeploymentManifest
from planner.places import StageBlocks
from planner.profile import TensorSpec
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.stage.worker import StageWorker
from python_backend.wire import ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.shm.arena import Arena, padded_size
from python_backend.wire.shm.file import SHM, ArenaError, Share, SharedFile, prefix
from python_backend.wire.shm.layout import SMALLEST_BYTES, layout_of_entry, layout_of_worker, sizes_of_server
from python_backend.wire.shm.reader import CannotRead, SharedReader
from python_backend.wire.shm.transport import ShmTransport
from python_backend.wire.signing.keys import Keys, TicketError
from python_backend.wire.ticket_codec import SharedFrames, WireTicket
from python_backend.wire.transport import Awaited, targets_of
from tests.stage.test_stage_worker import Doubler, NextStage, Reply

FLOATS = 40_000
WORKER = "m.p0.s0.w0"
SIZE = padded_size([4 * FLOATS])


def manifest(last_floats: int = FLOATS) -> DeploymentManifest:
    """Two models of two stages, on two servers of one host."""
    models = [
        EmulatedModel(
            name=name,
            slo_us=1_000_000,
            planned_rps=10,
            input=TensorSpec("x", "FP32", (FLOATS,)),
            pipelines=(
                EmulatedPipeline(
                    2,
                    (
                        EmulatedStage(
                            (2_000, 3_000), ("a", "b"), (TensorSpec("cut", "FP32", (last_floats,)),)
                        ),
                        EmulatedStage((2_000, 3_000), ("b", "b"), (TensorSpec("y", "FP32", (4,)),)),
                    ),
                ),
            ),
        )
        for name in ("m", "n")
    ]
    return build_manifest(models, 20_000, "d")


def test_every_dispatcher_has_its_own_range_of_the_entrys_file() -> None:
    layout = layout_of_entry(manifest())
    assert set(layout.shares) == {"m", "n"}
    ranges = sorted((share.offset, share.end) for share in layout.shares.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
    assert (ranges[0][0], ranges[-1][1]) == (0, layout.size)
    assert all(share.size >= 3 * padded_size([2 * 4 * FLOATS]) for share in layout.shares.values())
    assert layout_of_entry(manifest(), table=3).name != layout.name, "two tables are in use for a while"


def test_a_worker_has_a_file_of_its_own_for_batches_of_its_largest_size() -> None:
    made = manifest()
    program = made.models[0].programs[0][0]
    layout = layout_of_worker(WORKER, program)
    assert (layout.name, set(layout.shares)) == (f"hops_{WORKER}", {WORKER})
    assert layout.size >= 8 * padded_size([2 * 4 * FLOATS])
    assert sizes_of_server(made, "a") == 2 * layout.size, "one worker of each model"
    assert sizes_of_server(made, "entry") == layout_of_entry(made).size


def test_small_tensors_need_no_range() -> None:
    floats = SMALLEST_BYTES // 8 - 1
    for more, there in ((0, False), (1, True)):
        made = manifest(floats + more)
        assert bool(layout_of_worker(WORKER, made.models[0].programs[0][0]).size) is there


@pytest.fixture
def arena() -> Iterator[Arena]:
    layout = layout_of_entry(manifest())
    share = layout.shares["m"]
    arena = Arena(SharedFile(layout.name, layout.size, share), share)
    yield arena
    arena.close()


@pytest.fixture
def stage() -> Iterator[StageWorker]:
    place = replace(place_of(manifest(), WORKER), blocks=StageBlocks("", 0, 1, 1))
    worker = StageWorker(
        place=place,
        executor=Doubler(),
        transport=NextStage(),
        keys=Keys.none(),
        notify=lambda *notice: None,
        log=print,
    )
    yield worker
    worker.close()


def wire(frames: SharedFrames | None = None) -> WireTicket:
    hops = (tensor_hop(WORKER, 0, 0, 0, 2_000),)
    ticket = plain_ticket(0, 0, 0, now_us() + 10_000_000, hops)
    return WireTicket("d", 1, hop=0, ticket=ticket, frames=frames)


def put(arena: Arena, number: int) -> SharedFrames:
    place = arena.take(padded_size([4 * FLOATS]))
    assert place is not None
    arena.write(place, [[np.full(FLOATS, number, np.float32).tobytes()]])
    return SharedFrames(arena.file.name, arena.file.inode, place.offset, place.generation)


def send(stage: StageWorker, frames: SharedFrames, batch: int = 1) -> Any:
    reply = Reply()
    stage.submit(ticket_codec.encode(wire(frames), Keys.none()), [], reply, shared=batch)
    return reply.wait()


def test_a_stage_computes_on_what_lies_in_the_arena(arena: Arena, stage: StageWorker) -> None:
    assert send(stage, put(arena, 3)) == {"cut": [6.0] * FLOATS}
    assert send(stage, put(arena, 4)) == {"cut": [8.0] * FLOATS}


def test_a_stage_says_when_it_cannot_read(arena: Arena, stage: StageWorker) -> None:
    frames = put(arena, 3)
    inode, offset, generation = frames.inode, frames.offset, frames.generation
    elsewhere = send(stage, SharedFrames("ppipe_of_another_host", inode, offset, generation))
    assert elsewhere.kind is FailureKind.NO_MEMORY
    assert send(stage, frames, batch=100_000).kind is FailureKind.NO_MEMORY
    assert send(stage, SharedFrames(frames.name, inode, offset, 1)).kind is FailureKind.EXPIRED


def test_a_ticket_carries_the_place_to_one_hop_only() -> None:
    frames = SharedFrames("ppipe_x", 7, 8_192, 99)
    decoded = ticket_codec.decode(ticket_codec.encode(wire(frames), Keys.none()), Keys.none(), now_us())
    assert decoded.frames == frames
    two_hops = decoded.at_hop(0, plain_ticket(0, 0, 0, 9, (tensor_hop(WORKER, 0, 0, 0, 1),) * 2))
    assert two_hops.for_next_hop().frames is None
    text = ticket_codec.encode(wire(frames), Keys.none()).replace("8192", '"8192"')
    with pytest.raises(TicketError, match="not a whole number"):
        ticket_codec.decode(text, Keys.none(), now_us())


class Near:
    """Stands for the way of messages: fails as told, keeps what it was given."""

    def __init__(self, failure: HopFailure | None, open: bool = True) -> None:
        self.failure = failure
        self.open = open
        self.shared: list[SharedFrames | None] = []
        self.bodies = 0

    def send(self, wire: WireTicket, specs: Any, tensors: Any, batch: int, timeout_s: float) -> Any:
        self.shared.append(wire.frames)
        if self.failure is not None:
            raise self.failure
        return {}

    def begin_send(
        self, wire: WireTicket, specs: Any, tensors: Any, batch: int, timeout_s: float
    ) -> Awaited | None:
        return (lambda: self.send(wire, specs, tensors, batch, timeout_s)) if self.open else None

    def infer(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Any:
        self.bodies += 1
        return {}

    def close(self) -> None:
        pass


def hop(arena: Arena, near: Near) -> ShmTransport:
    deployment = manifest()
    targets = targets_of(deployment, deployment.models[0], deployment.entry.host)
    return ShmTransport(near, targets, arena)  # type: ignore[arg-type]


def infer(transport: ShmTransport) -> None:
    transport.infer(wire(), [[bytes(4 * FLOATS)]], 1, 1.0)


def test_a_receiver_that_cannot_read_gets_bodies_for_a_while(arena: Arena) -> None:
    near = Near(HopFailure(FailureKind.NO_MEMORY, 0, WORKER, "no such file"))
    transport = hop(arena, near)
    infer(transport)
    infer(transport)
    assert (len(near.shared), near.bodies) == (1, 2)
    assert arena.quarantined == 0


def test_a_place_is_free_after_every_end_but_a_time_out(arena: Arena) -> None:
    free = arena.free
    for kind in (None, FailureKind.EXPIRED, FailureKind.COMPUTE, FailureKind.UNREACHABLE):
        near = Near(None if kind is None else HopFailure(kind, 0, WORKER, ""))
        transport = hop(arena, near)
        if kind is None:
            infer(transport)
        else:
            with pytest.raises(HopFailure):
                infer(transport)
        assert (arena.free, arena.quarantined) == (free, 0), kind
    with pytest.raises(HopFailure):
        infer(hop(arena, Near(HopFailure(FailureKind.TIMED_OUT, 0, WORKER, ""))))
    assert (arena.free, arena.quarantined) == (free - SIZE, SIZE)
    infer(hop(arena, Near(None)))
    assert (arena.free, arena.quarantined) == (free, 0), "it has answered a later one"


@pytest.mark.parametrize("open", [True, False])
def test_what_was_begun_leaves_its_place_as_infer_does(arena: Arena, open: bool) -> None:
    free = arena.free
    for failure in (None, FailureKind.COMPUTE, FailureKind.NO_MEMORY):
        near = Near(None if failure is None else HopFailure(failure, 0, WORKER, ""), open)
        awaited = hop(arena, near).begin(wire(), [[bytes(4 * FLOATS)]], 1, 1.0)
        assert awaited is not None
        assert arena.free == free - SIZE
        if failure is FailureKind.COMPUTE:
            with pytest.raises(HopFailure):
                awaited()
        else:
            awaited()
        assert (arena.free, near.bodies) == (free, failure is FailureKind.NO_MEMORY)


def test_an_error_outside_of_all_rules_keeps_no_place_for_ever(arena: Arena) -> None:
    class Broken(Near):
        def send(self, *_: Any) -> Any:
            raise ValueError("no idea whether it was sent")

        def begin_send(self, *_: Any) -> Any:
            raise KeyError("nothing was sent")

    free = arena.free
    transport = hop(arena, Broken(None))
    with pytest.raises(KeyError):
        transport.begin(wire(), [[bytes(4 * FLOATS)]], 1, 1.0)
    assert (arena.free, arena.quarantined) == (free, 0)
    with pytest.raises(ValueError, match="no idea"):
        infer(transport)
    assert (arena.free, arena.quarantined) == (free - SIZE, SIZE)
    infer(hop(arena, Near(None)))
    assert (arena.free, arena.quarantined) == (free, 0)
    with pytest.raises(TypeError):
        transport.infer(wire(), [[memoryview(np.zeros(FLOATS)), 3]], 1, 1.0)  # type: ignore[list-item]
    assert (arena.free, arena.quarantined) == (free, 0)


def test_begin_copies_no_large_batch(arena: Arena) -> None:
    free, near = arena.free, Near(None)
    assert hop(arena, near).begin(wire(), [[bytes(2 << 20)]], 1, 1.0) is None
    assert (arena.free, near.shared) == (free, [])


def test_batches_beyond_the_arena_go_as_bodies(arena: Arena) -> None:
    near = Near(None)
    while arena.take(SIZE) is not None:
        pass
    infer(hop(arena, near))
    assert (near.shared, near.bodies) == ([], 1)


@pytest.mark.parametrize("made_by", ["another user", "a user who lets others write"])
def test_a_file_that_somebody_made_beforehand_is_neither_written_nor_read(
    monkeypatch: pytest.MonkeyPatch, made_by: str
) -> None:
    monkeypatch.setenv("PPIPE_SHM_PREFIX", f"ppipe_test_{os.getpid()}_")
    path = SHM / f"{prefix()}beforehand"
    path.touch(0o600)
    try:
        if made_by == "another user":
            if os.geteuid():
                pytest.skip("only root can give a file away")
            os.chown(path, 65534, -1)
        else:
            path.chmod(0o666)
        with pytest.raises((ArenaError, PermissionError)):
            SharedFile("beforehand", 8_192, Share(0, 4_096))
        with pytest.raises(CannotRead, match="not a file of this user"):
            SharedReader().pieces(SharedFrames(path.name, path.stat().st_ino, 0, 1), [8])
        assert path.stat().st_size == 0
    finally:
        path.unlink()
