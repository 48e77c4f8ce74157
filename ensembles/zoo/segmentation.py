"""Segmentation: a dilated ResNet-101 of stride 8, a context module, logits at an eighth of the size.

Resizing the logits to the frame and taking the best class are postprocessing: cheap anywhere, and 8 x 8 times
as many bytes to send.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ensembles.zoo.attention import (
    AdaptiveContext,
    ChannelAttention,
    Encoding,
    GlobalContext,
    NonLocal,
    PositionAttention,
)
from ensembles.zoo.layers import RESNET_101, ResNet, conv_norm
from ensembles.zoo.liveliness import calibrate

CITYSCAPES = 19
CALIBRATION = (3, 64, 128)
INPUTS, CHANNELS = 2048, 512


class ContextHead(nn.Module):
    """Convolution, a context module, convolution; then both ends together. FCN has no module."""

    def __init__(self, context: nn.Module) -> None:
        super().__init__()
        self.reduce = conv_norm(INPUTS, CHANNELS, 3)
        self.context = context
        self.refine = conv_norm(CHANNELS, CHANNELS, 3)
        self.merge = conv_norm(INPUTS + CHANNELS, CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2048, H, W] to [B, 512, H, W]."""
        result: Tensor = self.merge(torch.cat([x, self.refine(self.context(self.reduce(x)))], dim=1))
        return result


class DualAttentionHead(nn.Module):
    """DANet: a spatial and a channel branch, added."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Sequential(
            conv_norm(INPUTS, CHANNELS, 3), PositionAttention(CHANNELS), conv_norm(CHANNELS, CHANNELS, 3)
        )
        self.channel = nn.Sequential(
            conv_norm(INPUTS, CHANNELS, 3), ChannelAttention(), conv_norm(CHANNELS, CHANNELS, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2048, H, W] to [B, 512, H, W]."""
        result: Tensor = self.position(x) + self.channel(x)
        return result


class AdaptivePyramidHead(nn.Module):
    """APCNet: adaptive contexts of four scales beside the features."""

    def __init__(self, scales: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.contexts = nn.ModuleList(AdaptiveContext(INPUTS, CHANNELS, scale) for scale in scales)
        self.merge = conv_norm(INPUTS + len(scales) * CHANNELS, CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2048, H, W] to [B, 512, H, W]."""
        result: Tensor = self.merge(torch.cat([x, *(context(x) for context in self.contexts)], dim=1))
        return result


HEADS: dict[str, Callable[[], nn.Module]] = {
    "fcn": lambda: ContextHead(nn.Identity()),
    "nonlocal": lambda: ContextHead(NonLocal(CHANNELS)),
    "dnl": lambda: ContextHead(NonLocal(CHANNELS, disentangled=True)),
    "gcnet": lambda: ContextHead(GlobalContext(CHANNELS)),
    "danet": DualAttentionHead,
    "apcnet": AdaptivePyramidHead,
    "encnet": lambda: nn.Sequential(conv_norm(INPUTS, CHANNELS, 3), Encoding(CHANNELS)),
}


class Segmenter(nn.Module):
    """Backbone, head, classifier."""

    def __init__(self, head: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = ResNet(RESNET_101, dilated=True)
        self.head = head
        self.classify = nn.Conv2d(CHANNELS, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to logits [B, classes, H / 8, W / 8]."""
        result: Tensor = self.classify(self.head(self.backbone(x)[-1]))
        return result


def segmenter(head: str, classes: int = CITYSCAPES) -> nn.Module:
    """A ResNet-101 with one of the heads: fcn, nonlocal, dnl, gcnet, danet, apcnet, encnet.

    Raises ValueError.
    """
    if head not in HEADS:
        raise ValueError(f"head {head!r} is not one of {', '.join(HEADS)}")
    return calibrate(Segmenter(HEADS[head](), classes), CALIBRATION)
