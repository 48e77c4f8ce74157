"""What passes between stages of one GPU: which batches, whose memory, in what layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model_repo_generator.places import place_of
from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.stage.executors.handover import given, taken
from python_backend.stage.intake import check_inputs
from python_backend.stage.worker import StageWorker
from python_backend.wire import ticket_codec
from python_backend.wire.chain_transport import CUDA_POOL_BYTES, ChainTransport
from python_backend.wire.clock import now_us
from python_backend.wire.signing.keys import Keys
from python_backend.wire.ticket_codec import WireTicket
from tests.dispatcher.test_driver import manifest
from tests.stage.test_stage_worker import NextStage, Reply
from tests.wire.test_chain_transport import Calls, entry, wire

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
WORKERS = ("m.p0.s0.w0", "m.p0.s1.w0")
KEYS = Keys.none()


class TritonTensor:
    """What the Python backend hands to a stage."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def to_dlpack(self) -> Any:
        return self._tensor.__dlpack__()


class Doubler:
    """Says which way it was asked."""

    def __init__(self) -> None:
        self.stayed: list[bool] = []

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        self.stayed.append(False)
        return [2 * np.asarray(inputs[0])]

    def run_on_device(self, inputs: Sequence[Any]) -> list[Any]:
        self.stayed.append(True)
        return [2 * torch.as_tensor(inputs[0])]

    def warm_up(self) -> None:
        pass


def ways_taken(stage: int, chained: bool, on_device: bool) -> list[bool]:
    """For one batch on worker 0 of a stage: [whether its outputs stayed on the device]."""
    place = place_of(manifest(), WORKERS[stage])
    executor = Doubler()
    worker = StageWorker(place, executor, NextStage(), KEYS, notify=lambda *notice: None, log=print)
    hops = tuple(tensor_hop(name, 0, 0, 0, 2_000) for name in WORKERS)
    ticket = plain_ticket(0, 0, 0, now_us() + 10_000_000, hops)
    hop, chain = (0, "chain") if chained else (stage, "")
    wire = WireTicket("d", 1, hop, ticket, chain=chain, on_device=on_device)
    text = ticket_codec.encode(wire, KEYS)
    reply = Reply()
    worker.submit(text, [np.array([[4]], np.int64)], reply)
    answer = reply.wait()
    worker.close()
    assert answer == {"y": [8 if chained or stage else 9]}
    return executor.stayed


@pytest.mark.parametrize(
    ("stage", "chained", "on_device", "stays"),
    [
        (0, True, True, True),
        (1, True, True, False),  # the answer leaves the GPU
        (0, False, False, False),  # the next stage is called over shared memory
        (0, True, False, False),  # a chain over several GPUs
    ],
)
def test_only_what_the_next_stage_of_the_gpu_takes_stays_there(
    stage: int, chained: bool, on_device: bool, stays: bool
) -> None:
    assert ways_taken(stage, chained, on_device) == [stays]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_what_is_taken_outlives_its_request(device: str, dtype: torch.dtype) -> None:
    theirs = torch.ones((2, 3), dtype=dtype, device=device)
    ours = taken(TritonTensor(theirs))
    theirs.zero_()
    assert ours.device == theirs.device
    assert ours.dtype == dtype
    assert bool(ours.bool().all())


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_given_is_a_copy_in_the_layout_that_triton_takes(device: str) -> None:
    output = torch.rand((2, 3, 4, 5), device=device).contiguous(memory_format=torch.channels_last)
    (copy,) = given((output,))
    expected = output.clone()
    output.zero_()
    assert copy.is_contiguous()
    assert torch.equal(copy, expected)


def test_a_stages_inputs_are_checked_wherever_they_are() -> None:
    specs = place_of(manifest(), WORKERS[1]).program.inputs
    check_inputs(specs, [torch.zeros((2, 1), dtype=torch.int64)], 2)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"input y: torch.int32 \[2, 1\]; expected INT64 \[2, 1\]"):
        check_inputs(specs, [torch.zeros((2, 1), dtype=torch.int32)], 2)  # type: ignore[list-item]


@pytest.mark.parametrize(("gpu_id", "batch", "chained"), [(0, 4, True), (None, 4, False), (None, 1, True)])
def test_large_batches_go_to_chains_on_one_gpu_alone(gpu_id: int | None, batch: int, chained: bool) -> None:
    made = entry()
    calls = Calls()
    one = replace(made, chains=(replace(made.chains[0], gpu_id=gpu_id),))
    transport = ChainTransport(calls, one)
    transport.infer(wire(0, 1), [[bytes(4_000 * batch)]], batch, 1.0)
    assert transport.batches == int(chained)


def test_a_batch_that_the_gpus_pool_has_no_room_for_goes_hop_by_hop() -> None:
    made = entry()
    huge = replace(made.programs[0][1].inputs[0], shape=(CUDA_POOL_BYTES // 4 // 2 // 3,))
    programs = ((made.programs[0][0], replace(made.programs[0][1], inputs=(huge,))),)
    calls = Calls()
    one = replace(made, programs=programs, chains=(replace(made.chains[0], gpu_id=0),))
    transport = ChainTransport(calls, one)
    for batch in (3, 4):
        transport.infer(wire(0, 1), [[bytes(4_000 * batch)]], batch, 1.0)
    assert transport.batches == 1
