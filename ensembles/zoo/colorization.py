"""Colourisation: a grey frame to a distribution over 313 colours at a quarter of the size.

Written from Zhang, Isola, Efros: "Colorful Image Colorization", ECCV 2016: a VGG-like network with dilated
convolutions.
"""

from __future__ import annotations

from torch import nn

from ensembles.zoo.liveliness import calibrate

# Per group: channels, convolutions, stride of the last one, dilation.
GROUPS = (
    (64, 2, 2, 1),
    (128, 2, 2, 1),
    (256, 3, 2, 1),
    (512, 3, 1, 1),
    (512, 3, 1, 2),
    (512, 3, 1, 2),
    (512, 3, 1, 1),
)
COLOURS = 313
CALIBRATION = (1, 128, 128)


def colorizer() -> nn.Module:
    """[B, 1, H, W], the lightness, to logits [B, 313, H / 4, W / 4]."""
    layers: list[nn.Module] = []
    inputs = 1
    for channels, count, stride, dilation in GROUPS:
        for index in range(count):
            last = index == count - 1
            layers += [
                nn.Conv2d(
                    inputs, channels, 3, stride=stride if last else 1, padding=dilation, dilation=dilation
                ),
                nn.ReLU(),
            ]
            inputs = channels
        layers.append(nn.BatchNorm2d(channels))
    layers += [
        nn.ConvTranspose2d(inputs, 256, 4, stride=2, padding=1),
        nn.ReLU(),
        *(layer for _ in range(2) for layer in (nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())),
        nn.Conv2d(256, COLOURS, 1),
    ]
    return calibrate(nn.Sequential(*layers), CALIBRATION)
