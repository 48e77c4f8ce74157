"""From uint8 pixels to the network's input, on the network's device: what need not travel as floats.

value = (pixel / 255 - mean) / std, per channel, computed in float32 as pixel * factor - offset, which is what
ensembles.steps.normalise does on the host.
"""

from __future__ import annotations

import torch

from planner.ingress import PrepareRecipe


class Prologue:
    """Pixels [batch, height, width, channels] to [batch, channels, height, width] of `dtype`."""

    def __init__(self, recipe: PrepareRecipe, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        std = torch.tensor(recipe.std[: recipe.channels], dtype=torch.float64)
        mean = torch.tensor(recipe.mean[: recipe.channels], dtype=torch.float64)
        shape = (1, recipe.channels, 1, 1)
        self._factor = (1 / (255 * std)).to(torch.float32).reshape(shape).to(device)
        self._offset = (mean / std).to(torch.float32).reshape(shape).to(device)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The network's input."""
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.mul_(self._factor).sub_(self._offset).to(self._dtype)
