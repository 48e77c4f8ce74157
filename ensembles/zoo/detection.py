"""Dense detectors on a ResNet with a feature pyramid: ATSS, GFL, FSAF and CenterNet differ in their heads.

They end in raw maps, all levels and positions in one row: class logits and box offsets (and centredness).
Boxes and the choice among them are postprocessing. Written from the papers: FPN (Lin et al., CVPR 2017), ATSS
(Zhang et al., CVPR 2020), GFL (Li et al., NeurIPS 2020), FSAF (Zhu et al., CVPR 2019), CenterNet2's first
stage (Zhou et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ensembles.zoo.layers import RESNET_50, RESNET_101, Norm, ResNet, conv_norm, group_norm
from ensembles.zoo.liveliness import calibrate

COCO = 80
CHANNELS = 256
CALIBRATION = (3, 128, 128)


def identity_norm(channels: int) -> nn.Module:
    """No normalisation."""
    return nn.Identity()


class Pyramid(nn.Module):
    """Five maps of 256 channels at strides 8 to 128 from a backbone's last three."""

    def __init__(self, inputs: Sequence[int] = (512, 1024, 2048)) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, CHANNELS, 1) for channels in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in inputs)
        self.extra = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1) for _ in range(2))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, C, H, W] of three levels to five levels of 256 channels."""
        levels = [layer(x) for layer, x in zip(self.lateral, features, strict=True)]
        for level in (1, 0):
            size = levels[level].shape[2:]
            levels[level] = levels[level] + nn.functional.interpolate(levels[level + 1], size=size)
        levels = [layer(x) for layer, x in zip(self.smooth, levels, strict=True)]
        for layer in self.extra:
            levels.append(layer(levels[-1]))
        return levels


class DenseHead(nn.Module):
    """Two towers of four convolutions, shared by all levels; `box_values` numbers per box."""

    def __init__(self, classes: int, *, box_values: int, centred: bool, norm: Norm) -> None:
        super().__init__()
        self.class_tower, self.box_tower = (
            nn.Sequential(*(conv_norm(CHANNELS, CHANNELS, 3, norm=norm) for _ in range(4))) for _ in range(2)
        )
        self.classify = nn.Conv2d(CHANNELS, classes, 3, padding=1)
        self.box = nn.Conv2d(CHANNELS, box_values, 3, padding=1)
        self.centre = nn.Conv2d(CHANNELS, 1, 3, padding=1) if centred else None

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Five maps to {scores: [B, positions, classes], boxes: [B, positions, box_values], ...}."""
        classed = [self.class_tower(x) for x in levels]
        boxed = [self.box_tower(x) for x in levels]
        outputs = {
            "scores": _row([self.classify(x) for x in classed]),
            "boxes": _row([self.box(x) for x in boxed]),
        }
        if self.centre is not None:
            outputs["centredness"] = _row([self.centre(x) for x in boxed])
        return outputs


class Detector(nn.Module):
    """Backbone, pyramid, head."""

    def __init__(self, depths: Sequence[int], head: nn.Module) -> None:
        super().__init__()
        self.backbone = ResNet(depths)
        self.pyramid = Pyramid()
        self.head = head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to the head's maps."""
        outputs: dict[str, Tensor] = self.head(self.pyramid(self.backbone(x)[1:]))
        return outputs


def atss(classes: int = COCO) -> nn.Module:
    """ATSS on ResNet-101."""
    return _detector(RESNET_101, DenseHead(classes, box_values=4, centred=True, norm=group_norm))


def gfl(classes: int = COCO, bins: int = 17) -> nn.Module:
    """GFL on ResNet-101: each side of a box is a distribution over `bins` distances."""
    return _detector(RESNET_101, DenseHead(classes, box_values=4 * bins, centred=False, norm=group_norm))


def fsaf(classes: int = COCO) -> nn.Module:
    """FSAF on ResNet-101: RetinaNet's towers without normalisation, one box per position."""
    return _detector(RESNET_101, DenseHead(classes, box_values=4, centred=False, norm=identity_norm))


def centernet(classes: int = COCO) -> nn.Module:
    """CenterNet with a pyramid on ResNet-50."""
    return _detector(RESNET_50, DenseHead(classes, box_values=4, centred=False, norm=group_norm))


def _detector(depths: Sequence[int], head: nn.Module) -> nn.Module:
    return calibrate(Detector(depths, head), CALIBRATION)


def _row(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)
