"""Classifiers: ConvNeXt, RepVGG as it is served (branches merged), wide ResNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ensembles.zoo.layers import RESNET_101, ResNet
from ensembles.zoo.liveliness import calibrate

CALIBRATION = (3, 64, 64)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, layer normalisation, two linear layers, a learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.contract = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.contract(nn.functional.gelu(self.expand(y))) * self.scale
        result: Tensor = x + y.permute(0, 3, 1, 2)
        return result


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext_large(classes: int = 1000) -> nn.Module:
    """ConvNeXt-L: Liu et al., "A ConvNet for the 2020s", CVPR 2022."""
    depths, widths = (3, 3, 27, 3), (192, 384, 768, 1536)
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=4), ChannelNorm(widths[0])]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            layers += [ChannelNorm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, stride=2)]
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*layers, *head)


def repvgg_b3(classes: int = 1000) -> nn.Module:
    """RepVGG-B3 as deployed, every block one 3 x 3 convolution: Ding et al., CVPR 2021."""
    blocks, widths = (1, 4, 6, 16, 1), (64, 192, 384, 768, 2560)
    layers: list[nn.Module] = []
    for inputs, width, depth in zip((3, *widths), widths, blocks, strict=False):
        for block in range(depth):
            convolution = nn.Conv2d(width if block else inputs, width, 3, stride=1 if block else 2, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(widths[-1], classes))


class WideResNet(nn.Module):
    """ResNet-101 with 3 x 3 convolutions of twice the width."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = ResNet(RESNET_101, width_factor=2)
        self.head = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Frames to logits."""
        result: Tensor = self.head(self.backbone(x)[-1].mean(dim=(2, 3)))
        return result


def wide_resnet101_2(classes: int = 1000) -> nn.Module:
    """Wide-ResNet-101-2: Zagoruyko, Komodakis, BMVC 2016."""
    return calibrate(WideResNet(classes), CALIBRATION)
