"""Operations and bytes of operators, against torch's own counter and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from planner.plan import BlockRange
from planner.profiling.network import Cost, total
from planner.profiling.networks.costs import cost_of, is_heavy, operator_name
from planner.profiling.networks.loading import load_network
from planner.profiling.split import split_model
from tests.profiling import nets, wild_nets


def spans(split):
    return [split.span(BlockRange(block, block + 1)) for block in range(split.block_count)]


@pytest.mark.parametrize("net", [nets.Chain, nets.LongSkip, nets.Branches, nets.Tied])
def test_heavy_operators_agree_with_torchs_counter(spec, net):
    model = spec(net)
    graph = split_model(model).network.graph
    weights = frozenset(graph.weights)
    ours = sum(cost_of(node, weights).flops for node in graph.operators if is_heavy(node))
    network = load_network(model)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 8, 8))
    assert ours == counter.get_total_flops()


def test_a_convolution_by_hand(spec):
    split = split_model(spec(nets.Single))
    assert split.cost(0) == Cost(
        flops=2 * 4 * 64 * 3 * 9,
        activation_bytes=(3 + 4) * 64 * 4,
        weight_bytes=(4 * 3 * 9 + 4) * 4,
    )


def test_attention_by_hand(spec):
    graph = split_model(spec(nets.Attention)).network.graph
    (node,) = [node for node in graph.operators if operator_name(node) == "scaled_dot_product_attention"]
    tokens, width = 5, 8  # two products of tokens x tokens x width, over all heads
    assert cost_of(node, frozenset(graph.weights)).flops == 2 * 2 * tokens * tokens * width


def test_views_are_free_and_pointwise_operators_are_not(spec):
    graph = split_model(spec(nets.Attention)).network.graph
    costs = {node.name: cost_of(node, frozenset(graph.weights)) for node in graph.operators}
    views = [node.name for node in graph.operators if operator_name(node) in ("transpose", "view", "reshape")]
    assert views
    assert all(costs[name] == Cost() for name in views)


def test_weights_and_activations_of_blocks(spec):
    split = split_model(spec(nets.Chain))
    weights = [split.network.weight_bytes(span) for span in spans(split)]
    assert weights == [(4 * 3 * 9 + 4) * 4] + [(4 * 4 * 9 + 4) * 4] * 3
    frame = 64 * 4
    # An activation reads 4 channels and writes 4; the first block's convolution reads 3.
    assert [split.network.activation_bytes(span) for span in spans(split)] == [8 * frame] * 4


def test_a_skip_stays_in_memory_while_it_waits(spec):
    split = split_model(spec(nets.LongSkip))
    inside = split.network.activation_bytes(spans(split)[1])
    # The input and the first feature map wait for the end; the block reads one feature map and writes one.
    assert inside == (3 + 4 + 4 + 4) * 64 * 4


def test_block_costs_add_up_to_the_whole(spec):
    split = split_model(spec(nets.Branches))
    weights = frozenset(split.network.graph.weights)
    whole = total(cost_of(node, weights) for node in split.network.graph.operators)
    assert total(split.cost(block) for block in range(split.block_count)) == whole


def operator_costs(graph):
    return {operator_name(node): cost_of(node, graph.stored) for node in graph.operators}


def test_recurrent_layers_are_their_products(spec):
    costs = operator_costs(split_model(spec(wild_nets.Recurrent)).network.graph)
    rows, inputs, hidden = 4, 32, 16
    assert costs["lstm"].flops == rows * 2 * 2 * 4 * (inputs * hidden + hidden * hidden)  # two directions
    assert costs["gru"].flops == rows * 2 * 3 * (32 * 8 + 8 * 8)
    assert costs["lstm"].weight_bytes == 4 * 2 * (4 * hidden * (inputs + hidden) + 2 * 4 * hidden)


def test_einsum_is_its_products(spec):
    graph = split_model(spec(wild_nets.Einsum)).network.graph
    products = [cost_of(node, graph.stored).flops for node in graph.operators if "einsum" in node.name]
    assert products == [2 * 16 * 16 * 8] * 2
    assert all(is_heavy(node) for node in graph.operators if "einsum" in node.name)


def test_weights_through_operators_are_weights(spec):
    model = spec(wild_nets.WeightsThroughOperators)
    split = split_model(model)
    costs = operator_costs(split.network.graph)
    assert costs["conv2d"].weight_bytes >= 4 * 8 * 8 * 9
    assert costs["matmul"].weight_bytes == 4 * 8 * 8
    stored = sum(map(split.network.weight_bytes, spans(split)))
    names = {"normed": 8 * 8 * 9 + 8, "spectral": 8 * 8 + 8, "turned": 8 * 8, "table": 16 * 8}
    body, head = sum(value.numel() for value in wild_nets.body().parameters()), 8 * 5 + 5
    assert stored == 4 * (sum(names.values()) + body + head)


def test_a_condition_costs_its_dearer_branch(spec):
    plain, chosen = (split_model(spec(wild_nets.Chooses, arguments={"by": by})) for by in ("none", "cond"))
    flops = [
        total(split.cost(block) for block in range(split.block_count)).flops for split in (plain, chosen)
    ]
    assert flops[1] == pytest.approx(flops[0], rel=0.05)
