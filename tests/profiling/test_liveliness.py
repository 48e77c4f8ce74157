"""Random weights of the zoo: not chaotic, which magnifies rounding; not dead, which hides wrong answers."""

from __future__ import annotations

import torch
from torch import nn

from ensembles.zoo import liveliness
from ensembles.zoo.layers import conv_norm

SHAPE = (3, 32, 32)
DEPTH = 40


def deep_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [conv_norm(3, 16, 3), *(conv_norm(16, 16, 3) for _ in range(DEPTH - 1))]
        return liveliness.calibrate(nn.Sequential(*layers), SHAPE)


def magnified(network):
    """By how much a relative difference of the input grows, as a share of the output's range."""
    frames = liveliness.noise_frames(SHAPE, seed=1)[:2].double()
    network.double()
    grain = 1e-6 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.inference_mode():
        plain, other = network(frames), network(frames * (1 + grain))
    return float((other - plain).abs().max() / (plain.max() - plain.min())) / 1e-6


def test_differences_neither_explode_nor_vanish(monkeypatch):
    shifted = magnified(deep_network())
    assert 0.01 < shifted < 30
    monkeypatch.setattr(liveliness, "SHIFT", 0.0)
    assert magnified(deep_network()) > 5 * shifted, "without the shift the network is chaotic"


def test_answers_depend_on_the_frame():
    network = deep_network()
    with torch.inference_mode():
        first, second = network(liveliness.noise_frames(SHAPE, seed=3)[:2])
    assert (first - second).abs().mean() > 0.05 * (first.max() - first.min())


def test_the_callers_mode_and_momentum_are_kept():
    norms = [module for module in deep_network().modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert not any(norm.training for norm in norms)
