"""Give networks with random weights activations of a sensible size, and make them well conditioned.

Untrained, the running statistics of batch normalisation fit nothing, and in deep networks every frame ends in
nearly the same output: a wrong answer would go unseen. One batch of noise sets the statistics, as training
would.

Normalised random networks are chaotic: a ReLU keeps half of a difference's power and a third of the signal's,
so each layer multiplies relative differences by 1.2, and a hundred layers make visible ones of float32's
rounding (1e-3 of the output's range where two convolution algorithms differ in the last bit). SHIFT moves
values of unit deviation into the part where activations are nearly linear: 84 % pass a ReLU instead of half,
and networks of the zoo multiply a relative difference of their input by 0.4 to 3 instead of up to 600.
"""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

PIXELS = 2**17
"""Of all frames together: the last layers of small frames have few pixels each, so they take many frames."""
SHIFT = 1.0
"""Mean of what a batch normalisation gives, in its own deviations."""
MANTISSA_BITS = 10
"""Statistics are rounded, so that the last bits of one machine's arithmetic do not become weights."""


def calibrate(network: torch.nn.Module, shape: tuple[int, int, int], seed: int = 0) -> torch.nn.Module:
    """Shift `network`'s batch normalisations and set their running statistics from noise of `shape`.

    The network is returned in eval mode; on the device 'meta' it stays as it is.
    """
    norms = [module for module in network.eval().modules() if isinstance(module, _BatchNorm)]
    if not norms or any(parameter.is_meta for parameter in network.parameters()):
        return network
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.affine:
            torch.nn.init.constant_(norm.bias, SHIFT)
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of what it sees
        norm.train()
    with torch.no_grad():
        network(noise_frames(shape, seed))
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(_rounded(statistic))
    return network.eval()


def noise_frames(shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    """A batch of random frames with large blobs and fine grain, as photographs have, after normalisation."""
    channels, height, width = shape
    frames = max(2, min(64, PIXELS // (height * width)))
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.randn((frames, channels, 4, 4), generator=generator)
    blobs = torch.nn.functional.interpolate(blobs, size=(height, width), mode="bilinear")
    return blobs + 0.3 * torch.randn((frames, *shape), generator=generator)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2**MANTISSA_BITS) / 2**MANTISSA_BITS, exponent)
