"""Networks of the zoo, small: each splits into ten blocks that in sequence equal it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("pytorchcv", reason="pytorchcv is installed by scripts/setup")

from ensembles.zoo.catalogue import ZOO, entry
from planner.plan import BlockRange
from planner.profiling.networks.loading import load_network
from planner.profiling.split import split_model
from planner.profiling.stages import stage_module

SMALL = {"segmentation": (3, 32, 64), "detection": (3, 64, 64), "colorization": (1, 32, 32)}
CHECKED = ["dnl_r101", "centernet_r50", "colorization"]
"""The rest is checked by `scripts/benchmarks zoo`."""


def test_there_are_eighteen_of_four_tasks():
    assert len({each.name for each in ZOO}) == 18
    assert {each.task for each in ZOO} == {"classification", "segmentation", "detection", "colorization"}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="no network 'alexnet' in the zoo; it has convnext_large, "):
        entry("alexnet")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKED)
def test_split_equals_unsplit(name):
    each = entry(name)
    model = each.spec(shape=SMALL.get(each.task, each.shape))
    split = split_model(model)
    assert split.block_count == 10
    network = load_network(model)
    blocks = [stage_module(split, BlockRange(k, k + 1)) for k in range(split.block_count)]
    for batch in (1, 2):
        values = (torch.randn((batch, *model.input.shape), generator=torch.Generator().manual_seed(batch)),)
        with torch.inference_mode():
            expected = torch.utils._pytree.tree_leaves(network(*values))
            for block in blocks:
                values = block(*values)
        for actual, wanted in zip(values, expected, strict=True):
            assert (actual - wanted).abs().max() <= 1e-4 * (wanted.max() - wanted.min())
            assert wanted.std() > 1e-3
