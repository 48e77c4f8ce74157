"""The network of rehearsals: quick to load, export and run, and long enough to be split."""

from __future__ import annotations

import itertools

import torch

CHANNELS, DEPTH, CLASSES = 16, 4, 10


class SmallNet(torch.nn.Module):
    """Convolutions, then scores."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[CHANNELS] * DEPTH]
        layers: list[torch.nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU()]
        self.features = torch.nn.Sequential(*layers)
        self.scores = torch.nn.Linear(CHANNELS, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.scores(self.features(image).mean((2, 3)))
        return found


def small_net() -> SmallNet:
    """With random weights."""
    torch.manual_seed(0)
    return SmallNet()
