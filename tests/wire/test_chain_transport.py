"""Which batches go to a chain, and what their tickets say at each stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_repo_generator.emulated import EmulatedPipeline, EmulatedStage, build_manifest
from planner.frames import FrameSize
from planner.ingress import PrepareRecipe
from planner.manifest import Chain, ModelEntry
from planner.profile import TensorSpec
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.wire import ticket_codec
from python_backend.wire.chain_transport import ChainTransport
from python_backend.wire.signing.keys import Keys, TicketError
from python_backend.wire.ticket_codec import WireTicket, at_own_hop
from python_backend.wire.transport import Awaited, model_of
from tests.live.data_plane_client import OUTPUT, two_stage_model

KEYS = Keys.none()
CUT = (TensorSpec("cut", "FP32", (10_000,)),)
"""40 kB: one frame is small, two are not."""


class Calls:
    """In place of the transport that all batches go through: where each is to go."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def begin(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> Awaited | None:
        self.sent.append(model_of(wire))
        return None

    def infer(self, wire: WireTicket, tensors: Any, batch: int, timeout_s: float) -> dict[str, Any]:
        self.sent.append(model_of(wire))
        return {}

    def close(self) -> None:
        self.sent.append("closed")


def entry() -> ModelEntry:
    latency_us = (5_000,) * 4
    servers = ("one", "one")
    stages = (EmulatedStage(latency_us, servers, CUT), EmulatedStage(latency_us, servers, OUTPUT))
    model = two_stage_model(pipelines=(EmulatedPipeline(4, stages),))
    made = build_manifest([model], 20_000, "d").models[0]
    return replace(made, chains=(Chain("chain", 0, "one", ("tiny.p0.s0.w0", "tiny.p0.s1.w1")),))


def wire(first: int, second: int, **changes: Any) -> WireTicket:
    hops = (
        tensor_hop(f"tiny.p0.s0.w{first}", 0, 0, 1_000, 6_000),
        tensor_hop(f"tiny.p0.s1.w{second}", 6_000, 6_500, 6_500, 11_500),
    )
    return WireTicket("d", 1, 0, plain_ticket(1, 0, 0, 50_000, hops), **changes)


@pytest.mark.parametrize(
    ("first", "second", "batch", "goes_to"),
    [
        (0, 1, 1, "chain"),
        (0, 1, 2, "tiny.p0.s0.w0"),
        (0, 0, 1, "tiny.p0.s0.w0"),
        (1, 1, 1, "tiny.p0.s0.w1"),
    ],
)
def test_small_batches_on_a_chains_workers_go_to_it(
    first: int, second: int, batch: int, goes_to: str
) -> None:
    calls = Calls()
    transport = ChainTransport(calls, entry())
    tensors = [[bytes(4_000 * batch)]]
    assert transport.begin(wire(first, second), tensors, batch, 1.0) is None
    transport.infer(wire(first, second), tensors, batch, 1.0)
    assert calls.sent == [goes_to] * 2
    assert transport.batches == int(goes_to == "chain"), "begun ones that did not go out are not counted"


def test_clients_frames_do_not_count_for_what_a_chain_takes() -> None:
    frame = TensorSpec("jpeg", "BYTES", (1,))
    recipe = PrepareRecipe(
        kind="jpeg",
        frame=frame,
        channels=3,
        height=9,
        width=9,
        mean=(0.0,),
        std=(1.0,),
        planned=FrameSize(9, 9, 9),
    )
    small = replace(entry(), prepare=recipe)
    huge = replace(small.input, shape=(1_000_000,))
    (first, second), *_ = small.programs
    small = replace(small, programs=((replace(first, inputs=(huge,)), second),))
    calls = Calls()
    for made in (replace(small, prepare=None), small):
        ChainTransport(calls, made).infer(wire(0, 1), [[bytes(400_000)]], 1, 1.0)
    assert calls.sent == ["tiny.p0.s0.w0", "chain"]


def test_each_stage_finds_its_place_in_a_chains_ticket(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a key of this deployment\n")
    keys = Keys(tmp_path / "key")
    text = ticket_codec.encode(wire(0, 1, chain="chain"), keys)
    received = ticket_codec.decode(text, keys, received_us=0)
    assert at_own_hop(received, "tiny.p0.s0.w0", 0).hop == 0
    assert at_own_hop(received, "tiny.p0.s1.w1", 0).hop == 1
    assert at_own_hop(received, "tiny.p0.s1.w1", 0).ticket == wire(0, 1).ticket
    with pytest.raises(TicketError, match=r"for workers tiny.p0.s0.w0, tiny.p0.s1.w1, not 'other'"):
        at_own_hop(received, "other", 0)
    forged = text.replace('"chain":true', '"chain":1')
    with pytest.raises(TicketError, match="signature"):
        ticket_codec.decode(forged, keys, received_us=0)


def test_a_ticket_for_one_hop_stays_as_it_is() -> None:
    plain = ticket_codec.decode(ticket_codec.encode(wire(0, 1), KEYS), KEYS, received_us=0)
    assert at_own_hop(plain, "tiny.p0.s1.w1", 0).hop == 0


def test_between_hosts_a_later_stage_takes_the_one_before_for_punctual() -> None:
    text = ticket_codec.encode(wire(0, 1, chain="chain"), KEYS, sent_us=500)
    at_second = ticket_codec.decode(text, KEYS, received_us=900_000)
    ticket = at_own_hop(at_second, "tiny.p0.s1.w1", 900_000).ticket
    assert ticket is not None
    assert ticket.hops[0].end_us == 900_000
    assert ticket.hops[1].start_us == 900_500
    assert ticket.deadline_us == 900_000 + 50_000 - 6_000
