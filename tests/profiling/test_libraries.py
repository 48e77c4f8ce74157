"""Operators of other libraries: named with the import that stages need, counted by a rule."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

from planner.cluster import GpuClass
from planner.profiling.guesses import MOST, require_known, unknown_shares
from planner.profiling.networks.checked import checked_program
from planner.profiling.networks.costs import cost_of
from planner.profiling.networks.counting import full_name
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import split_model
from tests.profiling import wild_nets

CLASSES = (GpuClass(name="L4"),)
OWN = {"imports": ("tests.profiling.wild_nets",)}


def test_the_import_that_stages_need_is_named(spec):
    with pytest.raises(ModelError, match=r"wildlib::twice.*imports: \[tests\.profiling\.wild_nets\]"):
        checked_program(spec(wild_nets.Foreign))


def test_with_the_import_it_passes_and_without_the_right_one_it_does_not(spec):
    checked_program(spec(wild_nets.Foreign, **OWN))
    with pytest.raises(ModelError, match="wildlib::twice, which torch alone does not have"):
        checked_program(spec(wild_nets.Foreign, imports=("json",)))
    with pytest.raises(ModelError, match=r"program\.imports: no_such_module cannot be imported"):
        checked_program(spec(wild_nets.Foreign, imports=("no_such_module",)))


def test_an_unknown_operator_is_counted_as_a_product_and_named_with_its_share(spec):
    network = split_model(spec(wild_nets.ForeignProduct)).network
    graph = network.graph
    (node,) = [node for node in graph.operators if full_name(node) == "wildlib::mixed"]
    assert cost_of(node, graph.stored).flops == 2 * 192 * 512
    shares = unknown_shares(network, CLASSES)
    assert shares["wildlib::mixed"] > MOST
    with pytest.raises(ModelError, match=r"wildlib::mixed is unknown.*9\d% .*have a class measured"):
        require_known(shares, "model net")
    light = unknown_shares(split_model(spec(wild_nets.Foreign)).network, CLASSES)
    assert 0 < light["wildlib::twice"] < MOST
    require_known(light, "model net")


def test_a_registered_formula_makes_it_known(spec):
    packet = torch.ops.wildlib.mixed
    register_flop_formula(packet)(lambda x, weight, **_: 2 * x[0] * x[1] * weight[1])
    try:
        network = split_model(spec(wild_nets.ForeignProduct)).network
        graph = network.graph
        (node,) = [node for node in graph.operators if full_name(node) == "wildlib::mixed"]
        assert cost_of(node, graph.stored).flops == 2 * 192 * 512
        assert unknown_shares(network, CLASSES) == {}
    finally:
        del flop_registry[packet]
