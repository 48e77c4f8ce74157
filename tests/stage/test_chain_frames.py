"""A chain whose first stage finds its frames in shared memory: the later stages get tensors from Triton."""

from __future__ import annotations

import numpy as np

from model_repo_generator.places import place_of
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.stage.worker import StageWorker
from python_backend.wire import ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.ticket_codec import SharedFrames, WireTicket
from tests.dispatcher.test_driver import manifest
from tests.stage.test_handover import KEYS, WORKERS, Doubler
from tests.stage.test_stage_worker import NextStage, Reply


def test_a_later_stage_does_not_look_for_what_the_first_one_has_read() -> None:
    place = place_of(manifest(), WORKERS[1])
    worker = StageWorker(place, Doubler(), NextStage(), KEYS, notify=lambda *notice: None, log=print)
    hops = tuple(tensor_hop(name, 0, 0, 0, 2_000) for name in WORKERS)
    ticket = plain_ticket(0, 0, 0, now_us() + 10_000_000, hops)
    frames = SharedFrames("a_file", 1, 0, 1)
    reply = Reply()
    text = ticket_codec.encode(WireTicket("d", 1, 0, ticket, frames=frames, chain="chain"), KEYS)
    worker.submit(text, [np.array([[4]], np.int64)], reply)
    answer = reply.wait()
    worker.close()
    assert answer == {"y": [8]}
