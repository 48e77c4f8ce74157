"""From uint8 pixels to the network's input, on the network's device: what need not travel as floats.

value = (pixel * scale - mean) / std, per channel, computed in float32 as pixel * factor - offset, which is
what ensembles.prepare.pixels.normalised does on the host.
"""

from __future__ import annotations

import torch

from planner.ingress import PrepareRecipe


class Prologue:
    """Pixels [batch, height, width, channels] to the recipe's layout, of `dtype`."""

    def __init__(self, recipe: PrepareRecipe, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._channels_first = recipe.layout == "nchw"
        shape = (1, recipe.channels, 1, 1) if self._channels_first else (1, 1, 1, recipe.channels)
        std = torch.tensor(recipe.std, dtype=torch.float64)
        mean = torch.tensor(recipe.mean, dtype=torch.float64)
        self._factor = (recipe.scale / std).to(torch.float32).reshape(shape).to(device)
        self._offset = (mean / std).to(torch.float32).reshape(shape).to(device)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The network's input."""
        planes = pixels.permute(0, 3, 1, 2) if self._channels_first else pixels
        floats = planes.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return floats.mul_(self._factor).sub_(self._offset).to(self._dtype)
