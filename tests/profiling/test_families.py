"""Real CNNs of three families, small: a residual, a multi-branch and a squeeze-and-excite network."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("pytorchcv", reason="pytorchcv is installed by scripts/setup")

from ensembles.zoo.liveliness import noise_frames
from planner.plan import BlockRange
from planner.profiling.networks.loading import load_network
from planner.profiling.split import split_model
from planner.profiling.stages import stage_module

FACTORY = "ensembles.zoo.pytorchcv_models:classifier"
FAMILIES = [("resnet18", 64), ("inceptionv3", 107), ("efficientnet_b0", 64)]


@pytest.mark.parametrize(("name", "size"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_split_equals_unsplit_at_every_chosen_cut(spec, name, size):
    model = spec(FACTORY, shape=(3, size, size), arguments={"name": name, "size": size})
    split = split_model(model)
    assert split.block_count == 10
    network = load_network(model)
    blocks = [stage_module(split, BlockRange(k, k + 1)) for k in range(10)]
    for batch in (1, 2, 8):
        x = noise_frames((3, size, size), seed=batch)[:batch]
        values = (x,)
        with torch.inference_mode():
            expected = network(x)
            for k, block in enumerate(blocks):
                values = block(*values)
                assert_is(values, split.outputs_of(BlockRange(k, k + 1)), batch)
        assert (values[0] - expected).abs().max() <= 1e-4
    # Networks whose output hardly depends on the frame would prove nothing.
    assert expected.std(dim=0).mean() > 0.05


def assert_is(values, specs, batch):
    assert [tuple(value.shape) for value in values] == [(batch, *wanted.shape) for wanted in specs]
