"""Regions of autocast and no_grad: looked into, the same on every machine, and computed as written."""

from __future__ import annotations

import pytest
import torch

from planner.profiling.network import total
from planner.profiling.networks.checked import checked_program
from planner.profiling.networks.export import quiet
from planner.profiling.networks.loading import load_network
from planner.profiling.networks.regions import without_regions
from planner.profiling.split import split_model
from tests.profiling import wild_nets
from tests.profiling.staged import stages_of

REGIONS = ("cpu", "cuda", "off", "no_grad", "nested")


def in_region(spec, region):
    return spec(wild_nets.Plain, arguments={"region": region})


def gflop(split):
    return total(split.cost(block) for block in range(split.block_count)).flops / 1e9


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("region", REGIONS)
def test_stages_compute_what_the_region_says(spec, region):
    wanted = in_region(spec, region)
    split, runs = stages_of(wanted)
    assert split.block_count >= 3
    for batch in (1, 3):
        frames = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            right = load_network(wanted)(frames).float()
        for run in runs:
            (given,) = run(frames)
            # Half precision rounds alike here and there; layouts of kernels differ.
            torch.testing.assert_close(
                given, right, atol=1e-2 if region in ("cpu", "nested") else 1e-5, rtol=0
            )


@pytest.mark.parametrize("region", ["cpu", "cuda", "off", "no_grad"])
def test_a_region_costs_what_its_layers_cost(spec, region):
    plain, wrapped = split_model(in_region(spec, "none")), split_model(in_region(spec, region))
    assert gflop(wrapped) == pytest.approx(gflop(plain), rel=0.01)


def test_a_region_of_a_gpu_is_the_same_with_and_without_one(spec, monkeypatch):
    """What torch exports on a machine with a GPU is stood in for by its switch: regions of CUDA stay on."""
    wanted = in_region(spec, "cuda")
    without = split_model(wanted).digest
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert split_model(wanted).digest == without


def test_the_owner_is_told_of_a_region_that_does_nothing_here(spec):
    (remark,) = checked_program(in_region(spec, "cuda")).remarks
    assert 'autocast("cuda", float16)' in remark
    assert "executor_options.precision: fp16" in remark
    assert checked_program(in_region(spec, "cpu")).remarks == ()


def test_no_region_is_left(spec):
    network = load_network(in_region(spec, "nested"))
    with quiet():
        flat = without_regions(torch.export.export(network, (torch.rand(2, 3, 8, 8),)))
    assert not [node for node in flat.graph.nodes if "wrap_with" in str(node.target)]
