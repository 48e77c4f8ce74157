"""CNNs of the pytorchcv package at any input size."""

from __future__ import annotations

import torch
from pytorchcv.model_provider import get_model

from ensembles.zoo.liveliness import calibrate


def classifier(name: str, size: int | None = None, classes: int = 1000) -> torch.nn.Module:
    """The classifier `name` ('resnet18', 'inceptionv3', ...) for images of size x size; None: its usual size.

    pytorchcv's networks end in average pooling of one fixed window; it is made to take whatever it is given.
    """
    arguments: dict[str, object] = {"pretrained": False, "num_classes": classes}
    if size is not None and _takes_size(name):
        arguments["in_size"] = (size, size)
    network: torch.nn.Module = get_model(name, **arguments)
    features = network.get_submodule("features")
    if isinstance(getattr(features, "final_pool", None), torch.nn.AvgPool2d):
        features.add_module("final_pool", torch.nn.AdaptiveAvgPool2d(1))
    height, width = (size, size) if size is not None else tuple(getattr(network, "in_size", (224, 224)))
    return calibrate(network, (3, height, width))


def _takes_size(name: str) -> bool:
    # EfficientNets check that the size is the one they were made for, and adapt to any.
    return not name.startswith("efficientnet")
