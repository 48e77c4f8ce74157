"""Networks with several inputs: exported, split at every valid cut, refused where they do not fit."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from planner.deployment import ModelSpec
from planner.plan import BlockRange
from planner.profiling.loading import load_checked
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.loading import load_network
from planner.profiling.split import split_network
from planner.profiling.stages import export_stage
from tests.profiling import nets

INPUTS = ({"name": "image", "shape": (3, 8, 8)}, {"name": "size", "dtype": "INT64", "shape": (2,)})


def two(*inputs):
    return ModelSpec(
        name="net",
        program={"factory": f"{nets.__name__}:TwoInputs"},
        inputs=inputs,
        slo_ms=1000,
    )


def test_two_stages_equal_the_network_at_every_valid_cut() -> None:
    spec = two(*INPUTS)
    network, split = load_network(spec), split_network(spec, load_checked(spec).network)
    assert [(tensor.name, tensor.dtype) for tensor in split.inputs] == [("image", "FP32"), ("size", "INT64")]
    assert [(tensor.name, tensor.shape) for tensor in split.outputs] == [("scores", (4,)), ("area", (1,))]
    for cut in split.network.valid_cuts:
        halves = dataclasses.replace(split, cuts=(cut,))
        stages = [export_stage(halves, BlockRange(k, k + 1)).module() for k in (0, 1)]
        for batch in (1, 2, 8):
            given = torch.randn(batch, 3, 8, 8), torch.randint(0, 9, (batch, 2))
            scores, area = stages[1](*stages[0](*given))
            right = network(*given)
            torch.testing.assert_close(scores, right["scores"], atol=1e-5, rtol=1e-5)
            assert area.squeeze(1).tolist() == right["area"].tolist()


def test_inputs_that_do_not_fit_are_told() -> None:
    with pytest.raises(ModelError, match=r"does not run on input image FP32 \[1, 3, 8, 8\]: TypeError"):
        load_checked(two(INPUTS[0]))
    wrong = {"name": "size", "dtype": "INT64", "shape": (3,)}
    with pytest.raises(ModelError, match=r"input image .* and input size INT64 \[1, 3\]"):
        load_checked(two(INPUTS[0], wrong))
