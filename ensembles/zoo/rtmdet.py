"""RTMDet-x: CSP blocks with 5 x 5 depthwise convolutions, a two-way pyramid, a head shared by all levels.

Written from Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors", 2022.
Normalisation in the head is per level in the paper; here it is shared, which costs the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ensembles.zoo.detection import CALIBRATION, COCO
from ensembles.zoo.layers import conv_norm
from ensembles.zoo.liveliness import calibrate

WIDTHS = (80, 160, 320, 640, 1280)
DEPTHS = (4, 8, 8, 4)
NECK_DEPTH = 4
HEAD_DEPTH = 2


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, SiLU."""
    return conv_norm(inputs, outputs, kernel, stride=stride, groups=groups, act=nn.SiLU())


class Block(nn.Module):
    """3 x 3, then a depthwise separable 5 x 5; with a skip in the backbone."""

    def __init__(self, channels: int, *, skip: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels, 3),
            conv(channels, channels, 5, groups=channels),
            conv(channels, channels),
        )
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        y: Tensor = self.body(x)
        return x + y if self.skip else y


class Csp(nn.Module):
    """Half of the channels go through the blocks, half around them; the backbone weighs channels."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, backbone: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.around, self.through = conv(inputs, half), conv(inputs, half)
        self.blocks = nn.Sequential(*(Block(half, skip=backbone) for _ in range(depth)))
        self.weigh = nn.Conv2d(outputs, outputs, 1) if backbone else None
        self.merge = conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W]."""
        y = torch.cat([self.blocks(self.through(x)), self.around(x)], dim=1)
        if self.weigh is not None:
            y = y * nn.functional.hardsigmoid(self.weigh(y.mean(dim=(2, 3), keepdim=True)))
        merged: Tensor = self.merge(y)
        return merged


class PooledPyramid(nn.Module):
    """Three max pools one after another, side by side with their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.merge = conv(channels, channels // 2), conv(channels * 2, channels)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        x = self.reduce(x)
        merged: Tensor = self.merge(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1))
        return merged


class Backbone(nn.Module):
    """CSPNeXt: the maps at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.stem = nn.Sequential(
            conv(3, first // 2, 3, 2), conv(first // 2, first // 2, 3), conv(first // 2, first, 3)
        )
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(DEPTHS):
            inputs, outputs = WIDTHS[stage], WIDTHS[stage + 1]
            last = [PooledPyramid(outputs)] if stage == len(DEPTHS) - 1 else []
            self.stages.append(
                nn.Sequential(conv(inputs, outputs, 3, 2), *last, Csp(outputs, outputs, depth, backbone=True))
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 3, H, W] to maps of 320, 640 and 1280 channels."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]


class TwoWayPyramid(nn.Module):
    """Top down, then bottom up, all maps at 320 channels in the end."""

    def __init__(self) -> None:
        super().__init__()
        low, middle, high = WIDTHS[2:]
        self.reduce = nn.ModuleList([conv(high, middle), conv(middle, low)])
        self.down = nn.ModuleList(
            [
                Csp(2 * middle, middle, NECK_DEPTH, backbone=False),
                Csp(2 * low, low, NECK_DEPTH, backbone=False),
            ]
        )
        self.stride = nn.ModuleList([conv(low, low, 3, 2), conv(middle, middle, 3, 2)])
        self.up = nn.ModuleList(
            [
                Csp(2 * low, middle, NECK_DEPTH, backbone=False),
                Csp(2 * middle, high, NECK_DEPTH, backbone=False),
            ]
        )
        self.out = nn.ModuleList(conv(channels, low, 3) for channels in (low, middle, high))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Three maps to three maps of 320 channels."""
        low, middle, high = features
        high = self.reduce[0](high)
        middle = self.down[0](torch.cat([_twice(high, middle), middle], dim=1))
        middle = self.reduce[1](middle)
        low = self.down[1](torch.cat([_twice(middle, low), low], dim=1))
        middle = self.up[0](torch.cat([self.stride[0](low), middle], dim=1))
        high = self.up[1](torch.cat([self.stride[1](middle), high], dim=1))
        return [layer(x) for layer, x in zip(self.out, (low, middle, high), strict=True)]


class RtmDet(nn.Module):
    """Backbone, pyramid, head: class logits and distances to a box's sides, all levels in one row."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = WIDTHS[2]
        self.backbone = Backbone()
        self.pyramid = TwoWayPyramid()
        self.class_tower, self.box_tower = (
            nn.Sequential(*(conv(channels, channels, 3) for _ in range(HEAD_DEPTH))) for _ in range(2)
        )
        self.classify = nn.Conv2d(channels, classes, 1)
        self.box = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to {scores: [B, positions, classes], boxes: [B, positions, 4]}."""
        levels = self.pyramid(self.backbone(x))
        scores = [self.classify(self.class_tower(level)).flatten(2) for level in levels]
        boxes = [self.box(self.box_tower(level)).flatten(2) for level in levels]
        return {
            "scores": torch.cat(scores, dim=2).transpose(1, 2),
            "boxes": torch.cat(boxes, dim=2).transpose(1, 2),
        }


def rtmdet_x(classes: int = COCO) -> nn.Module:
    """RTMDet-x."""
    return calibrate(RtmDet(classes), CALIBRATION)


def _twice(x: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(x, size=like.shape[2:])
