"""A model that can be cut nowhere: said clearly, and served in one piece on request."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from planner.profiling.networks.errors import ModelError
from planner.profiling.split import split_model


class BatchLast(nn.Module):
    """Moves the batch to the end at once, and back only for its output."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(1, 2, 3, 0)
        return (y.relu() * 2).permute(3, 0, 1, 2)


HERE = "tests.profiling.test_no_cut:BatchLast"


def test_the_error_names_what_crosses_every_cut_and_what_to_do(spec):
    with pytest.raises(
        ModelError,
        match=r"model net: there is no place where it may be cut: .* such as relu \(torch\.float32 "
        r"\[3, 8, 8, .*\]\) in its middle; to serve it in one piece, give it blocks: 1",
    ):
        split_model(spec(HERE))


def test_in_one_piece_it_is_one_block(spec):
    assert split_model(spec(HERE, blocks=1)).block_count == 1
