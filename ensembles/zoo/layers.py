"""Building blocks that the zoo's networks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    norm: Norm = nn.BatchNorm2d,
    act: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution that keeps the size (but for its stride), normalisation, activation (default ReLU)."""
    return nn.Sequential(
        nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        norm(outputs),
        nn.ReLU() if act is None else act,
    )


def group_norm(channels: int) -> nn.Module:
    """Normalisation of 32 groups of channels, as dense detectors have in their heads."""
    return nn.GroupNorm(32, channels)


def resize_to(x: Tensor, like: Tensor) -> Tensor:
    """`x` bilinearly resized to the height and width of `like`."""
    return nn.functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions; the stride is in the 3 x 3 one."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(inputs, width),
            conv_norm(width, width, 3, stride=stride, dilation=dilation),
            conv_norm(width, outputs, act=nn.Identity()),
        )
        changes = stride != 1 or inputs != outputs
        self.skip = conv_norm(inputs, outputs, stride=stride, act=nn.Identity()) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    """A ResNet of bottlenecks without its classifier: the feature maps of its four stages.

    `dilated`: the last two stages keep stride 8 and dilate instead, and the stem is three 3 x 3 convolutions,
    as segmentation uses it. `width_factor` 2 is the wide ResNet.
    """

    def __init__(self, depths: Sequence[int], *, dilated: bool = False, width_factor: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(
                (conv_norm(3, 32, 3, stride=2), conv_norm(32, 32, 3), conv_norm(32, 64, 3))
                if dilated
                else (conv_norm(3, 64, 7, stride=2),)
            ),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        strides, dilations = ((1, 2, 1, 1), (1, 1, 2, 4)) if dilated else ((1, 2, 2, 2), (1, 1, 1, 1))
        stages, inputs = [], 64
        for stage, depth in enumerate(depths):
            outputs = 256 * 2**stage
            blocks = []
            for block in range(depth):
                first = block == 0
                blocks.append(
                    Bottleneck(
                        inputs=inputs,
                        width=outputs // 4 * width_factor,
                        outputs=outputs,
                        stride=strides[stage] if first else 1,
                        dilation=max(1, dilations[stage] // 2) if first else dilations[stage],
                    )
                )
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The four feature maps, of 256, 512, 1024 and 2048 channels."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


RESNET_50 = (3, 4, 6, 3)
RESNET_101 = (3, 4, 23, 3)
